"""The executor with real child processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.execute.executor import execute
from runner.execute.run_folder import last_state
from tests.runner.execute.small_plans import WRITE, events, start, states, step


def test_second_run_makes_nothing(tmp_path: Path) -> None:
    plan = {"store": str(tmp_path / "store"), "steps": [step(tmp_path / "store", "convert", WRITE)]}
    assert execute(plan, tmp_path / "one") == 0
    assert execute(plan, tmp_path / "two") == 0
    assert states(tmp_path / "one") == [("convert", "begun"), ("convert", "finished")]
    assert states(tmp_path / "two") == [("convert", "begun"), ("convert", "cached")]
    assert (tmp_path / "two" / "artifacts" / "convert" / "made").read_text() == "x"


def test_a_run_that_is_started_again_leaves_its_links_alone(tmp_path: Path) -> None:
    plan = {"store": str(tmp_path / "store"), "steps": [step(tmp_path / "store", "convert", WRITE)]}
    links = []
    for _ in range(2):
        assert execute(plan, tmp_path / "run") == 0
        links.append((tmp_path / "run" / "artifacts" / "convert").lstat())
    assert links[0].st_ctime_ns == links[1].st_ctime_ns, "gc, or a server, may read it at any time"


def test_failed_step_publishes_nothing_and_ends_the_run(tmp_path: Path) -> None:
    store = tmp_path / "store"
    broken = step(store, "train", WRITE + "; print('no luck'); sys.exit(2)")
    plan = {"store": str(store), "steps": [broken, step(store, "export", WRITE)]}
    assert execute(plan, tmp_path / "run") == 2
    assert not (store / "objects").exists()
    assert "no luck" in events(tmp_path / "run")[-2]["reason"]
    assert ("export", "begun") not in states(tmp_path / "run")


def test_of_a_plan_in_parts_only_the_last_ends_the_run(tmp_path: Path) -> None:
    store = tmp_path / "store"
    plan = {"store": str(store), "steps": [step(store, "convert", WRITE), step(store, "train", WRITE)]}
    for stages, last in (([], "started"), (["convert"], "started"), (["train"], "finished")):
        assert execute(plan, tmp_path / "run", stages) == 0
        assert last_state(tmp_path / "run") == last
    assert [stage for stage, state in states(tmp_path / "run") if state == "finished"] == ["convert", "train"]


def test_only_a_resumable_step_finds_what_it_left(tmp_path: Path) -> None:
    store = tmp_path / "store"
    code = (
        "import sys, pathlib; f = pathlib.Path(sys.argv[1], 'made'); seen = f.exists(); f.touch(); sys.exit(not seen)"
    )
    for resumable, expected in ((True, 0), (False, 1)):
        plan = {"store": str(store), "steps": [step(store, "train", code, key=f"k{resumable}", resumable=resumable)]}
        assert execute(plan, tmp_path / f"a{resumable}") == 1
        assert execute(plan, tmp_path / f"b{resumable}") == expected


def test_uncached_step_runs_every_time_and_leaves_its_output_with_the_run(tmp_path: Path) -> None:
    store = tmp_path / "store"
    plan = {"store": str(store), "steps": [step(store, "serve", WRITE, cached=False)]}
    for name in ("one", "two"):
        assert execute(plan, tmp_path / name) == 0
        assert states(tmp_path / name)[-1] == ("serve", "finished")
        assert (tmp_path / name / "artifacts" / "serve" / "made").is_file()
    assert not (store / "objects").exists()


def test_two_runs_make_an_artifact_once(tmp_path: Path) -> None:
    store, count = tmp_path / "store", tmp_path / "count"
    slow = step(store, "convert", WRITE + f"; open({str(count)!r}, 'a').write('x'); input_ = sum(range(10**7))")
    runs = [start(tmp_path / name, {"store": str(store), "steps": [slow]}) for name in ("one", "two")]
    assert [run.wait(60) for run in runs] == [0, 0]
    assert count.read_text() == "x"


def test_a_plan_in_parts_is_finished_by_the_last(tmp_path: Path) -> None:
    store, run = tmp_path / "store", tmp_path / "run"
    plan = {"store": str(store), "steps": [step(store, name, WRITE) for name in ("convert", "train", "export")]}
    assert start(run, plan, "--steps", "convert,train").wait() == 0
    assert [event["state"] for event in events(run) if event["event"] == "run"] == ["started"]
    assert start(run, plan, "--steps", "export").wait() == 0
    assert [event["state"] for event in events(run) if event["event"] == "run"] == ["started", "started", "finished"]


def test_a_step_keeps_the_cores_that_it_was_granted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = tmp_path / "store"
    code = "import os; print(os.environ['NEURON_RT_VISIBLE_CORES'], os.environ['NEURON_RT_ROOT_COMM_ID'])"
    one = {**step(store, "train", code), "cores": {"count": 2, "of": 32, "wait": False}}
    one["env"] = {"NEURON_RT_ROOT_COMM_ID": "localhost:48620"}
    monkeypatch.setenv("NEURON_RT_VISIBLE_CORES", "6,7")
    assert execute({"store": str(store), "steps": [one]}, tmp_path / "run") == 0
    assert (tmp_path / "run" / "logs" / "train.log").read_text() == "6,7 localhost:48626\n"


def test_secrets_reach_the_steps_and_leave_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "to be replaced")
    run = tmp_path / "run"
    run.mkdir()
    (run / "secrets.json").write_text('{"HF_TOKEN": "hf_secret"}')
    one = step(tmp_path / "store", "fetch", "import os; assert os.environ['HF_TOKEN'] == 'hf_secret'")
    one["argv"].append("--hub")
    assert execute({"store": str(tmp_path / "store"), "steps": [one]}, run) == 0
    assert not (run / "secrets.json").exists()


def test_a_cancelled_run_does_not_begin(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "cancelled").touch()
    assert start(run, {"store": str(tmp_path / "store"), "steps": [step(tmp_path, "train", WRITE)]}).wait() == 130
    assert not (run / "events.jsonl").exists()


def test_json_results_are_copied_into_the_record(tmp_path: Path) -> None:
    store = tmp_path / "store"
    one = step(store, "train", "import pathlib, sys; pathlib.Path(sys.argv[1], 'training.json').write_text('{}')")
    assert execute({"store": str(store), "steps": [one]}, tmp_path / "run") == 0
    assert (tmp_path / "run" / "results" / "train" / "training.json").read_text() == "{}"


def test_a_damaged_artifact_is_set_aside_and_made_again(tmp_path: Path) -> None:
    store = tmp_path / "store"
    plan = {"store": str(store), "steps": [step(store, "convert", WRITE)]}
    assert execute(plan, tmp_path / "one") == 0
    (store / "objects" / "convert-1" / "made").write_text("")
    assert execute(plan, tmp_path / "two") == 0
    assert states(tmp_path / "two") == [("convert", "begun"), ("convert", "finished")]
    [warning] = [event["message"] for event in events(tmp_path / "two") if event["event"] == "log"]
    assert warning.startswith("convert-1 in the store is damaged: made has 0 bytes, not 1; it was moved to ")
    assert (store / "objects" / "convert-1" / "made").read_text() == "x"


def test_a_run_that_cannot_even_record_its_end_says_why_in_one_line(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "events.jsonl").symlink_to("/dev/full")
    executor = start(run, {"store": str(tmp_path / "store"), "steps": [step(tmp_path / "store", "train", WRITE)]})
    output, _ = executor.communicate()
    assert (executor.returncode, output) == (1, f"{run}: No space left on device\n")
