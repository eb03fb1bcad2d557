"""Serve a base model and its LoRA adapters with vLLM: check the input, report the startup, stop every process.

Input:   a Hugging Face model folder (the base, or a merged model) and any number of PEFT folders.
Output:  vLLM's OpenAI-compatible server; OUTPUT/adapters.json for NxD Inference.

Rejects a port in use, an adapter whose names, shapes or rank do not fit the model, and a disk without space for the
compiled model. Reports that it is serving once every model has returned a completion of one token. On SIGTERM it exits
with status 0. vLLM's engine processes are terminated with it, however vLLM's main process ends.

    python scripts/serve_vllm.py --python .venv-vllm/bin/python --model model --adapter sql=adapter/adapter \\
        --output server --port 8000
    curl localhost:8000/v1/completions -H 'Content-Type: application/json' \\
        -d '{"model": "sql", "prompt": "Hello", "max_tokens": 20, "temperature": 0}'
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections import deque
from contextlib import suppress
from io import BufferedReader
from threading import Event, Thread

from common import events, program
from common.program import BadInput, StageFailed
from common.serving import processes, vllm_flags, vllm_options
from common.serving.openai_client import Client
from common.serving.server_flags import check_port, reachable
from common.serving.vllm_options import Container, Settings

_STOP_GRACE = 50  # seconds from SIGTERM to SIGKILL: time to release an accelerator properly
_BETWEEN_PROBES = 0.2  # seconds
_BETWEEN_READS = 0.2  # seconds
_PIPE = 2**16  # bytes that a pipe holds
_KEPT_LINES = 200  # of the log, searched for the cause of a failed start

# Log messages of vLLM, NxD Inference and the plugin during startup, and what to report for them.
_MILESTONES = (
    (r"Starting to load model", "loading the weights"),
    (r"Recompiling\.\.\.|Compiling and saving model", "compiling for Neuron: takes minutes, the next start reuses it"),
    (r"Successfully loaded pre-?compiled model", "using the compiled model of an earlier start"),
    (r"Warming up the model", "warming up"),
    (r"Application startup complete", "the server is listening"),
)
_SHARDS = re.compile(r"checkpoint shards:.* (\d+)/(\d+) \[")
_CAUSE = re.compile(r"\b[A-Z]\w*(?:Error|Exception): (?!.*root cause).+")


def flags() -> argparse.ArgumentParser:
    """The program's flags."""
    parser = program.parser(__doc__)
    vllm_flags.add(parser)
    group = parser.add_argument_group("server")
    group.add_argument("--python", default=sys.executable, help="a Python with vLLM")
    group.add_argument("--host", default="127.0.0.1", help="address to listen on")
    group.add_argument("--port", type=program.at_least(1), required=True, help="port to listen on")
    group.add_argument(
        "--spare-adapters", type=program.at_least(0), default=0, help="slots for POST /v1/load_lora_adapter"
    )
    group.add_argument(
        "--timeout", type=program.at_least(0, float), default=1800.0, metavar="SECONDS", help="limit for the startup"
    )
    group.add_argument("--dry-run", action="store_true", help="print the command and exit")
    vllm_flags.add_container(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    """Check the input, then run vLLM until a signal arrives; with --dry-run only print its command."""
    processes.exit_on_signals()
    settings = preflight(args)
    variables = vllm_options.environment(args.generation, settings)
    container = vllm_flags.container(args, settings, f"vllm-{args.port}") if args.image else None
    argv = command(args, settings, variables, container)
    if not container:
        variables["PATH"] = processes.search_path(args.python)
    if args.dry_run:
        print(shlex.join([*(f"{name}={value}" for name, value in variables.items()), *argv]))
        return
    vllm_flags.write_files(settings)
    if container:  # remove what a killed server left
        subprocess.run(["docker", "rm", "--force", container.name], capture_output=True, check=False)
    models = [*([] if args.no_base else [args.served_model_name]), *settings.adapters]
    compiled = settings.artifacts.name if settings.artifacts else None
    serve(argv, variables, Client(reachable(args.host), args.port, args.timeout), models, compiled)


def preflight(args: argparse.Namespace) -> Settings:
    """The settings, checked for all that would otherwise fail minutes into the startup. Raises BadInput."""
    settings = vllm_flags.settings(args, args.spare_adapters)
    if args.spare_adapters and not settings.adapters:
        raise BadInput("--spare-adapters: needs at least one --adapter")
    if args.spare_adapters and args.generation == "fork":
        raise BadInput("--spare-adapters: this generation of vLLM only loads adapters at startup; leave it out")
    if args.no_base and not settings.adapters:
        raise BadInput("--no-base: needs an --adapter to serve")
    if not args.dry_run:
        check_port(args.host, args.port)
    return vllm_flags.with_artifacts(args, settings, _versions(args))


def command(
    args: argparse.Namespace, settings: Settings, variables: dict[str, str], container: Container | None
) -> list[str]:
    """The complete command line: of --python, or of Docker."""
    prefix = [args.python]
    if container:
        prefix = vllm_options.container_command(container, variables, f"{args.host}:{args.port}")
    host = "0.0.0.0" if container else args.host
    return [*prefix, *vllm_options.command(args.generation, settings, args.served_model_name, host, args.port)]


def _versions(args: argparse.Namespace) -> dict[str, str]:
    """The versions of what compiles and serves; --dry-run does not need it installed."""
    if args.image:
        return {"image": args.image}
    return {"python": args.python} if args.dry_run else vllm_flags.installed(args.python)


def serve(argv: list[str], variables: dict[str, str], client: Client, models: list[str], compiled: str | None) -> None:
    """Run the server until a signal arrives. Raises StageFailed if it exits by itself or is not ready in time."""
    processes.adopt_orphans()
    process = subprocess.Popen(
        argv, env={**os.environ, **variables}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, preexec_fn=processes.end_with_parent,
    )  # fmt: skip
    lines: deque[str] = deque(maxlen=_KEPT_LINES)
    serving = Event()
    reader = Thread(target=_relay, args=(process.stdout, lines, serving), name="log")
    reader.start()
    started = time.monotonic()
    try:
        _wait_until_ready(process, client, models, started + client.timeout)
        seconds = time.monotonic() - started
        events.metric({"startup_seconds": round(seconds, 2)})
        events.serving(f"http://{client.host}:{client.port}", models, compiled)
        serving.set()
        process.wait()
    except _NotReady as error:
        raise StageFailed(f"{error}; {_cause(lines)}") from None
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        processes.end_children(process, _STOP_GRACE)
        reader.join()
    raise StageFailed(f"vLLM exited unexpectedly with status {process.returncode}; {_cause(lines)}")


class _NotReady(Exception):
    pass


def _wait_until_ready(process: subprocess.Popen[bytes], client: Client, models: list[str], deadline: float) -> None:
    while not client.is_ready(models, deadline):
        with suppress(subprocess.TimeoutExpired):
            raise _NotReady(f"vLLM exited before it was ready, status {process.wait(_BETWEEN_PROBES)}")
        if time.monotonic() > deadline:
            raise _NotReady(f"vLLM is not ready after {client.timeout:g} s (--timeout)")


def _relay(stream: BufferedReader, lines: deque[str], serving: Event) -> None:
    """Copy the server's output to stdout and report the milestones in it.

    A server that is serving logs each request: reading that at once would wake this program while an answer is made.
    """
    rest = b""
    while part := stream.read1(_PIPE):
        sys.stdout.buffer.write(part)
        sys.stdout.buffer.flush()
        *whole, rest = (rest + part).split(b"\n")
        for line in whole:
            _look_at(line, lines)
        if serving.is_set() and len(part) < _PIPE:
            time.sleep(_BETWEEN_READS)
    _look_at(rest, lines)


def _look_at(output: bytes, lines: deque[str]) -> None:
    line = output.decode(errors="replace").strip()
    if line:
        lines.append(line)
        _report_milestone(line)


def _report_milestone(line: str) -> None:
    shards = _SHARDS.search(line)
    if shards:
        events.progress(int(shards[1]), int(shards[2]), "weight file")
    for pattern, meaning in _MILESTONES:
        if re.search(pattern, line):
            events.log(meaning)


def _cause(lines: deque[str]) -> str:
    """The last error in the log that does not just refer to another one; without one, the last lines."""
    errors = [match[0] for match in map(_CAUSE.search, lines) if match and " WARNING " not in match.string]
    return errors[-1] if errors else " | ".join(list(lines)[-5:]) or "its log is empty"


if __name__ == "__main__":
    sys.exit(program.main(run, flags()))
