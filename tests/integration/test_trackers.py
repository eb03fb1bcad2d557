"""What each tracker was given, read back by its own library, from whole runs of the command."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from runner.compose.recipe import compose
from runner.record import runs, trackers, training_curve
from runner.record.runs import Run
from tests.runner.trained_run import trained_run

ROOT = Path(__file__).resolve().parents[2]
SHORT = ["train.max_steps=3", "evaluate=none", "serve=none", "tp_size=1"]


def tracked(folder: Path, kind: str, *overrides: str) -> tuple[Run, str]:
    """A run of the quickstart under a tracker, three steps long, and what it printed."""
    words = ["run", "quickstart", f"tracker={kind}", *SHORT, *overrides]
    done = subprocess.run(
        [sys.executable, "-m", "runner", *words],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return runs.every(folder / "runs")[-1], done.stdout


def losses(run: Run) -> dict[int, float]:
    return {at: values["loss"] for at, values in training_curve.steps(run).items()}


def needs(*packages: str) -> pytest.MarkDecorator:
    missing = [name for name in packages if find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {' '.join(missing)}")


@needs("mlflow", "sqlalchemy", "alembic")
def test_mlflow(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    run, _ = tracked(tmp_path, "mlflow", "train.lora.rank=4")
    again, _ = tracked(tmp_path, "mlflow", "train.lora.rank=4")  # all of it cached; the curve is there again
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "store"}
    client = MlflowClient(f"sqlite:///{tmp_path}/runs/mlflow.db")
    experiment = client.get_experiment_by_name("trainium-recipes")
    assert experiment is not None
    kept = {one.info.run_name: one for one in client.search_runs([experiment.experiment_id])}
    assert set(kept) == {run.name, again.name}
    for name in kept:
        one = kept[name]
        told = {point.step: point.value for point in client.get_metric_history(one.info.run_id, "train/loss")}
        assert told == pytest.approx(losses(run))
        assert one.info.status == "FINISHED"
        assert one.data.params["train.lora.rank"] == "4"
        assert one.data.tags["recipe"] == "quickstart"
        assert one.data.tags["git_commit"] == (run.manifest["git"] or {"commit": "none"})["commit"]
        assert "/store/objects/export-" in one.data.tags["mlflow.note.content"]
        assert one.data.metrics["train/eval_loss_end"] == pytest.approx(run.metrics()["train.eval_loss_end"])


@needs("mlflow", "sqlalchemy", "alembic")
def test_a_server_that_is_not_there_does_not_stop_a_run(tmp_path: Path) -> None:
    run, said = tracked(tmp_path, "mlflow", "tracker.uri='http://127.0.0.1:9'")
    assert said.count("tracker dropped, the run continues: MlflowException") == 1
    assert run.state == "finished"


ODD = {"prompt (en)?": "yes", "prompt (en)!": "no", "a//b": "x", "k" * 300: "long", "질문": "예", "": "nothing"}


@needs("mlflow", "sqlalchemy", "alembic")
def test_mlflow_takes_keys_that_it_refuses_under_other_names(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    told, client = told_of_odd_keys(tmp_path, "mlflow"), MlflowClient(f"sqlite:///{tmp_path}/runs/mlflow.db")
    [kept] = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    assert kept.info.run_name == told.name
    assert {"dataset.where.prompt _en__", "dataset.where.a__b", "dataset.where.질문"} <= set(kept.data.params)
    assert set(ODD.values()) <= set(kept.data.params.values())
    assert kept.data.metrics["adapter/execution_accuracy"] == 0.75


@needs("tensorboard")
def test_tensorboard_takes_any_key(tmp_path: Path) -> None:
    told_of_odd_keys(tmp_path, "tensorboard")


@needs("wandb")
def test_wandb_takes_any_key_and_a_long_name(tmp_path: Path) -> None:
    told_of_odd_keys(tmp_path, "wandb")


def told_of_odd_keys(folder: Path, kind: str) -> Run:
    """A run whose recipe has names of columns for keys, told to a tracker, which must not be given up."""
    run = trained_run(folder, f"tracker={kind}")
    path = run.folder / "recipe.yaml"
    recipe = yaml.safe_load(path.read_text())
    recipe["dataset"]["where"], recipe["name"] = ODD, "long name " * 9
    path.write_text(yaml.safe_dump(recipe, allow_unicode=True))
    run = Run(run.folder)
    settings = compose("quickstart", [f"tracker={kind}", f"paths.runs={folder}/runs"]).recipe.tracker
    with trackers.feed(trackers.of(settings), run, pytest.fail) as feed:
        assert list(feed.passing((run.folder / "events.jsonl").read_bytes().splitlines()))
    return run


@needs("tensorboard")
def test_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.metadata import SESSION_START_INFO_TAG, parse_session_start_info_plugin_data
    from tensorboard.util.tensor_util import make_ndarray

    run, _ = tracked(tmp_path, "tensorboard", "train.lora.rank=4")
    kept = EventAccumulator(str(tmp_path / "runs" / "tensorboard" / run.name))
    kept.Reload()

    def values(tag: str) -> dict[int, float]:
        return {point.step: make_ndarray(point.tensor_proto).item() for point in kept.Tensors(tag)}

    def text(tag: str) -> str:
        return make_ndarray(kept.Tensors(tag)[0].tensor_proto).item().decode()

    assert values("train/loss") == pytest.approx(losses(run))
    assert values("train/eval_loss_end")[0] == pytest.approx(run.metrics()["train.eval_loss_end"])
    assert text("recipe") == "quickstart"
    assert "/store/objects/export-" in text("notes")
    parameters = kept.SummaryMetadata(SESSION_START_INFO_TAG).plugin_data.content
    assert parse_session_start_info_plugin_data(parameters).hparams["train.lora.rank"].number_value == 4


@needs("wandb")
def test_wandb_offline(tmp_path: Path) -> None:
    from wandb.proto.wandb_internal_pb2 import Record

    run, _ = tracked(tmp_path, "wandb", "train.lora.rank=4")
    file = next((tmp_path / "runs" / "wandb").glob("offline-run-*/run-*.wandb"))
    records = [Record.FromString(message) for message in messages(file.read_bytes())]
    rows = [items(record.history.item) for record in records if record.WhichOneof("record_type") == "history"]
    assert {row["_step"]: row["train/loss"] for row in rows} == pytest.approx(losses(run))
    about = [record.run for record in records if record.WhichOneof("record_type") == "run"]
    config = {item.key: json.loads(item.value_json) for item in about[0].config.update}
    assert config["train"]["lora"]["rank"] == 4
    assert config["manifest"]["recipe"] == "quickstart"
    assert "/store/objects/export-" in about[-1].notes
    final = [items(record.summary.update) for record in records if record.WhichOneof("record_type") == "summary"]
    reached = {name: value for summary in final for name, value in summary.items()}
    assert reached["train/eval_loss_end"] == pytest.approx(run.metrics()["train.eval_loss_end"])


def messages(log: bytes) -> Iterator[bytes]:
    """The messages of a .wandb file, which wandb reads in its Go part alone: LevelDB's log format after 7 bytes.

    https://github.com/google/leveldb/blob/main/doc/log_format.md
    """
    block, header = 32768, struct.Struct("<IHB")
    at, whole = header.size, b""
    while at + header.size <= len(log):
        if block - at % block < header.size:
            at += block - at % block
            continue
        _, length, kind = header.unpack_from(log, at)
        whole += log[at + header.size : at + header.size + length]
        at += header.size + length
        if kind in (1, 4):  # a full message, or the last part of one
            yield whole
            whole = b""


def items(pairs) -> dict:
    return {pair.key or "/".join(pair.nested_key): json.loads(pair.value_json) for pair in pairs}
