"""Which trials of a sweep go on, and how the others end."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from command_line import runner
from evaluating import a_trial, with_losses
from records import a_run, a_sweep

from runner import targets
from runner.commands.sweep import pruning
from runner.commands.sweep.pruning import Pruner
from runner.compose.recipe import compose
from runner.record import cost
from runner.record.runs import Run

PRUNER = Pruner(min_resource=5, reduction_factor=3)  # rungs after 5, 15 and 45 steps


@pytest.mark.parametrize(
    ("losses", "others", "goes_on"),
    [
        ({5: 2.0}, [], True),  # the first to reach a rung
        ({5: 2.0}, [{5: 1.0}], False),
        ({5: 1.0}, [{5: 1.0}], True),
        ({5: 2.0}, [{5: 1.0}, {5: 3.0}, {5: 3.0}, {5: 3.0}, {5: 3.0}], True),  # the second of six
        ({5: 2.0}, [{5: 1.0}, {5: 3.0}, {5: 3.0}, {5: 3.0}], False),  # the second of five
        ({4: 2.0}, [{4: 1.0}], True),  # before the first rung
        ({5: 1.0, 10: 9.0}, [{5: 2.0, 10: 3.0}], True),  # between two rungs
        ({5: 1.0, 15: 2.0}, [{5: 2.0}], True),  # the others have not come that far
        ({5: 1.0, 15: 2.0}, [{5: 2.0, 15: 1.0}], False),
        ({16: 2.0}, [{6: 1.0, 18: 1.5, 44: 3.0}], False),  # evaluated at other steps
        ({5: math.nan}, [], False),
        ({5: 9.0}, [{5: math.nan}], True),
    ],
)
def test_a_trial_goes_on_while_it_is_among_the_best_of_its_rung(losses: dict, others: list, goes_on: bool) -> None:
    assert (PRUNER.verdict(losses, others) is None) == goes_on


def test_a_trial_that_falls_behind_is_ended_and_says_why(tmp_path: Path) -> None:
    with_losses(a_trial(tmp_path, "sweep/000", []), {5: 1.0})
    run = a_trial(tmp_path, "sweep/001", ["2=9", "5=2"])
    assert watched(run) == "stopped"
    reason = "held-out loss 2.0000 at step 5: not among the best 1 of 2 trials, up to 1.0000"
    assert (run.state, run.prune_reason) == ("pruned", reason)
    assert cost.machine_hours(run) > 0
    for command in (["sweep"], ["compare", "sweep"], ["show", "sweep/001"], ["runs"]):
        assert "pruned" in runner(tmp_path, *command).stdout
    assert reason in runner(tmp_path, "sweep").stdout and reason in runner(tmp_path, "show", "sweep/001").stdout
    page = Path(runner(tmp_path, "report", "sweep/001").stdout.strip())
    assert reason in (tmp_path / page).read_text()


def test_the_last_evaluation_ends_no_trial(tmp_path: Path) -> None:
    with_losses(a_trial(tmp_path, "sweep/000", []), {5: 1.0})
    run = a_trial(tmp_path, "sweep/001", ["5=2", "last"])
    assert watched(run) == "finished"
    assert (run.state, run.prune_reason) == ("finished", None)


def watched(run: Run) -> str:
    """Start a trial and follow it to its end. Returns the state that it then has on its target."""
    target = targets.of_run(run)
    target.start(run, attached=False)
    list(pruning.watch(target.follow(run), run, PRUNER))
    return target.state(run)


def test_a_training_that_was_cached_counts_too(tmp_path: Path) -> None:
    a_sweep(tmp_path, "sweep")
    run = a_run(tmp_path, trial="sweep/000", evaluations=[[5, 0.5], [10, 0.25]])  # type: ignore[arg-type]
    assert pruning.held_out_losses(run) == {5: 0.5, 10: 0.25}


def test_the_first_rung_is_the_first_evaluation_unless_the_recipe_says_more() -> None:
    words = ["sweep.pruner=successive_halving", "train.eval_every=7"]
    assert pruning.pruner_of(compose("quickstart", words).recipe) == Pruner(7, 3)
    more = [*words, "sweep.min_resource=20", "sweep.reduction_factor=4"]
    assert pruning.pruner_of(compose("quickstart", more).recipe) == Pruner(20, 4)
    assert pruning.pruner_of(compose("quickstart").recipe) is None
