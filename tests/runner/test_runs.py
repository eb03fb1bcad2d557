"""Records are found and read; they outlive what they made."""

from __future__ import annotations

import fcntl
import io
import shutil
from pathlib import Path

import pytest
from records import a_run
from rich.console import Console

from runner import listing, runs
from runner.errors import RecipeError
from runner.execute import LOCK


def test_a_run_is_found_by_its_name_a_part_of_it_its_folder_or_last(tmp_path: Path) -> None:
    first, second = a_run(tmp_path, "name=one"), a_run(tmp_path, "name=two", key="train-2")
    folder = tmp_path / "runs"
    assert runs.find("one", folder).name == first.name
    assert runs.find(second.name, folder).name == second.name
    assert runs.find(str(first.folder), Path("elsewhere")).name == first.name
    assert runs.find("last", folder).name == second.name
    with pytest.raises(RecipeError, match="2 runs are called so"):
        runs.find("-", folder)
    with pytest.raises(RecipeError, match="no such run"):
        runs.find("three", folder)


def test_figures_outlive_the_artifacts(tmp_path: Path) -> None:
    run = a_run(tmp_path, loss=0.25)
    shutil.rmtree(tmp_path / "store")
    assert run.metrics() == {"train.loss": 0.25}
    assert run.state == "finished"


def test_a_run_without_an_end_is_running_while_its_executor_lives(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    events = run.folder / "events.jsonl"
    events.write_text(events.read_text().splitlines(keepends=True)[0])
    assert run.state == "killed"
    with (run.folder / LOCK).open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert run.state == "running"


def test_a_line_that_is_being_written_is_not_read(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    before = list(run.events())
    with (run.folder / "events.jsonl").open("a") as stream:
        stream.write('{"event": "ru')
    assert list(run.events()) == before


def shown(write) -> str:
    console = Console(file=io.StringIO(), width=160)
    write(console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_comparison_is_best_first_with_the_keys_that_differ(tmp_path: Path) -> None:
    losses = {4: 0.5, 8: 0.25}
    several = [
        a_run(tmp_path, f"train.lora.rank={rank}", key=f"train-{rank}", eval_loss_end=loss)
        for rank, loss in losses.items()
    ]
    text = shown(lambda console: listing.compare(several, console))
    assert "train.lora.rank" in text and "train.epochs" not in text
    assert text.index("0.25") < text.index("0.5")


def test_listing_shows_overrides_and_figures(tmp_path: Path) -> None:
    a_run(tmp_path, "train.lora.rank=4", eval_loss_end=0.5)
    text = shown(lambda console: listing.runs(runs.every(tmp_path / "runs"), console))
    assert "train.lora.rank=4" in text and "held-out loss after training 0.5" in text and "finished" in text
