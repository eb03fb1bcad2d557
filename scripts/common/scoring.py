"""How near an answer comes to its reference, as text. Needs rouge-score."""

from __future__ import annotations

from functools import lru_cache
from typing import Any


def exact_match(answer: str, reference: str) -> bool:
    """Whether both are the same but for white space."""
    return answer.split() == reference.split()


def rouge_l(answer: str, reference: str) -> float:
    """ROUGE-L F-measure, 0 to 1: longest common subsequence of lower-case words (Lin, 2004), without stemming."""
    return _scorer().score(reference, answer)["rougeL"].fmeasure


@lru_cache(maxsize=1)
def _scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"])
