"""A training that is interrupted at random steps: what it lost by its events, and what came of it.

INTERRUPT_SEED chooses the steps; each test prints the one that it has used.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

from runner.execute import files
from runner.execute.run_folder import EVENTS

TRAINING = [
    "quickstart", "tp_size=2", "evaluate=none", "serve=none", "dataset.train_rows=100", "dataset.eval_rows=10",
    "dataset.seq_len=64", "train.batch_size=1", "train.max_steps=60",
]  # fmt: skip
_MOST = 15  # steps between two interruptions


def random_steps() -> Iterator[int]:
    """How many steps each attempt does before it is interrupted."""
    seed = int(os.environ.get("INTERRUPT_SEED") or secrets.randbelow(10**6))
    print(f"INTERRUPT_SEED={seed}")
    random = Random(seed)
    while True:
        yield random.randint(1, _MOST)


def events_of(folder: Path) -> Iterator[dict[str, Any]]:
    """The events of a run as they are written, without end."""
    yield from (json.loads(line) for line in files.tail(folder / EVENTS, 0, lambda: True) if line)


def until_steps(events: Iterator[dict[str, Any]], count: int) -> None:
    """Read events until `count` more steps are done."""
    steps = (event["at"] for event in events if _is_step(event))
    print(f"interrupted at step {[next(steps) for _ in range(count)][-1]}")


def until_started(events: Iterator[dict[str, Any]]) -> None:
    """Read events until the run is started again."""
    next(event for event in events if event["event"] == "run" and event["state"] == "started")


def lost_steps(folder: Path) -> list[int]:
    """How many steps were done again after each interruption."""
    attempts: list[list[int]] = []
    for event in map(json.loads, (folder / EVENTS).read_text().splitlines()):
        if event["event"] == "run" and event["state"] == "started":
            attempts.append([])
        elif _is_step(event):
            attempts[-1].append(event["at"])
    return [before[-1] + 1 - after[0] for before, after in pairwise(attempts)]


def adapter_digest(folder: Path) -> str:
    """The SHA-256 of a run's adapter."""
    return files.digest(folder / "artifacts" / "export" / "adapter" / "adapter_model.safetensors")


def _is_step(event: dict[str, Any]) -> bool:
    return event["event"] == "metric" and event["stage"] == "train" and "loss" in event["values"]
