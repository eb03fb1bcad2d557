"""Compile all programs that train_nxd.py needs in parallel, ahead of the training, into a persistent cache.

Runs neuron_parallel_compile with the training's command, which then executes a few steps and writes nothing.
The cache is a folder or an S3 URL and can be shared by trainings and machines. Output: compile.json, compile.log.
Without this stage the training compiles programs one after another as it reaches them, into the same cache.

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

from common import events, program
from common.program import BadInput, StageFailed
from common.serving import processes

COMPILER = "neuron_parallel_compile"
_COMPILED = "Compiler status PASS"  # what neuronx-cc prints for each program
_FAILED = re.compile(r"Total failed compilations:\s*(\d+)")


def run(args: argparse.Namespace) -> None:
    """Compile for the command after `--` and write compile.json."""
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not command:
        raise BadInput("no command: put the training command after --")
    compiler = _find_compiler()
    args.output.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    with (args.output / "compile.log").open("w", encoding="utf-8") as log:
        status, failed = _compile([compiler, *command], args.cache, log)
    if status or failed:
        raise StageFailed(
            f"{COMPILER} exited with status {status}, {failed} program(s) failed to compile; "
            f"see {args.output / 'compile.log'}"
        )
    content = {"cache": args.cache, "seconds": round(time.perf_counter() - started, 1)}
    (args.output / "compile.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _find_compiler() -> str:
    """The path of neuron_parallel_compile: next to this Python, or on PATH."""
    sibling = Path(sys.executable).with_name(COMPILER)
    path = str(sibling) if sibling.is_file() else shutil.which(COMPILER)
    if path is None:
        raise BadInput(f"{COMPILER} is not next to {sys.executable}: use the Python of the AMI's training environment")
    return path


def _compile(command: list[str], cache: str, log: TextIO) -> tuple[int, int]:
    """Run `command`, copying its output to `log` and stdout. Returns its exit status and the number of failures."""
    path = processes.search_path(sys.executable)  # the compiler calls neuronx-cc by its bare name
    environment = {**os.environ, "PATH": path, "NEURON_COMPILE_CACHE_URL": cache}
    with subprocess.Popen(
        command, env=environment, encoding="utf-8", errors="replace", stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout
        failed = _count_failures(_report_compiled(_echo(process.stdout, log)))
    return process.returncode, failed


def _echo(lines: Iterable[str], log: TextIO) -> Iterator[str]:
    for line in lines:
        log.write(line)
        print(line, end="", flush=True)
        yield line


def _report_compiled(lines: Iterable[str]) -> Iterator[str]:
    """Report each program: it is in the cache from then on, so that an interruption does not lose it."""
    compiled = 0
    for line in lines:
        if _COMPILED in line:
            compiled += line.count(_COMPILED)
            events.log(f"{compiled} program(s) compiled")
            events.checkpoint(compiled)
        yield line


def _count_failures(lines: Iterable[str]) -> int:
    """The failed compilations in the compiler's summary: its exit status does not report them."""
    return sum(int(number) for line in lines for number in _FAILED.findall(line))


def flags() -> argparse.ArgumentParser:
    """The program's flags."""
    parser = program.parser(__doc__)
    parser.add_argument(
        "--cache", type=program.absolute, required=True, metavar="FOLDER|S3", help="where to store compiled programs"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND", help="the training command")
    return parser


if __name__ == "__main__":
    sys.exit(program.main(run, flags()))
