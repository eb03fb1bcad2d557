"""The metrics of a run: their titles, how their values are written, and which direction is better."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Metric:
    """A metric's title; a `share` is a fraction of 1 and written in percent, `counted` if it is of right examples."""

    title: str
    share: bool = False
    more_is_better: bool = False
    counted: bool = False

    def text(self, value: float) -> str:
        """The value as it is shown."""
        return f"{value:.1%}" if self.share else f"{value:.4g}"

    def change(self, before: float, after: float) -> str:
        """The difference with its sign; that of shares in percentage points."""
        return f"{100 * (after - before):+.1f} points" if self.share else f"{after - before:+.4g}"

    def sort_key(self, value: float) -> float:
        """Sorts the best value first."""
        return -value if self.more_is_better else value

    def interval(self, value: float, examples: int) -> tuple[float, float] | None:
        """The 95 % confidence interval of a share of right examples; None of any other metric."""
        return wilson(value, examples) if self.counted and examples > 0 and 0 <= value <= 1 else None


def wilson(share: float, examples: int) -> tuple[float, float]:
    """The 95 % Wilson interval of a share, which also holds on few examples and near 0 and 1.

    >>> [round(end, 3) for end in wilson(0.75, 16)]
    [0.505, 0.898]
    """
    z = 1.959964
    spread = z * math.sqrt(share * (1 - share) / examples + (z / (2 * examples)) ** 2)
    middle, scale = share + z**2 / (2 * examples), 1 + z**2 / examples
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)


EVALUATION = {
    "execution_accuracy": Metric("execution accuracy", share=True, more_is_better=True, counted=True),
    "exact_match": Metric("exact match", share=True, more_is_better=True, counted=True),
    "rouge_l": Metric("ROUGE-L", share=True, more_is_better=True),
    "loss": Metric("held-out loss"),
    "perplexity": Metric("perplexity"),
}
# Runs are ranked by the first of these in which they differ.
RANKING = {
    **{f"adapter.{name}": metric for name, metric in EVALUATION.items()},
    "train.eval_loss_end": Metric("held-out loss after training"),
    "train.loss": Metric("training loss"),
}


def compared(report: Mapping[str, Any]) -> list[tuple[Metric, float, float]]:
    """The metrics in the content of report.json, of the base model and of the adapter."""
    base, adapter = report["base"], report["adapter"]
    return [(metric, base[name], adapter[name]) for name, metric in EVALUATION.items() if name in base.keys() & adapter]


def decisive(metrics: Iterable[Mapping[str, float]]) -> str | None:
    """The metric to rank runs by, given the metrics of each run; None where no run has any."""
    runs = list(metrics)
    measured = [name for name in RANKING if any(math.isfinite(values.get(name, math.nan)) for values in runs)]
    differing = [name for name in measured if len({values.get(name) for values in runs}) > 1]
    return next(iter([*differing, *measured]), None)


def served(smoke: dict[str, Any]) -> str:
    """The content of smoke.json in words."""
    equal, prompts = smoke["equal_to_evaluation"], smoke["prompts"]
    rounded = smoke.get("as_evaluated", equal) - equal
    parts = [f"{equal} of {prompts} answers equal the evaluation's token for token"]
    if rounded:
        parts.append(f"{rounded} part from it at a near tie, by rounding")
    return ", ".join([*parts, f"{smoke['differs_from_base']} differ from the base model's"])


def duration(seconds: float) -> str:
    """Seconds as H:MM:SS, or M:SS below an hour.

    >>> duration(3723)
    '1:02:03'
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
