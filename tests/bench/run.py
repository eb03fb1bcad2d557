"""All benchmarks, one after the other, each with its ratios taken in one run.

    make bench                     about an hour, and 12 GB of disk below --scratch
    make bench ARGS=--short        a few minutes: whether each still works; its figures mean nothing

What a benchmark needs and is not installed is said, and it is left out: sshd and rsync for ssh.py, `make setup-vllm`
for serve.py, DVC for the ratio of cached.py, which `make bench` installs in .venv-bench.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
VLLM, DVC = (HERE.parents[1] / name for name in (".venv-vllm/bin/python", ".venv-bench/bin/dvc"))
SHORT = {
    "convert.py": ["--size", "tiny", "--rounds", "1"],
    "train.py": ["--steps", "2", "--rounds", "1"],
    "memory.py": ["--settings", "1"],
    "ssh.py": ["--runs", "1"],
    "cached.py": ["--runs", "1", "train.max_steps=2", "dataset.train_rows=60", "evaluate.examples=2"],
    "serve.py": ["--rounds", "1", "--pairs", "1"],
}


def main() -> int:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--scratch", type=Path, help="folder for large temporary files (default: the system's)")
    flags.add_argument("--short", action="store_true", help="little work each, to see that they work")
    args = flags.parse_args()
    failed = []
    with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
        for name, words in benches(scratch):
            print(f"== {name}", flush=True)
            command = [sys.executable, HERE / name, *words, *(SHORT[name] if args.short else [])]
            if subprocess.run(command, check=False).returncode:
                failed.append(name)
    if failed:
        print(f"failed: {' '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def benches(scratch: str) -> Iterator[tuple[str, list[str]]]:
    """Name and options of every benchmark that this machine can run."""
    for name in ("convert.py", "train.py", "memory.py"):
        yield name, ["--scratch", scratch]
    if Path("/usr/sbin/sshd").is_file() and shutil.which("rsync"):
        yield "ssh.py", []
    else:
        print("== ssh.py is left out: sshd or rsync is not installed", flush=True)
    if not DVC.is_file():
        print(f"== cached.py without its ratio: there is no {DVC}", flush=True)
    yield "cached.py", ["--dvc", str(DVC)] if DVC.is_file() else []
    if VLLM.is_file():
        yield "serve.py", ["--python", str(VLLM)]
    else:
        print("== serve.py is left out: make setup-vllm installs what it needs", flush=True)


if __name__ == "__main__":
    sys.exit(main())
