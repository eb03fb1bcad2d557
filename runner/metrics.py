"""The figures of a run: what they are called, how they are written, and which way is better."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Figure:
    """A figure's title; a `share` is a fraction of 1 and written in percent."""

    title: str
    share: bool = False
    more_is_better: bool = False

    def text(self, value: float) -> str:
        return f"{value:.1%}" if self.share else f"{value:.4g}"

    def change(self, before: float, after: float) -> str:
        """The difference with its sign; that of shares in percentage points."""
        return f"{100 * (after - before):+.1f} points" if self.share else f"{after - before:+.4g}"

    def best_first(self, value: float) -> float:
        """A key to sort by."""
        return -value if self.more_is_better else value


EVALUATION = {
    "execution_accuracy": Figure("execution accuracy", share=True, more_is_better=True),
    "exact_match": Figure("exact match", share=True, more_is_better=True),
    "rouge_l": Figure("ROUGE-L", share=True, more_is_better=True),
    "loss": Figure("held-out loss"),
    "perplexity": Figure("perplexity"),
}
# What runs are ranked by: the first of these in which they differ.
RANKING = {
    **{f"adapter.{name}": figure for name, figure in EVALUATION.items()},
    "train.eval_loss_end": Figure("held-out loss after training"),
    "train.loss": Figure("training loss"),
}


def decisive(metrics: Iterable[Mapping[str, float]]) -> str | None:
    """The figure to rank runs by, from the metrics of each; None where no run has any."""
    several = list(metrics)
    present = [name for name in RANKING if any(math.isfinite(one.get(name, math.nan)) for one in several)]
    telling = [name for name in present if len({one.get(name) for one in several}) > 1]
    return next(iter([*telling, *present]), None)


def served(smoke: dict[str, Any]) -> str:
    """What smoke.json says, as one sentence."""
    equal, prompts = smoke["equal_to_evaluation"], smoke["prompts"]
    rounded = smoke.get("as_evaluated", equal) - equal
    parts = [f"{equal} of {prompts} answers equal the evaluation's token for token"]
    if rounded:
        parts.append(f"{rounded} part from it at a near tie, by rounding")
    return ", ".join([*parts, f"{smoke['differs_from_base']} differ from the base model's"])


def duration(seconds: float) -> str:
    """Seconds as a person says them.

    >>> duration(3723)
    '1:02:03'
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
