from pathlib import Path

from runner import targets
from runner.cli import main
from runner.compose.recipe import compose
from runner.plan.model import Plan, Step
from runner.record import create


def test_a_run_on_an_unreachable_machine_is_shown_as_far_as_it_is_recorded(tmp_path: Path, capfd) -> None:
    words = ["target=ssh", "target.host=127.0.0.1:1", "sdk.train_python=python3"]
    composed = compose("quickstart", [*words, f"paths.runs={tmp_path}/runs"])
    step = Step("train", "train", "train-1", ("true",), {}, True, True)
    plan = targets.of(composed.recipe.target).assign(Plan("quickstart", "store", (step,)))
    run = create.create(composed, plan)
    assert main(["show", run.name, "--in", str(tmp_path / "runs")]) == 0
    out, err = capfd.readouterr()
    assert "train-1" in out
    assert f"{run.name}: shown as far as it is recorded here: target.host: 127.0.0.1:1: cannot be reached" in err
