"""A damaged record costs one line; the other runs are listed, shown, compared and reported as if it were not there."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import math
import operator
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from records import a_run, a_sweep

from runner import cli
from runner.commands import completion
from runner.commands.sweep.trial import is_finished
from runner.record import runs
from tests.runner.trained_run import trained_run

FILES = (
    "manifest.json", "plan.json", "recipe.yaml", "events.jsonl", "results/tokenize/statistics.json",
    "results/train/training.json", "results/evaluate/report.json",
)  # fmt: skip
OTHERS = (None, 3, "text", [], {}, [3], {"a": []}, [None], float("nan"))


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs and a trial."""
    folder = tmp_path_factory.mktemp("three")
    a_run(folder, "name=good", key="train-1", loss=0.5)
    trained_run(folder, "name=bad", key="2")
    a_sweep(folder, "one")
    trained_run(folder, key="3", trial="one/000")
    return folder


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every item of a nested value, as its container and key."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    own = [(value, key) for key, _ in items]
    return own + [place for container, key in own for place in places(container[key])]


def edited(path: Path, edit: Callable[[list[Any]], None]) -> None:
    """The file with a change of what it holds: a value, or one in each line."""
    load, dump = (yaml.safe_load, yaml.safe_dump) if path.suffix == ".yaml" else (json.loads, json.dumps)
    lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    values = [load(line) for line in lines]
    edit(values)
    path.write_text("".join(dump(value) + "\n" for value in values))


def rewritten(path: Path, change: Callable[[Any, Any], None], where: int) -> None:
    """The file with one of its values changed."""

    def edit(values: list[Any]) -> None:
        possible = places(values)
        change(*possible[where % len(possible)])

    edited(path, edit)


def put(container: Any, key: Any, value: Any) -> None:
    container[key] = value


def remove(container: Any, key: Any) -> None:
    del container[key]


DAMAGES = st.one_of(
    st.just(lambda path: path.unlink()),
    st.just(lambda path: path.write_bytes(b"")),
    st.integers(1, 4000).map(lambda n: lambda path: path.write_bytes(path.read_bytes()[:-n])),
    st.binary(min_size=1, max_size=40).map(lambda junk: lambda path: path.write_bytes(junk)),
    st.tuples(st.integers(0, 4000), st.binary(min_size=1, max_size=9)).map(
        lambda at: lambda path: path.write_bytes(path.read_bytes()[: at[0]] + at[1] + path.read_bytes()[at[0] :])
    ),
    st.integers(0, 500).map(lambda where: lambda path: rewritten(path, remove, where)),
    st.tuples(st.integers(0, 500), st.sampled_from(OTHERS)).map(
        lambda at: lambda path: rewritten(path, lambda container, key: put(container, key, at[1]), at[0])
    ),
)


def said(*argv: str) -> tuple[int, str, list[str]]:
    """Exit status, output and lines on stderr of a command."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = cli.main(argv)
    return status, out.getvalue(), err.getvalue().splitlines()


def setting(value: Any, *keys: Any) -> Callable[[Path], None]:
    """A damage: another value at one place of a file, or of its first line."""

    def edit(values: list[Any]) -> None:
        *outer, last = keys
        put(functools.reduce(operator.getitem, outer, values[0]), last, value)

    return lambda path: edited(path, edit)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(name="bad", file="manifest.json", damage=lambda path: path.unlink())
@example(name="bad", file="plan.json", damage=lambda path: path.write_bytes(b""))
@example(name="000", file="recipe.yaml", damage=lambda path: path.write_bytes(b"\xff"))
@example(name="bad", file="plan.json", damage=setting([], "steps", 0, "argv"))
@example(name="bad", file="plan.json", damage=setting(3, "where"))
@example(name="bad", file="manifest.json", damage=setting({}, "git"))
@example(name="bad", file="events.jsonl", damage=setting(math.nan, "time"))
@example(name="bad", file="results/tokenize/statistics.json", damage=setting(None, "eval"))
@example(name="bad", file="results/train/training.json", damage=setting(math.nan, "seconds"))
@example(name="bad", file="results/evaluate/report.json", damage=setting({}, "base"))
@example(name="bad", file="results/evaluate/report.json", damage=setting("text", "base", "loss"))
@example(name="bad", file="results/evaluate/report.json", damage=setting(3, "adapter", "exact_match"))
@given(name=st.sampled_from(["bad", "000"]), file=st.sampled_from(FILES), damage=DAMAGES)
def test_no_damage_of_one_record_breaks_a_command(three: Path, tmp_path: Path, name: str, file: str, damage) -> None:
    shutil.rmtree(tmp_path / "copy", ignore_errors=True)
    folder = shutil.copytree(three, tmp_path / "copy", symlinks=True) / "runs"
    [hit] = [run for run in runs.recorded(folder) if run.folder.name.endswith(name)]
    [good] = [run for run in runs.recorded(folder) if run.folder.name.endswith("good")]
    damage(hit.folder / file)
    among = ("--in", str(folder))
    for command, expected in (
        (("runs", *among), good.name),
        (("status", *among), ""),
        (("status", good.name, *among), good.name),
        (("show", good.name, *among), "finished"),
        (("show", "good", *among), "finished"),
        (("logs", "good", *among), ""),
        (("compare", str(folder), *among), good.name),
        (("report", str(folder), *among, "--output", str(tmp_path / "page.html")), "page.html"),
        (("serve", "--list", *among), "No servers"),
        (("gc", "--dry-run", "--gb", "0", *among, "--store", str(three / "store")), "train-1"),
    ):
        status, out, err = said(*command)
        assert status == 0 and expected in out.replace("\n", ""), (command, out, err)
        assert all(line.startswith("runner: ") and len(line) < 400 for line in err), (command, err)
    for command in (("show", hit.name), ("status", hit.name), ("compare", hit.name), ("report", hit.name), ("last",)):
        argv = ("show", "last") if command == ("last",) else command
        status, _, err = said(*argv, *among)
        assert status in (0, 2) and all(line.startswith("runner: ") for line in err), (command, err)
    assert good.name in completion.run_names("", type("Args", (), {"folder": folder})())
    is_finished(hit.folder)


def test_each_damaged_record_is_reported_once_with_its_file(three: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(three, tmp_path / "copy", symlinks=True) / "runs"
    [bad] = [run for run in runs.recorded(folder) if "bad" in run.name]
    (bad.folder / "plan.json").write_text('{"recipe": "quickstart", "store": "s", "steps": [{"stage": 3}]}')
    (bad.folder / "manifest.json").write_text("")
    _, out, err = said("runs", "--in", str(folder))
    assert "good" in out and "bad" not in out
    assert err == [
        f"runner: {bad.folder / 'manifest.json'}: is empty: the record is damaged; restore the file, or remove the "
        "folder of the run"
    ]
    status, _, err = said("show", bad.name, "--in", str(folder))
    assert (status, len(err)) == (2, 1) and str(bad.folder) in err[0]


def test_a_recipe_without_a_key_of_today_has_its_default(three: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(three, tmp_path / "copy", symlinks=True) / "runs"
    good = runs.find("good", folder)
    recipe = yaml.safe_load((good.folder / "recipe.yaml").read_text())
    del recipe["tracker"], recipe["target"]["fetch"]
    (good.folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    again = runs.Run(good.folder).recipe
    assert again["tracker"]["kind"] == "none" and again["target"]["fetch"] == good.recipe["target"]["fetch"]
