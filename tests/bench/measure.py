"""Measures a program and its peers in turns, and compares them by the ratios of each round."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
# Where Python may not keep what it compiled, our modules are compiled in every round, and an installed peer's are not.
_ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
RUNNER = [sys.executable, "-m", "runner"]
Figures = Mapping[str, float]  # of one measurement: seconds, cpu_seconds, peak_mb, or what the program itself reports
Way = Callable[[], Figures]


@dataclass(frozen=True)
class Comparison:
    """A figure of the way `ours`, divided by that of `peer` (without one, the figure itself), and its goal."""

    what: str
    ours: str
    peer: str | None
    goal: float
    figure: str = "seconds"
    at_least: bool = False

    def values(self, rounds: Sequence[Mapping[str, Figures]]) -> list[float]:
        """One value a round: both ways were measured shortly after each other."""
        return [
            way[self.ours][self.figure] / (way[self.peer][self.figure] if self.peer else 1)
            for way in rounds
            if self.ours in way and (self.peer is None or self.peer in way)
        ]


@dataclass(frozen=True)
class Case:
    """Ways to do one thing, which are measured in turns, and the comparisons between them."""

    name: str
    ways: Mapping[str, Way]
    comparisons: Sequence[Comparison]

    def measure(self, rounds: int) -> list[dict[str, Figures]]:
        """The figures of every way, `rounds` times. Every other round has the opposite order."""
        results = []
        for number in range(rounds):
            names = list(self.ways)[:: -1 if number % 2 else 1]
            results.append({name: self.ways[name]() for name in names})
        return results


@dataclass(frozen=True)
class Row:
    """A line of the table: the median over the rounds with quartiles, and whether it meets the goal."""

    case: str
    what: str
    peer: str
    median: float
    quartiles: tuple[float, float]
    goal: str
    met: bool


def row(case: Case, comparison: Comparison, rounds: Sequence[Mapping[str, Figures]]) -> Row:
    """The row of a comparison."""
    values = comparison.values(rounds)
    median = statistics.median(values)
    low, _, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [median] * 3
    met = median >= comparison.goal if comparison.at_least else median <= comparison.goal
    goal = f"{'>=' if comparison.at_least else '<='} {comparison.goal:g}"
    return Row(case.name, comparison.what, comparison.peer or comparison.figure, median, (low, high), goal, met)


def table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    lines = ["| what | beside | median | quartiles | goal | |", "|---|---|---|---|---|---|"]
    for each in rows:
        low, high = each.quartiles
        verdict = "met" if each.met else "not met"
        figures = f"{each.median:.3g} | {low:.3g} to {high:.3g} | {each.goal}"
        lines.append(f"| {each.what} | {each.peer} | {figures} | {verdict} |")
    return "\n".join(lines)


def as_json(rows: Sequence[Row], rounds: Mapping[str, Any]) -> dict[str, Any]:
    """The rows, every measurement, and the machine."""
    return {"machine": machine(), "rows": [asdict(each) for each in rows], "measurements": rounds}


def machine() -> dict[str, Any]:
    """What the figures depend on besides the code."""
    cpu = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    flags = next((line for line in _lines("/proc/cpuinfo") if line.startswith("flags")), "").split()
    memory = next((line.split()[1] for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), "0")
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    return {
        "cpu": cpu[0] if cpu else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "features": [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in flags],
        "memory_gib": round(int(memory) / 2**20, 1),
        "python": platform.python_version(),
        "load": os.getloadavg(),  # of a minute, five and fifteen: what else the machine did
        "commit": commit.stdout.strip(),
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text(encoding="utf-8").splitlines() if Path(path).is_file() else []


def command(argv: Sequence[object], cwd: Path = ROOT, env: Mapping[str, str] | None = None) -> Figures:
    """Seconds, CPU seconds (with those of its children) and peak resident megabytes of a command that must succeed."""
    args = [str(argument) for argument in argv]
    started = time.perf_counter()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(args, cwd=cwd, env={**_ENVIRONMENT, **(env or {})}, stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            log.seek(0)
            raise SystemExit(f"{' '.join(args)}\n{log.read().decode(errors='replace')}")
    cpu = usage.ru_utime + usage.ru_stime
    return {"seconds": seconds, "cpu_seconds": cpu, "peak_mb": usage.ru_maxrss / 1024}


def newest_run(folder: Path) -> Path:
    """The newest record in a folder of runs, beside which there are records that are being made."""
    return max(path for path in folder.iterdir() if (path / "artifacts").is_dir())


def way(argv: Sequence[object], cwd: Path = ROOT, env: Mapping[str, str] | None = None) -> Way:
    """A way that runs a command."""
    return lambda: command(argv, cwd, env)
