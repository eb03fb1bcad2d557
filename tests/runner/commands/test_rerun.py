"""What `runner rerun` refuses, and how it compares. Real repetitions are in tests/integration/test_rerun.py."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from records import a_run
from rich.console import Console

from runner.commands import rerun
from runner.errors import RecipeError
from runner.record.runs import Run

CONSOLE = Console(file=io.StringIO())


def change(run: Run, file: str, **values: object) -> Run:
    """The run with other values at the top of a JSON file of its record."""
    path = run.folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    return Run(run.folder)


def test_a_changed_program_or_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="changed since the run: program or input of train; use --force") as refused:
        rerun.rerun(a_run(tmp_path), CONSOLE, force=False)
    assert "\n" not in str(refused.value)


def test_a_changed_version_is_refused(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    packages = {**run.manifest["packages"], "numpy": "0.1"}
    with pytest.raises(RecipeError, match=r"numpy 0\.1 -> \d"):
        rerun.rerun(change(run, "manifest.json", packages=packages), CONSOLE, force=False)


def test_a_run_of_another_machine_is_refused_even_by_force(tmp_path: Path) -> None:
    run = a_run(tmp_path, "target=ssh", "target.host=me@there")
    with pytest.raises(RecipeError, match="only runs of this machine can be rerun"):
        rerun.rerun(run, CONSOLE, force=True)


@pytest.mark.parametrize(
    ("loss", "seconds", "status", "line"),
    [
        (0.25, 9.0, 0, "Reproduced: all 1 metrics equal"),
        (0.251, 1.0, 1, "train.loss: 0.25 before, 0.251 now"),
    ],
)
def test_metrics_but_not_times_must_be_equal(
    tmp_path: Path, loss: float, seconds: float, status: int, line: str
) -> None:
    before = a_run(tmp_path, loss=0.25, seconds=1.0)
    after = a_run(tmp_path, key="train-2", loss=loss, seconds=seconds)
    output = io.StringIO()
    assert rerun._compare(before, after, Console(file=output, width=160)) == status
    assert line in output.getvalue()
