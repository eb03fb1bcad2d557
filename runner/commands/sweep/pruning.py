"""Ends the trials of a sweep that fall behind, by asynchronous successive halving (Li et al. 2018, arXiv:1810.05934).

A trial is judged at rungs: at its first evaluation after `min_resource` optimizer steps, then after `reduction_factor`
times as many, and so on. It goes on if its held-out loss is among the best 1/`reduction_factor` of all trials that have
reached that rung so far. No trial waits for another one, so the first to reach a rung always goes on. The losses are
read from the records of the trials, wherever these run, and a trial is ended as `runner cancel` would end it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runner import targets
from runner.compose.schema import Recipe
from runner.errors import RecipeError
from runner.execute.run_folder import PRUNED, parse_event
from runner.record import runs, training_curve
from runner.record.runs import Run

Losses = Mapping[int, float]  # held-out losses by optimizer step


@dataclass(frozen=True)
class Pruner:
    """The rule. `min_resource` is in optimizer steps, as in Optuna's SuccessiveHalvingPruner."""

    min_resource: int
    reduction_factor: int

    def verdict(self, losses: Losses, others: Iterable[Losses]) -> str | None:
        """Why a trial should end after the last of its evaluations; None if it goes on."""
        step = max(losses)
        rung = self._rung(step)
        own = self._at_rungs(losses)
        if rung not in own or any(self._rung(earlier) == rung for earlier in losses if earlier < step):
            return None
        rivals = [at_rungs[rung] for at_rungs in map(self._at_rungs, others) if rung in at_rungs]
        ranked = sorted([own[rung], *rivals], key=_nan_last)
        kept = max(len(ranked) // self.reduction_factor, 1)
        limit = ranked[kept - 1]
        if own[rung] <= limit:
            return None
        best = f"not among the best {kept} of {len(ranked)} trials, up to {limit:.4f}"
        return f"held-out loss {own[rung]:.4f} at step {step}: {best}"

    def _rung(self, step: int) -> int:
        """The number of the last rung up to a step; -1 before the first one."""
        rung, start = -1, self.min_resource
        while start <= step:
            rung, start = rung + 1, start * self.reduction_factor
        return rung

    def _at_rungs(self, losses: Losses) -> dict[int, float]:
        """The loss at each rung: of the first evaluation from there on, before the next rung."""
        first: dict[int, float] = {}
        for step in sorted(losses):
            first.setdefault(self._rung(step), losses[step])
        first.pop(-1, None)
        return first


def _nan_last(loss: float) -> float:
    return math.inf if math.isnan(loss) else loss


def pruner_of(recipe: Recipe) -> Pruner | None:
    """The pruner of a trial, if its sweep has one. Raises RecipeError where nothing is evaluated while training."""
    if recipe.sweep.pruner == "none":
        return None
    if not recipe.train.eval_every:
        raise RecipeError("sweep.pruner: it compares held-out losses while training; set train.eval_every, such as 50")
    return Pruner(recipe.sweep.min_resource or recipe.train.eval_every, recipe.sweep.reduction_factor)


def watch(lines: Iterable[bytes], run: Run, pruner: Pruner) -> Iterator[bytes]:
    """Pass the event stream of a trial on, and end the trial when it falls behind the others in its sweep's folder."""
    losses: dict[int, float] = {}
    done = total = 0
    for line in lines:
        yield line
        event = parse_event(line) or {"event": ""}
        if event["event"] == "progress":
            done, total = event["done"], event["total"]
        evaluation = _evaluation(event)
        losses.update(evaluation)
        if evaluation and (not total or done < total):  # nothing is saved after the last step
            reason = pruner.verdict(losses, _others(run))
            if reason:
                _prune(run, reason)


def _prune(run: Run, reason: str) -> None:
    """End a trial, by a connection of its own, and record why, unless it has ended by itself meanwhile."""
    if targets.of_run(run).cancel(run) == "stopped":
        (run.folder / PRUNED).write_text(reason + "\n", encoding="utf-8")


def _others(run: Run) -> Iterator[Losses]:
    """The held-out losses of the other trials, so far: their records are read when the first is asked for."""
    found = [trial for trial in runs.recorded(run.folder.parent) if trial.folder != run.folder]
    yield from runs.read_each(found, held_out_losses).values()


def held_out_losses(run: Run) -> dict[int, float]:
    """The held-out losses of a training so far, also of one that an earlier run did."""
    evaluations: Sequence[tuple[int, float]] | None = (run.result("train", "training.json") or {}).get("evaluations")
    if evaluations:
        return dict(evaluations)
    return {step: loss for event in run.events() for step, loss in _evaluation(event).items()}


def _evaluation(event: dict[str, Any]) -> dict[int, float]:
    """The held-out loss in an event by its step; empty for another event."""
    is_evaluation = training_curve.is_training_step(event) and "eval_loss" in event["values"]
    return {event["at"]: event["values"]["eval_loss"]} if is_evaluation else {}
