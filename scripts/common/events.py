"""Progress, metrics and messages of a stage program, one JSON object per line.

The runner names a file in RUNNER_EVENTS. Other processes write to it too, so each line is a single appending write.
The events also go to stderr as text: to the terminal or, under the runner, to the stage's log, where progress lines
are less frequent.

    {"time": 1763760000.1, "stage": "train", "event": "progress", "done": 12, "total": 80, "unit": "step"}
    {"time": ..., "stage": "train", "event": "metric", "at": 12, "values": {"loss": 2.31, "learning_rate": 0.0004}}
    {"time": ..., "stage": "train", "event": "checkpoint", "at": 50}
    {"time": ..., "stage": "train", "event": "interrupted", "at": 57}
    {"time": ..., "stage": "train", "event": "log", "level": "warning", "message": "..."}
    {"time": ..., "stage": "serve", "event": "serving", "url": "http://127.0.0.1:8000", "models": ["base", "adapter"]}
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

_SECONDS_BETWEEN = 0.1  # a progress line costs a write, and a terminal needs no more than ten per second
_SECONDS_BETWEEN_LOGGED = 10.0  # a log is read afterwards
_last_progress = _last_logged = -_SECONDS_BETWEEN_LOGGED


def progress(done: int, total: int, unit: str = "step") -> None:
    """Report that `done` of `total` units are finished. Reports are rate-limited, except the last one."""
    global _last_progress, _last_logged
    now = time.monotonic()
    if done < total and now - _last_progress < _SECONDS_BETWEEN:
        return
    _last_progress = now
    shown = not _sink() or done >= total or now - _last_logged >= _SECONDS_BETWEEN_LOGGED
    _last_logged = now if shown else _last_logged
    _emit({"event": "progress", "done": done, "total": total, "unit": unit}, shown)


def metric(values: dict[str, float], at: int | None = None) -> None:
    """Report named numbers, `at` a training step if there is one."""
    _emit({"event": "metric", "at": at, "values": values})


def log(message: str, level: str = "info") -> None:
    """Report a message for the user; `level` is info, warning or error."""
    _emit({"event": "log", "level": level, "message": message})


def checkpoint(at: int) -> None:
    """Report that a checkpoint after step `at` is complete on disk."""
    _emit({"event": "checkpoint", "at": at})


def interrupted(at: int) -> None:
    """Report that a signal ended the work after step `at`, from which it resumes when it is started again."""
    _emit({"event": "interrupted", "at": at})


def serving(url: str, models: list[str], compiled: str | None = None) -> None:
    """Report that a server at `url` is ready for each of `models`; `compiled` names its compiled model, if any."""
    _emit({"event": "serving", "url": url, "models": models, **({"compiled": compiled} if compiled else {})})


def _sink() -> str | None:
    return os.environ.get("RUNNER_EVENTS")


def _emit(fields: dict[str, Any], shown: bool = True) -> None:
    if shown:
        print(_as_text(fields), file=sys.stderr, flush=True)
    sink = _sink()
    if not sink:
        return
    line = json.dumps({"time": round(time.time(), 3), "stage": os.environ.get("RUNNER_STAGE", ""), **fields})
    descriptor = os.open(sink, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, line.encode() + b"\n")
    finally:
        os.close(descriptor)


def _as_text(fields: dict[str, Any]) -> str:
    if fields["event"] == "progress":
        return f"{fields['done']}/{fields['total']} {fields['unit']}"
    if fields["event"] == "metric":
        numbers = " ".join(f"{name}={value:.6g}" for name, value in fields["values"].items())
        return numbers if fields["at"] is None else f"[{fields['at']}] {numbers}"
    if fields["event"] in ("checkpoint", "interrupted"):
        return f"{fields['event']} at step {fields['at']}"
    if fields["event"] == "serving":
        return f"serving at {fields['url']}, models: {', '.join(fields['models'])}"
    return f"{fields['level']}: {fields['message']}"
