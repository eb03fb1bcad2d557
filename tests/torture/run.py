"""Disturbs commands at every point, and checks that nothing is lost.

    make torture                      an hour: as many faults as fit, evenly spread, COUNT=500 random kills among them
    python tests/torture/run.py       every fault at every point: many hours
    python tests/torture/run.py --only gc --fault kill_before --at 7    one of them again

A point is a call that changes a file: shim.c, preloaded into the processes of a command, kills the process before,
within or after it, kills all of them, lets it fail, or sends a signal. Afterwards no verb may fail, the same command
must end with the result that it has undisturbed, and nothing may be left over.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from random import Random

_ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(_ROOT), str(_ROOT / "scripts"), str(_ROOT / "tests" / "integration")]

from tests.torture import faults  # noqa: E402
from tests.torture.faults import Fault, Shim  # noqa: E402
from tests.torture.scenarios import Scenarios  # noqa: E402
from tests.torture.situations import kill_at_random, situations  # noqa: E402
from tests.torture.trial import Lost, Scenario, Trials  # noqa: E402

_FAULTS = tuple(Fault)[1:]
_SHOWN = 500  # characters of what was lost


def main() -> int:
    """Entry point; returns 1 if anything was lost."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--minutes", type=float, help="stop after about that long")
    flags.add_argument("--count", type=int, default=500, help="random kills (default: 500)")
    flags.add_argument("--seed", type=int, default=1, help="of the random kills (default: 1)")
    flags.add_argument("--only", help="the scenarios whose name contains this")
    flags.add_argument("--fault", choices=[fault.name for fault in _FAULTS], help="only this fault")
    flags.add_argument("--at", type=int, help="only this call")
    args = flags.parse_args()
    scratch = Path(os.environ.get("TORTURE_SCRATCH") or tempfile.mkdtemp(prefix="torture-", dir=_memory()))
    try:
        shim = faults.preloaded(scratch)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"torture: needs gcc: {error}", file=sys.stderr)
        return 1
    torture = Torture(shim, scratch, args)
    torture.run()
    print(f"{torture.done} disturbances, {torture.seconds:.0f} s\nlost: {len(torture.lost)}")
    if torture.lost:
        print(f"what was left of them: {scratch}", file=sys.stderr)
        return 1
    shutil.rmtree(scratch)
    return 0


class Torture:
    """All trials, within the time that there is; `lost` has a line for each that did not end as it must."""

    def __init__(self, shim: Shim, scratch: Path, args: argparse.Namespace) -> None:
        self._args, self._scratch = args, scratch
        self._trials = Trials(shim, scratch / "trial")
        self._started = time.monotonic()
        self.done, self.lost = 0, []

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._started

    def run(self) -> None:
        """Run the scenarios, each in an equal share of the time that is left."""
        with ExitStack() as closing:
            made = Scenarios(self._trials, self._scratch, closing)
            parts = [
                *((scenario.name, partial(self._disturb, scenario)) for scenario in made.all()),
                *((name, partial(self._endure, name, work)) for name, work in situations(self._trials, made)),
                ("random kills", partial(self._kill, made)),
            ]
            chosen = [part for name, part in parts if (self._args.only or "") in name]
            for number, part in enumerate(chosen):
                left = (self._args.minutes or 0) * 60 - self.seconds
                part(self.seconds + left / (len(chosen) - number) if self._args.minutes else float("inf"))

    def _disturb(self, scenario: Scenario, until: float) -> None:
        start = self.seconds
        calls, expected = self._trials.undisturbed(scenario)
        points = self._points(calls)
        reached = dict.fromkeys(_FAULTS, 0)
        tried = 0
        for at, fault in points:
            if self.seconds > until:
                break
            tried += 1
            try:
                reached[fault] += self._trials.trial(scenario, fault, at, expected)
            except Lost as lost:
                self._lose(scenario.name, lost)
        self.done += tried
        counts = ", ".join(f"{count} {fault.name}" for fault, count in reached.items() if count)
        print(
            f"{scenario.name}: {calls} calls, {tried} of {len(points)} points in {self.seconds - start:.0f} s: {counts}"
        )
        sys.stdout.flush()

    def _endure(self, name: str, work: Callable[[], None], until: float) -> None:
        start = self.seconds
        self.done += 1
        try:
            work()
        except Lost as lost:
            self._lose(name, lost)
        print(f"{name}: in {self.seconds - start:.0f} s", flush=True)

    def _kill(self, made: Scenarios, until: float) -> None:
        start, kills, chance = self.seconds, 0, Random(self._args.seed)
        scenario = made.of_run("")
        _, expected = self._trials.undisturbed(scenario)
        takes = self.seconds - start
        while kills < self._args.count and self.seconds < until:
            kills += 1
            try:
                kill_at_random(self._trials, scenario, expected, chance, takes)
            except Lost as lost:
                self._lose(f"random kill {kills} of seed {self._args.seed}", lost)
        self.done += kills
        print(f"random kills: {kills} of {self._args.count} in {self.seconds - start:.0f} s", flush=True)

    def _points(self, calls: int) -> list[tuple[int, Fault]]:
        """Every fault at every call, in an order of which each beginning is evenly spread."""
        fault = self._args.fault
        ats = [self._args.at] if self._args.at else list(_spread(calls))
        chosen = [Fault[fault]] if fault else _FAULTS
        return [(at, one) for place, at in enumerate(ats) for one in _turned(chosen, place)]

    def _lose(self, name: str, lost: Lost) -> None:
        self.lost.append(f"{name}: {lost}")
        kept = self._scratch / f"lost-{len(self.lost)}"
        shutil.copytree(self._trials.folder, kept, symlinks=True)
        for output in self._scratch.glob("*.txt"):
            shutil.copy(output, kept)
        print(f"LOST {name}: {' '.join(str(lost).split())[:_SHOWN]}\n     {kept}", flush=True)


def _memory() -> str | None:
    """A file system in memory, on which a trial waits for no disk; None where there is none."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _spread(calls: int) -> Iterator[int]:
    """1 to `calls`, each time halving the largest gap."""
    bits = calls.bit_length()
    turned = (int(f"{number:0{bits}b}"[::-1], 2) for number in range(1 << bits))
    return (at for at in turned if 1 <= at <= calls)


def _turned(chosen: tuple[Fault, ...] | list[Fault], place: int) -> list[Fault]:
    return [*chosen[place % len(chosen) :], *chosen[: place % len(chosen)]]


if __name__ == "__main__":
    sys.exit(main())
