"""Serve a base model and its LoRA adapters with vLLM: checked before, watched while it starts, ended whole.

Input:   a Hugging Face model folder (the base, or a merged model) and any number of PEFT folders.
Output:  vLLM's OpenAI-compatible server; OUTPUT/adapters.json where NxD Inference wants it.

Refuses a taken port, an adapter whose names, shapes or rank do not fit, and a disk without room for the compiled
model. Says that it is serving when a completion of one token has come back for every name. SIGTERM ends it with
status 0; the engine processes end with it, however vLLM's own process ends.

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
from threading import Thread
from typing import IO

from common import events, program
from common.program import BadInput, StageFailed
from common.serving import processes, vllm_flags, vllm_options
from common.serving.openai_client import Client
from common.serving.server_flags import check_port, reachable
from common.serving.vllm_options import Container, Settings

_STOP_GRACE = 50  # seconds from SIGTERM to SIGKILL: time to give an accelerator back in order
_BETWEEN_PROBES = 0.2  # seconds
_KEPT_LINES = 200  # of the log, in which the cause of a failed start is looked for

# What vLLM, NxD Inference and the plugin write while they start, and what a person wants to know of it.
_MILESTONES = (
    (r"Starting to load model", "loading the weights"),
    (r"Recompiling\.\.\.|Compiling and saving model", "compiling for Neuron: minutes; the next start finds it done"),
    (r"Successfully loaded pre-?compiled model", "the compiled model is there already"),
    (r"Warming up the model", "warming up"),
    (r"Application startup complete", "the server listens"),
)
_SHARDS = re.compile(r"checkpoint shards:.* (\d+)/(\d+) \[")
_CAUSE = re.compile(r"\b[A-Z]\w*(?:Error|Exception): (?!.*root cause).+")


def flags() -> argparse.ArgumentParser:
    parser = program.parser(__doc__)
    vllm_flags.add(parser)
    group = parser.add_argument_group("server")
    group.add_argument("--python", default=sys.executable, help="a Python that has vLLM")
    group.add_argument("--host", default="127.0.0.1", help="address to listen on")
    group.add_argument("--port", type=program.at_least(1), required=True)
    group.add_argument("--spare-adapters", type=program.at_least(0), default=0, help="for POST /v1/load_lora_adapter")
    group.add_argument("--timeout", type=program.at_least(0, float), default=1800.0, help="seconds to be ready in")
    group.add_argument("--dry-run", action="store_true", help="print the command and end")
    vllm_flags.add_container(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    for number, status in ((signal.SIGTERM, 0), (signal.SIGINT, 130)):
        signal.signal(number, lambda *_, status=status: sys.exit(status))
    settings = preflight(args)
    variables = vllm_options.environment(args.generation, settings)
    container = vllm_flags.container(args, settings, f"vllm-{args.port}") if args.image else None
    words = command(args, settings, variables, container)
    if not container:
        variables["PATH"] = processes.search_path(args.python)
    if args.dry_run:
        print(shlex.join([*(f"{name}={value}" for name, value in variables.items()), *words]))
        return
    vllm_flags.write_files(settings)
    if container:  # one of the same name is what a killed server left
        subprocess.run(["docker", "rm", "--force", container.name], capture_output=True, check=False)
    models = [*settings.adapters]
    if not args.no_base:
        models.insert(0, args.served_model_name)
    compiled = settings.artifacts.name if settings.artifacts else None
    serve(words, variables, Client(reachable(args.host), args.port, args.timeout), models, compiled)


def preflight(args: argparse.Namespace) -> Settings:
    """Everything that can be known to be wrong before the minutes of a start. Raises BadInput."""
    settings = vllm_flags.settings(args, args.spare_adapters)
    if args.spare_adapters and not settings.adapters:
        raise BadInput("--spare-adapters: needs an --adapter to begin with")
    if args.spare_adapters and args.generation == "fork":
        raise BadInput("--spare-adapters: this generation of vLLM takes its adapters at the start alone")
    if args.no_base and not settings.adapters:
        raise BadInput("--no-base: without an --adapter nothing is left to serve")
    if not args.dry_run:
        check_port(args.host, args.port)
    return vllm_flags.with_artifacts(args, settings, _versions(args))


def command(
    args: argparse.Namespace, settings: Settings, variables: dict[str, str], container: Container | None
) -> list[str]:
    """The whole command line: that Python's, or Docker's."""
    before = [args.python]
    if container:
        before = vllm_options.container_command(container, variables, f"{args.host}:{args.port}")
    host = "0.0.0.0" if container else args.host
    return [*before, *vllm_options.command(args.generation, settings, args.served_model_name, host, args.port)]


def _versions(args: argparse.Namespace) -> dict[str, str]:
    """What compiles and serves; for --dry-run it need not be there."""
    if args.image:
        return {"image": args.image}
    return {"python": args.python} if args.dry_run else vllm_flags.installed(args.python)


def serve(words: list[str], variables: dict[str, str], client: Client, models: list[str], compiled: str | None) -> None:
    """Run the server until it ends, which is a failure, or until a signal."""
    processes.adopt_orphans()
    process = subprocess.Popen(
        words, env={**os.environ, **variables}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, preexec_fn=processes.end_with_parent,
    )  # fmt: skip
    lines: deque[str] = deque(maxlen=_KEPT_LINES)
    reader = Thread(target=_relay, args=(process.stdout, lines), name="log")
    reader.start()
    started = time.monotonic()
    try:
        _wait_until_ready(process, client, models, started + client.timeout)
        seconds = time.monotonic() - started
        events.metric({"startup_seconds": round(seconds, 2)})
        events.serving(f"http://{client.host}:{client.port}", models, compiled)
        process.wait()
    except _NotReady as problem:
        raise StageFailed(f"{problem}; {_cause(lines)}") from None
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        processes.end_children(process, _STOP_GRACE)
        reader.join()
    raise StageFailed(f"vLLM ended by itself, status {process.returncode}; {_cause(lines)}")


class _NotReady(Exception):
    pass


def _wait_until_ready(process: subprocess.Popen[bytes], client: Client, models: list[str], deadline: float) -> None:
    while not client.is_ready(models, deadline):
        with suppress(subprocess.TimeoutExpired):
            raise _NotReady(f"vLLM ended before it was ready, status {process.wait(_BETWEEN_PROBES)}")
        if time.monotonic() > deadline:
            raise _NotReady(f"vLLM is not ready after {client.timeout:g} s (--timeout)")


def _relay(stream: IO[bytes], lines: deque[str]) -> None:
    """Pass the server's output on, and tell what it means."""
    for line in stream:
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()
        lines.append(line.decode(errors="replace").strip())
        _tell(lines[-1])


def _tell(line: str) -> None:
    shards = _SHARDS.search(line)
    if shards:
        events.progress(int(shards[1]), int(shards[2]), "weight file")
    for pattern, meaning in _MILESTONES:
        if re.search(pattern, line):
            events.log(meaning)


def _cause(lines: deque[str]) -> str:
    """The last error in the log that is not only about another one; else its last words."""
    found = [match[0] for match in map(_CAUSE.search, lines) if match and " WARNING " not in match.string]
    return found[-1] if found else " | ".join(list(lines)[-5:]) or "it wrote nothing"


if __name__ == "__main__":
    sys.exit(program.main(run, flags()))
