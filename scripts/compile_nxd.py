"""Compile what a training with train_nxd.py needs, before it: all programs in parallel, into a cache that stays.

Runs neuron_parallel_compile on the training's own command, which then goes through a few steps and writes nothing.
The cache is a folder or an S3 address, for all trainings and machines that name it. Output: compile.json.
Without this stage training compiles one program after the other as it meets them, into the same cache.

    python scripts/compile_nxd.py --cache s3://bucket/neuron-cache --output compiled -- \\
        python -m torch.distributed.run --nproc-per-node 32 scripts/train_nxd.py ...
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO

from common import program
from common.program import BadInput, StageFailed
from common.serving import processes

COMPILER = "neuron_parallel_compile"
_FAILED = re.compile(r"Total failed compilations:\s*(\d+)")


def run(args: argparse.Namespace) -> None:
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not command:
        raise BadInput("no command: put the training's after --")
    compiler = _compiler()
    args.output.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    with (args.output / "compile.log").open("w", encoding="utf-8") as log:
        status, failed = _compile([compiler, *command], args.cache, log)
    if status or failed:
        raise StageFailed(
            f"{COMPILER} ended with status {status}, {failed} program(s) failed to compile; "
            f"what it said: {args.output / 'compile.log'}"
        )
    content = {"cache": args.cache, "seconds": round(time.perf_counter() - started, 1)}
    (args.output / "compile.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _compiler() -> str:
    """The program beside this Python, or on PATH."""
    beside = Path(sys.executable).with_name(COMPILER)
    found = str(beside) if beside.is_file() else shutil.which(COMPILER)
    if found is None:
        raise BadInput(f"{COMPILER} is not beside {sys.executable}: use the Python of the AMI's training environment")
    return found


def _compile(command: list[str], cache: str, log: TextIO) -> tuple[int, int]:
    """Run it, its output to `log` and on to ours; the exit status, and how many programs it could not compile."""
    found = processes.search_path(sys.executable)  # the compiler calls neuronx-cc by its bare name
    environment = {**os.environ, "PATH": found, "NEURON_COMPILE_CACHE_URL": cache}
    with subprocess.Popen(
        command, env=environment, encoding="utf-8", errors="replace", stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout
        failed = _failures(_shown(process.stdout, log))
    return process.returncode, failed


def _shown(lines: Iterable[str], log: TextIO) -> Iterator[str]:
    for line in lines:
        log.write(line)
        print(line, end="", flush=True)
        yield line


def _failures(lines: Iterable[str]) -> int:
    """The number in its summary; its exit status alone does not tell."""
    return sum(int(number) for line in lines for number in _FAILED.findall(line))


def flags() -> argparse.ArgumentParser:
    parser = program.parser(__doc__)
    parser.add_argument(
        "--cache", type=program.absolute, required=True, metavar="FOLDER|S3", help="where compiled programs are kept"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder for compile.json")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND", help="the training's own command")
    return parser


if __name__ == "__main__":
    sys.exit(program.main(run, flags()))
