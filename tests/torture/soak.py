"""The same commands many times: whether runs grow in time, memory, disk or processes with the number before them.

    python tests/torture/soak.py --cached 1000 --small 200

A cached run makes nothing; a small one has another seed, so it makes every artifact after the tokens again. The stage
programs are replaced, as in `make torture`. Times are CPU time, which other work on the machine changes little.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

_ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(_ROOT), str(_ROOT / "scripts"), str(_ROOT / "tests" / "integration")]

from runner import cli  # noqa: E402
from tests.torture import faults  # noqa: E402
from tests.torture.scenarios import Scenarios  # noqa: E402
from tests.torture.trial import Trials  # noqa: E402

_READING = (("runs",), ("status",), ("show", "last"))
_REPEATED = 20  # times that one process lists the runs


class Used(NamedTuple):
    """What a command used: seconds of CPU time and MB of memory, those of its children included."""

    seconds: float
    memory: float


def main() -> int:
    """Entry point; returns 1 if a command failed or left a process."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--cached", type=int, default=1000, help="runs that make nothing (default: 1000)")
    flags.add_argument("--small", type=int, default=200, help="runs that make artifacts (default: 200)")
    args = flags.parse_args()
    scratch = Path(os.environ.get("TORTURE_SCRATCH") or tempfile.mkdtemp(prefix="soak-"))
    shim = faults.preloaded(scratch)
    trials = Trials(shim, scratch / "soak")
    with ExitStack() as closing:
        made = Scenarios(trials, scratch, closing)
        trials.prepare(made.of_run(""))
        used(trials, made.run)
        repeat("cached runs", args.cached, trials, lambda _: made.run())
        repeat("small runs", args.small, trials, lambda n: cli.main(["run", *made.words, f"train.seed={n}"]))
    records = len(list((trials.folder / "runs").glob("2*")))
    for words in _READING:
        seconds, memory = used(trials, lambda words=words: cli.main(words))
        print(f"runner {' '.join(words)}, {records} records: {seconds:.2f} s of CPU, {memory:.0f} MB", flush=True)
    _, output = trials.ended(_list_again_and_again)
    print(output.splitlines()[-1])
    left = shim.processes()
    print(f"processes left: {len(left)}")
    shutil.rmtree(scratch)
    return 1 if left else 0


def repeat(name: str, count: int, trials: Trials, command: Callable[[int], int]) -> None:
    """Run a command `count` times, and print the first and the last tenth of what it used."""
    before, all_used = _sizes(trials.folder), []
    for number in range(count):
        all_used.append(used(trials, lambda number=number: command(number)))
    tenth = max(1, count // 10)
    first, last = _median(all_used[:tenth]), _median(all_used[-tenth:])
    grown = [(after - earlier) / count / 1000 for earlier, after in zip(before, _sizes(trials.folder), strict=True)]
    print(
        f"{count} {name}: {first.seconds:.2f} s of CPU and {first.memory:.0f} MB each at first, "
        f"{last.seconds:.2f} s and {last.memory:.0f} MB at last; {grown[0]:.1f} KB a record, {grown[1]:.1f} KB in the "
        "store",
        flush=True,
    )


def used(trials: Trials, command: Callable[[], int]) -> Used:
    """What a command used. Exits if it failed."""
    pid = trials.start(command, "command")
    _, status, usage = os.wait4(pid, 0)
    if status:
        sys.exit(f"status {os.waitstatus_to_exitcode(status)}: {(trials.folder.parent / 'command.txt').read_text()}")
    return Used(usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1000)


def _median(all_used: Sequence[Used]) -> Used:
    return Used(*map(statistics.median, zip(*all_used, strict=True)))


def _sizes(folder: Path) -> tuple[int, int]:
    """Bytes of the records, and of the store."""
    return tuple(  # type: ignore[return-value]
        sum(file.lstat().st_size for file in (folder / name).rglob("*") if file.is_file() and not file.is_symlink())
        for name in ("runs", "store")
    )


def _list_again_and_again() -> int:
    """How one process grows that lists the runs, as the server of the browser's page does."""
    cli.main(["runs"])
    before = _open_files(), _memory()
    for _ in range(_REPEATED):
        cli.main(["runs"])
    grown = _memory() - before[1]
    print(f"{_REPEATED} lists in one process: {_open_files() - before[0]} more open files, {grown:.1f} MB more memory")
    return 0


def _open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def _memory() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    sys.exit(main())
