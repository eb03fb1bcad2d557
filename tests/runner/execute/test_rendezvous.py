"""The nodes of a step find each other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runner.execute.rendezvous import Rendezvous, node_environment
from tests.runner.execute.small_plans import WRITE, start, step

# Each node waits for the file of the other.
TOGETHER = """
import os, pathlib, sys, time
out = pathlib.Path(sys.argv[1])
(out / os.environ["PET_NODE_RANK"]).touch()
while len(list(out.glob("[01]"))) < 2:
    time.sleep(0.01)
print(os.environ["PET_NODE_RANK"], os.environ["PET_MASTER_ADDR"])
"""


def test_nodes_start_a_step_together_and_know_their_rank(tmp_path: Path) -> None:
    store, run = tmp_path / "store", tmp_path / "run"
    train = {**step(store, "train", TOGETHER), "nodes": 2}
    plan = {"store": str(store), "steps": [step(store, "convert", WRITE), train, step(store, "export", WRITE)]}
    (run / "logs").mkdir(parents=True)
    (run / "nodes.json").write_text(json.dumps({"stage": "train", "host": "old", "attempt": "7.0"}))  # before a requeue
    other = start(run, plan, "--node", "1", "--attempt", "7.1")
    first = start(run, plan, "--attempt", "7.1")
    assert (first.wait(), other.wait()) == (0, 0), other.communicate()
    (rank, host), (other_rank, other_host) = (
        (run / "logs" / name).read_text().split() for name in ("train.log", "train.node-1.log")
    )
    assert (rank, other_rank) == ("0", "1")
    assert host == other_host != "old"


def test_stages_are_announced_until_none_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNNER_NODE_NAME", "node-a")
    first, other = Rendezvous(tmp_path / "nodes.json", "1"), Rendezvous(tmp_path / "nodes.json", "1")
    assert first.announce("train") == node_environment(0, "node-a")
    announced = other.announced()
    assert next(announced) == ("train", "node-a")
    first.close()
    assert list(announced) == []
