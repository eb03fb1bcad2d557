"""Shows the progress of a run from its event stream: numbered stages, a bar with an ETA for the current one."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

from runner.commands.tables import say
from runner.execute.run_folder import parse_event
from runner.plan.model import Step

_INDENT = " " * 6  # of what is said below the title of a step
_WIDE = 120  # columns that hold a long bar and the speed as well
_ONE_LINE = Column(no_wrap=True)


@dataclass
class StageProgress:
    """How far the last stage of a run is; `total` is 0 and the others None where the stage has not reported them."""

    stage: str = ""
    done: int = 0
    total: int = 0
    unit: str = ""
    loss: float | None = None
    seconds_left: float | None = None


def last_progress(events: Iterable[dict[str, Any]]) -> StageProgress:
    """The progress of the last stage in the events of a run. The time left is counted from its last event."""
    current, first = StageProgress(), {}
    for event in events:
        if event["event"] == "step":
            if event["stage"] != current.stage or event["state"] == "begun":
                current, first = StageProgress(event["stage"]), {}
        elif event["event"] == "progress":
            first = first or event
            current.done, current.total, current.unit = event["done"], event["total"], event["unit"]
            current.seconds_left = _seconds_left(first, event)
        elif event["event"] == "metric":
            current.loss = event["values"].get("loss", current.loss)
    return current


def _seconds_left(first: dict[str, Any], last: dict[str, Any]) -> float | None:
    """At the average speed between two events of a stage; None as long as they are one."""
    done = last["done"] - first["done"]
    return (last["total"] - last["done"]) * (last["time"] - first["time"]) / done if done > 0 else None


class Follower:
    """Prints events for people, and keeps the outcome.

    `seconds` holds the duration of each stage, `cached` the stages that were cached, `reason` why the run failed;
    `serving` tells whether a server has reported that it answers.
    """

    def __init__(self, steps: Sequence[Step], console: Console):
        self._titles = {step.stage: f"[{n}/{len(steps)}] {step.title}" for n, step in enumerate(steps, 1)}
        self._console = console
        self._milestones = _Milestones()
        self.seconds: dict[str, float] = {}
        self.cached: set[str] = set()
        self.serving = False
        self.state, self.reason, self.failed_stage, self.status = "killed", "the executor was killed", "", 0

    def follow(self, lines: Iterable[bytes]) -> None:
        """Show each event of a stream of JSON lines until it ends."""
        with self._bar() as self._progress:
            self._task = self._progress.add_task("", total=None, numbers="")
            for line in lines:
                event = parse_event(line)
                if event:
                    getattr(self, f"_on_{event['event']}", self._on_other)(event)

    def _bar(self) -> Progress:
        columns: list[ProgressColumn] = [
            _Title(), BarColumn(bar_width=24 if self._is_wide else 8), _Count(_ONE_LINE), TimeRemainingColumn(),
            TextColumn("{task.fields[numbers]}", style="dim", table_column=_ONE_LINE),
        ]  # fmt: skip
        return Progress(*columns, console=self._console, transient=True, disable=not self._console.is_terminal)

    @property
    def _is_wide(self) -> bool:
        return self._console.width >= _WIDE

    def _on_other(self, event: dict[str, Any]) -> None:
        """Not shown: a checkpoint, until a training resumes from it, and what another version reports."""

    def _on_run(self, event: dict[str, Any]) -> None:
        self.state, self.status = event["state"], event.get("status", 0)
        if self.state == "stopped":
            self.reason = "it was stopped"
        elif self.state == "interrupted":
            self.reason = "it was interrupted; run the same command to resume"
            self._print("Interrupted, as by a time limit. The run resumes when it is started again.", "yellow")

    def _on_step(self, event: dict[str, Any]) -> None:
        getattr(self, f"_on_step_{event['state']}")(event, self._titles.get(event["stage"], event["stage"]))

    def _on_step_begun(self, event: dict[str, Any], title: str) -> None:
        self._progress.remove_task(self._task)  # resetting it would keep the total of the step before
        self._task = self._progress.add_task(title, total=None, numbers="")
        self._milestones.begin()

    def _on_step_waiting(self, event: dict[str, Any], title: str) -> None:
        self._print(f"{title}: waiting for {event['holder']}", "yellow")

    def _on_step_cached(self, event: dict[str, Any], title: str) -> None:
        self.cached.add(event["stage"])
        self._print(f"{title:<66} cached", "green")

    def _on_step_finished(self, event: dict[str, Any], title: str) -> None:
        self.seconds[event["stage"]] = event["seconds"]
        self._print(f"{title:<66} {event['seconds']:5.1f} s", "green")

    def _on_step_failed(self, event: dict[str, Any], title: str) -> None:
        self.reason, self.failed_stage = event["reason"], event["stage"]

    def _on_progress(self, event: dict[str, Any]) -> None:
        self._progress.update(self._task, completed=event["done"], total=event["total"], unit=event["unit"])
        if not self._console.is_terminal and self._milestones.reached(event):
            count = f"{event['done']}/{event['total']} {event['unit']}"
            self._print(f"{_INDENT}{count}{self._milestones.time_left()}", "dim")

    def _on_metric(self, event: dict[str, Any]) -> None:
        values = event["values"]
        numbers = [f"loss {values['loss']:.4g}"] if "loss" in values else []
        if self._is_wide and "tokens_per_second" in values:
            numbers.append(f"{values['tokens_per_second']:,.0f} tokens/s")
        if numbers:
            self._progress.update(self._task, numbers=" · ".join(numbers))

    def _on_interrupted(self, event: dict[str, Any]) -> None:
        self._print(f"{_INDENT}interrupted after step {event['at']}, with a checkpoint", "yellow")

    def _on_log(self, event: dict[str, Any]) -> None:
        self._print(f"{_INDENT}{event['message']}", {"warning": "yellow", "error": "red"}.get(event["level"], "dim"))

    def _on_serving(self, event: dict[str, Any]) -> None:
        self.serving = True
        self._print(f"{_INDENT}serving at {event['url']}, models: {', '.join(event['models'])}", "bold")

    def _print(self, text: str, style: str) -> None:
        say(self._console, text, style, indent=len(_INDENT))


class _Milestones:
    """Every quarter of a long step, for a log file, which gets no bar."""

    def begin(self) -> None:
        """Start the clock of a step."""
        self._started, self._next, self._share = time.monotonic(), 0.25, 0.0

    def reached(self, event: dict[str, Any]) -> bool:
        """Whether the event passes the next quarter, five seconds or more into the step."""
        self._share = event["done"] / max(event["total"], 1)
        if self._share < self._next or time.monotonic() - self._started < 5:
            return False
        self._next = self._share + 0.25
        return self._share < 1

    def time_left(self) -> str:
        """`, N s left`, at the average speed so far."""
        elapsed = time.monotonic() - self._started
        return f", {elapsed / self._share - elapsed:.0f} s left"


class _Title(ProgressColumn):
    """The title of the step: what is cut where a terminal is narrow."""

    def render(self, task: Task) -> Text:
        return Text(task.description, style="bold", no_wrap=True, overflow="ellipsis")


class _Count(ProgressColumn):
    """`12/80 step`, or sizes where the unit is bytes."""

    def render(self, task: Task) -> Text:
        if task.total is None:
            return Text("")
        done, total, unit = task.completed, task.total, task.fields.get("unit", "")
        if unit == "byte":
            done, total, unit = done / 1e6, total / 1e6, "MB"
        return Text(f"{done:.0f}/{total:.0f} {unit}", style="cyan")
