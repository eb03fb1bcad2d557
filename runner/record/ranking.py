"""Ranks runs by a metric, best first."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from runner.compose.schema import Recipe
from runner.errors import RecipeError
from runner.metrics import RANKING, decisive
from runner.record.runs import Run

_OPTIONAL = {"execution_accuracy": "sql", "exact_match": "exact_match", "rouge_l": "rouge_l"}  # -> evaluate.metrics


@dataclass(frozen=True)
class Objective:
    """The metric that runs are ranked by."""

    metric: str
    direction: str

    def of(self, run: Run) -> float | None:
        """The value of a finished run; None if it was not measured."""
        return run.metrics().get(self.metric) if run.state == "finished" else None

    def text(self, value: float | None) -> str:
        """The metric's name and value as they are shown."""
        return "-" if value is None else f"{self.metric} {RANKING[self.metric].text(value)}"

    def sort_key(self, value: float | None) -> tuple[bool, float]:
        """Sorts the best value first, and runs without a value last."""
        if value is None or math.isnan(value):
            return True, 0.0
        return False, -value if self.direction == "maximize" else value

    def ranked(self, runs: Iterable[Run]) -> list[Run]:
        """Runs with the best first, and those without a value by name."""
        return sorted(runs, key=lambda run: (self.sort_key(self.of(run)), run.name))


def objective(recipe: Recipe) -> Objective:
    """The recipe's sweep.objective, by default the first metric of RANKING that it measures. Raises RecipeError."""
    measured = [metric for metric in RANKING if _measures(recipe, metric)]
    metric = recipe.sweep.objective or measured[0]
    if metric not in measured:
        raise RecipeError(f"sweep.objective: this recipe does not measure {metric}; choose from {', '.join(measured)}")
    return Objective(metric, recipe.sweep.direction or _usual_direction(metric))


def rank(runs: Sequence[Run]) -> tuple[Objective | None, list[tuple[Run, Mapping[str, float]]]]:
    """The objective (None where no run was measured), and the runs with their metrics, best first.

    Trials are ranked by the objective of their sweep, other runs by the first metric in which they differ.
    """
    measured = [(run, run.metrics()) for run in runs]
    by = _common_objective(runs)
    if not by or all(by.sort_key(metrics.get(by.metric))[0] for _, metrics in measured):
        by = _decisive([metrics for _, metrics in measured])

    def sort_key(entry: tuple[Run, Mapping[str, float]]) -> tuple[tuple[bool, float], float]:
        metrics = entry[1]
        return by.sort_key(metrics.get(by.metric)) if by else (True, 0.0), metrics.get("adapter.loss", math.inf)

    return by, sorted(measured, key=sort_key)


def _common_objective(runs: Sequence[Run]) -> Objective | None:
    """The objective of the runs' sweeps, if all are trials and have the same one."""
    sweeps = [run.sweep for run in runs]
    objectives = {Objective(sweep["objective"], sweep["direction"]) if sweep else None for sweep in sweeps}
    return objectives.pop() if len(objectives) == 1 else None


def _decisive(metrics: Sequence[Mapping[str, float]]) -> Objective | None:
    metric = decisive(metrics)
    return Objective(metric, _usual_direction(metric)) if metric else None


def _usual_direction(metric: str) -> str:
    return "maximize" if RANKING[metric].more_is_better else "minimize"


def _measures(recipe: Recipe, metric: str) -> bool:
    side, _, name = metric.partition(".")
    if side != "adapter":
        return True
    return recipe.evaluate.enabled and (name not in _OPTIONAL or _OPTIONAL[name] in recipe.evaluate.metrics)
