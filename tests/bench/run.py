"""The benchmark suite: each case beside its peers and its goal, measured in turns, as one table of ratios.

    make bench                                   about an hour, and 12 GB of disk below --scratch
    make bench ARGS=--short                      under 10 minutes: less work, and the goals are printed but not judged
    make bench ARGS="--only conversion training" these cases alone

A ratio is taken in each round between measurements that follow each other; the table shows the median and the
quartiles of the rounds. The table is also written as JSON, with every measurement and the machine. What a case needs
and is not installed is said, and the case is left out.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import measure
from measure import ROOT, Case, Row

sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "integration")]
import conversion  # noqa: E402
import evaluation  # noqa: E402
import executor  # noqa: E402
import peers  # noqa: E402
import serve  # noqa: E402
import ssh  # noqa: E402
import startup  # noqa: E402
import tokenization  # noqa: E402
import train  # noqa: E402

TOPICS = ("startup", "executor", "conversion", "training", "tokenization", "evaluation", "ssh", "serving", "memory")


def main() -> int:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--scratch", type=Path, help="folder for large temporary files (default: the system's)")
    flags.add_argument("--short", action="store_true", help="little work and one round, to see that everything works")
    flags.add_argument("--rounds", type=int, default=5, help="measurements of each way (default: 5)")
    flags.add_argument("--only", nargs="+", choices=TOPICS, default=TOPICS, metavar="TOPIC", help=", ".join(TOPICS))
    flags.add_argument("--json", type=Path, default=ROOT / "build" / "bench.json", help="(default: build/bench.json)")
    args = flags.parse_args()
    rows: list[Row] = []
    measurements = {}
    with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
        for case in cases(Path(scratch), args.only, args.short):
            print(f"== {case.name}", flush=True)
            rounds = case.measure(1 if args.short else args.rounds)
            measurements[case.name] = rounds
            found = [measure.row(case, comparison, rounds) for comparison in case.comparisons]
            rows += found
            print(measure.table(found), flush=True)
        works = "memory" not in args.only or _memory(Path(scratch), args.short)
    print(f"\n{measure.table(rows)}\n\n{sum(each.met for each in rows)} of {len(rows)} goals are met")
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps(measure.as_json(rows, measurements), indent=2) + "\n", encoding="utf-8")
    return 0 if works else 1


def cases(scratch: Path, topics: tuple[str, ...], short: bool) -> Iterator[Case]:
    """Every case of the topics that this machine can measure. What a case needs exists until the next one is asked."""
    if "startup" in topics:
        yield from startup.cases(scratch, peers.program("dvc", "dvc"), 50 if short else 1000)
    if "executor" in topics:
        yield from executor.cases(scratch, 20 if short else 1000)
    if "conversion" in topics:
        yield from conversion.cases(scratch, "tiny" if short else "1b", (8,) if short else (8, 32))
    if {"training", "tokenization", "evaluation"} & set(topics) and (python := peers.program("transformers")):
        if "training" in topics:
            yield from train.cases(scratch, python, short)
        if "tokenization" in topics:
            yield from tokenization.cases(scratch, python, 500 if short else 100_000)
        if "evaluation" in topics:
            yield from evaluation.cases(scratch, python, short)
    if "ssh" in topics and _installed("sshd", "rsync"):
        yield from ssh.cases(scratch)
    if "serving" in topics:
        yield from serve.cases(scratch, peers.program("transformers", "transformers"))


def _installed(*programs: str) -> bool:
    missing = [name for name in programs if not shutil.which(name, path="/usr/sbin:/usr/bin:/bin:/usr/local/bin")]
    if missing:
        print(f"{' and '.join(missing)}: not installed, so that the case is left out", flush=True)
    return not missing


def _memory(scratch: Path, short: bool) -> bool:
    """Whether the estimates of memory agree with what trainings take."""
    print("== memory", flush=True)
    program = [sys.executable, Path(__file__).parent / "memory.py", "--scratch", scratch]
    return not subprocess.run([*program, *(["--settings", "1"] if short else [])], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
