"""Records are found and read; they outlive what they made."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import pytest
import yaml
from records import a_run, a_sweep, start_at
from rich.console import Console

from runner.commands import records
from runner.errors import RecipeError
from runner.execute import files
from runner.execute.run_folder import LOCK
from runner.record import runs
from runner.record.runs import Run, Snapshot


def test_a_run_is_found_by_its_name_a_part_of_it_its_folder_or_last(tmp_path: Path) -> None:
    first, second = a_run(tmp_path, "name=one"), a_run(tmp_path, "name=two", key="train-2")
    folder = tmp_path / "runs"
    assert runs.find("one", folder).name == first.name
    assert runs.find(second.name, folder).name == second.name
    assert runs.find(str(first.folder), Path("elsewhere")).name == first.name
    assert runs.find("last", folder).name == second.name
    with pytest.raises(RecipeError, match='"-" matches 2 runs: '):
        runs.find("-", folder)
    with pytest.raises(RecipeError, match="no such run"):
        runs.find("three", folder)


def test_last_is_the_run_that_started_last_whatever_it_is_called(tmp_path: Path, capsys) -> None:
    a_sweep(tmp_path, "sql-1")
    trial = start_at(a_run(tmp_path, trial="sql-1/000", loss=0.1), "2026-11-25T10:00:00+0000")
    newest = start_at(a_run(tmp_path, "name=a"), "2026-11-25T19:00:00.250+09:00")
    before = start_at(a_run(tmp_path, "name=z"), "2026-11-25T09:59:59.900+0000")
    folder = tmp_path / "runs"
    assert [run.name for run in runs.every(folder)] == [before.name, trial.name, newest.name]
    assert runs.find("last", folder).name == newest.name
    assert capsys.readouterr().err == f"runner: last is {newest.name}\n"


def test_a_trial_is_called_by_its_sweep(tmp_path: Path) -> None:
    for sweep in ("sql-1", "sql-2"):
        a_sweep(tmp_path, sweep)
        a_run(tmp_path, trial=f"{sweep}/001", key=f"train-{sweep}")
    folder = tmp_path / "runs"
    assert runs.find("sql-2/001", folder).folder == folder / "sweeps" / "sql-2" / "001"
    assert runs.find(str(folder / "sweeps" / "sql-1" / "001"), folder).name == "sql-1/001"
    with pytest.raises(RecipeError, match='"001" matches 2 runs: sql-1/001, sql-2/001'):
        runs.find("001", folder)
    assert [run.name for run in runs.find_all("sql-2", folder)] == ["sql-2/001"]


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
        files.lock(lock)
        assert run.state == "running"


def test_a_line_that_is_being_written_is_not_read(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    before = list(run.events())
    with (run.folder / "events.jsonl").open("a") as stream:
        stream.write('{"event": "ru')
    assert list(run.events()) == before


def test_a_record_with_an_old_key_is_read_under_the_new_one(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    recipe = yaml.safe_load((run.folder / "recipe.yaml").read_text())
    recipe["train"]["nxd"]["compile_cache"] = "s3://cache"
    del recipe["train"]["compile_cache"]
    (run.folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert Run(run.folder).typed_recipe().train.compile_cache == "s3://cache"


def test_a_record_with_an_unknown_key_says_what_to_do(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    with (run.folder / "recipe.yaml").open("a") as recipe:
        recipe.write("later: 1\n")
    with pytest.raises(RecipeError, match=r"recipe.yaml: later: no such key.*check that version out") as refused:
        Run(run.folder).typed_recipe()
    assert "\n" not in str(refused.value)


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
    text = shown(lambda console: records.compare(several, console))
    assert "train.lora.rank" in text and "train.epochs" not in text
    assert text.index("0.25") < text.index("0.5")


def test_figures_of_two_sweeps_never_mix(tmp_path: Path) -> None:
    for sweep, loss in (("one", 0.5), ("two", 0.25)):
        a_sweep(tmp_path, sweep)
        a_run(tmp_path, trial=f"{sweep}/000", key=f"train-{sweep}", eval_loss_end=loss)
    text = shown(lambda console: records.compare(runs.every(tmp_path / "runs"), console))
    rows = [line.split() for line in text.splitlines() if "/000" in line]
    assert [(row[0], row[-1]) for row in rows] == [("two/000", "0.25"), ("one/000", "0.5")]


def test_a_sweep_is_ranked_by_its_objective(tmp_path: Path) -> None:
    a_sweep(tmp_path, "one", "train.loss", "maximize")
    for number, (loss, end) in enumerate([(0.5, 0.1), (0.75, 0.2), (0.25, 0.3)]):
        a_run(tmp_path, trial=f"one/00{number}", key=f"train-{number}", loss=loss, eval_loss_end=end)
    text = shown(lambda console: records.compare(runs.every(tmp_path / "runs"), console))
    assert [line.split()[0] for line in text.splitlines() if "one/" in line] == ["one/001", "one/000", "one/002"]


def test_listing_shows_overrides_and_figures(tmp_path: Path) -> None:
    a_run(tmp_path, "train.lora.rank=4", eval_loss_end=0.5)
    text = shown(lambda console: records.runs(runs.every(tmp_path / "runs"), console))
    assert "train.lora.rank=4" in text and "held-out loss after training 0.5" in text and "finished" in text


def test_a_snapshot_keeps_the_events_of_its_moment_and_chooses_among_them(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    snapshot = Snapshot(run.folder)
    kept = list(snapshot.events())
    assert list(snapshot.events("run")) == list(run.events("run")) != kept
    (run.folder / "events.jsonl").write_text("")
    assert list(snapshot.events()) == kept and not list(run.events())
