"""The arguments, environment variables and files that configure each generation of vLLM. Pure functions.

    cpu     vLLM on a CPU
    fork    A: AWS's fork, vLLM 0.9; options in override_neuron_config, adapters only loaded at startup
    nxdi    B: the plugin based on NxD Inference, vLLM 0.11 to 0.16; adapters listed in a JSON file
    native  C: the plugin without NxD Inference, vLLM 0.21 and newer; no LoRA

tests/data/vllm_options/options.json lists every option used here, with its source.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.formats.dtypes import DTYPES
from common.program import is_url

GENERATIONS = ("cpu", "fork", "nxdi", "native")
LABEL = "trainium-recipes.output"  # container label with the --output of the program that started it
API_SERVER = "vllm.entrypoints.openai.api_server"
LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # values of max_lora_rank that every generation accepts
_LARGE = 64 * 2**20  # bytes; of larger files, size and modification time are compared
# The variable with each generation's cache of compiled programs. The native plugin appends neuron/compile_cache.
_CACHES = {
    "fork": "NEURON_COMPILE_CACHE_URL", "nxdi": "NEURON_COMPILE_CACHE_URL", "native": "VLLM_CACHE_ROOT"
}  # fmt: skip
_CPU_CACHE_GB = "1"  # size of the K/V cache; vLLM's default is half of the machine's memory


@dataclass(frozen=True)
class Settings:
    """What to serve, and how.

    Args:
        adapters: name → PEFT folder; empty for a plain or merged model.
        adapters_file: path of `adapters_json`, which generation nxdi needs if there are adapters.
        spare_adapters: how many more adapters can be loaded while the server runs.
        neuron_config: options specific to the generation, passed through.
        cores: NeuronCores to use, in the format of NEURON_RT_VISIBLE_CORES.
        artifacts: folder of the compiled model with its weights and adapters; generations fork and nxdi.
        compile_cache: folder or s3:// URL of compiled programs, shared by all weights of the same shapes.
    """

    model: Path
    adapters: Mapping[str, Path] = field(default_factory=dict)
    adapters_file: Path | None = None
    max_lora_rank: int = LORA_RANKS[0]
    spare_adapters: int = 0
    dtype: str = "fp32"
    tp_size: int = 1
    max_model_len: int | None = None
    max_num_seqs: int | None = None
    neuron_config: Mapping[str, Any] = field(default_factory=dict)
    cores: str | None = None
    artifacts: Path | None = None
    compile_cache: str | None = None

    @property
    def compile_cache_folder(self) -> Path | None:
        """The compile cache as a local folder; None without one, or if it is a URL."""
        return Path(self.compile_cache) if self.compile_cache and not is_url(self.compile_cache) else None


def engine_arguments(generation: str, settings: Settings) -> dict[str, Any]:
    """Keyword arguments of vllm.LLM; `command` writes the same ones as flags."""
    arguments: dict[str, Any] = {"model": str(settings.model), "dtype": DTYPES[settings.dtype].torch}
    limits = {"max_model_len": settings.max_model_len, "max_num_seqs": settings.max_num_seqs}
    arguments |= {name: value for name, value in limits.items() if value is not None}
    if settings.adapters:
        arguments |= _lora_arguments(settings)
    return arguments | _OF_GENERATION[generation](settings)


def command(generation: str, settings: Settings, base_name: str, host: str, port: int) -> list[str]:
    """The server's command line, without the Python that runs it."""
    args = ["-m", API_SERVER, *_flags(engine_arguments(generation, settings))]
    args += ["--served-model-name", base_name, "--host", host, "--port", str(port)]
    if settings.adapters:
        args += ["--lora-modules", *(f"{name}={folder}" for name, folder in settings.adapters.items())]
    return args


def environment(generation: str, settings: Settings) -> dict[str, str]:
    """Variables to set for the server, or before importing vllm."""
    variables = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    if settings.spare_adapters:
        variables["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "1"
    if generation == "cpu":
        return variables | {"VLLM_CPU_KVCACHE_SPACE": _CPU_CACHE_GB}
    if generation == "fork":
        variables["VLLM_NEURON_FRAMEWORK"] = "neuronx-distributed-inference"
    if settings.cores is not None:
        variables["NEURON_RT_VISIBLE_CORES"] = settings.cores
    if settings.artifacts:
        variables["NEURON_COMPILED_ARTIFACTS"] = str(settings.artifacts)
    if settings.compile_cache:
        variables[_CACHES[generation]] = settings.compile_cache
    return variables


def adapters_json(adapters: Mapping[str, Path]) -> dict[str, Any]:
    """NxD Inference's list of adapters on the device and in host memory.

    The plugin needs both keys: vLLM sets max_cpu_loras to max_loras by default, and with any number above 0
    NxD Inference looks for the second one.
    """
    paths = {name: str(folder) for name, folder in adapters.items()}
    return {"lora-ckpt-dir": "/", "lora-ckpt-paths": paths, "lora-ckpt-paths-cpu": paths}


def max_lora_rank(ranks: Sequence[int]) -> int:
    """The smallest of LORA_RANKS that is enough for all `ranks`. Raises ValueError if there is none."""
    return min(rank for rank in LORA_RANKS if rank >= max(ranks, default=0))


def artifacts_key(generation: str, settings: Settings, versions: Mapping[str, str]) -> str:
    """The name of a compiled model, which depends on its weights, options, adapters and package versions.

    vLLM loads whatever is in the folder NEURON_COMPILED_ARTIFACTS and then ignores the options and adapters: the folder
    contains the sharded weights, including LoRA (NxD Inference's save_sharded_checkpoint), and their original paths. So
    it cannot be shared between adapters. Compiled programs only depend on shapes and can: see `compile_cache`.
    """
    options = engine_arguments(generation, settings)
    for with_paths in ("model", "additional_config", "override_neuron_config"):  # their content is hashed, not the path
        options.pop(with_paths, None)
    contents = {name: folder_digest(folder) for name, folder in settings.adapters.items()}
    parts = [generation, options, dict(settings.neuron_config), folder_digest(settings.model), contents, dict(versions)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def folder_digest(folder: Path) -> str:
    """A digest of the files in a folder: names and contents; of large files, size and modification time instead."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        status = path.stat()
        large = status.st_size >= _LARGE
        content = f"{status.st_size} {status.st_mtime_ns}".encode() if large else path.read_bytes()
        digest.update(json.dumps([path.name, hashlib.sha256(content).hexdigest()]).encode())
    return digest.hexdigest()


@dataclass(frozen=True)
class Container:
    """How to run the server in Docker. `devices` are numbers of /dev/neuron*; folders are mounted at the same paths.

    The label `launched_by` identifies the container if the program that started it is killed.
    """

    image: str
    name: str
    launched_by: str
    devices: Sequence[int]
    shm_size: str
    read_only: Sequence[Path]
    writable: Sequence[Path]


def container_command(container: Container, variables: Mapping[str, str], publish: str | None = None) -> list[str]:
    """`docker run ... IMAGE`, to which Python's arguments are appended. `publish` is ADDRESS:PORT of a server.

    Devices are passed by name instead of with --privileged. The two capabilities are those of AWS's page on this image
    (deploy/environments/quickstart-deploy-dlc of the Neuron documentation).
    """
    args = ["docker", "run", "--rm", "--init", "--name", container.name]
    args += ["--label", f"{LABEL}={container.launched_by}", "--shm-size", container.shm_size]
    args += [f"--device=/dev/neuron{number}" for number in container.devices]
    args += ["--cap-add", "SYS_ADMIN", "--cap-add", "IPC_LOCK", "--workdir", str(Path.cwd())]
    args += ["--publish", f"{publish}:{publish.rpartition(':')[2]}"] if publish else []
    for mounts, mode in ((container.read_only, ":ro"), (container.writable, "")):
        args += [arg for folder in mounts for arg in ("--volume", f"{folder}:{folder}{mode}")]
    args += [arg for name, value in variables.items() for arg in ("--env", f"{name}={value}")]
    return [*args, "--entrypoint", "python3", container.image]


def _lora_arguments(settings: Settings) -> dict[str, Any]:
    arguments = {"enable_lora": True, "max_loras": len(settings.adapters), "max_lora_rank": settings.max_lora_rank}
    if settings.spare_adapters:
        arguments["max_cpu_loras"] = len(settings.adapters) + settings.spare_adapters
    return arguments


def _cpu(settings: Settings) -> dict[str, Any]:
    """Eager mode: compiling takes minutes and needs a C++ compiler.

    There is one more slot than adapters, which stays empty: vLLM's CPU kernels use index -1, the last slot, for
    requests to the base model in a mixed batch (vllm/lora/ops/torch_ops/lora_ops.py of 0.32).
    """
    slots = len(settings.adapters) + settings.spare_adapters + 1
    lora = {"max_loras": slots, "max_cpu_loras": slots} if settings.adapters else {}
    return {"enforce_eager": True, **lora}


def _fork(settings: Settings) -> dict[str, Any]:
    config = dict(settings.neuron_config)
    if settings.adapters:
        modules = [{"name": name, "path": str(folder)} for name, folder in settings.adapters.items()]
        config = {"sequence_parallel_enabled": False, **config, "lora_modules": modules}
    return {"device": "neuron", "tensor_parallel_size": settings.tp_size, "override_neuron_config": config}


def _nxdi(settings: Settings) -> dict[str, Any]:
    """Without prefix caching the K/V cache is contiguous: one block per sequence."""
    config = dict(settings.neuron_config)
    if settings.adapters:
        config["lora_ckpt_json"] = str(settings.adapters_file)
    blocks = {} if settings.max_num_seqs is None else {"num_gpu_blocks_override": settings.max_num_seqs}
    return {
        "tensor_parallel_size": settings.tp_size,
        "enable_prefix_caching": False,
        **blocks,
        "additional_config": {"override_neuron_config": config},
    }


def _native(settings: Settings) -> dict[str, Any]:
    config = {"additional_config": {"neuron_config": dict(settings.neuron_config)}} if settings.neuron_config else {}
    return {"tensor_parallel_size": settings.tp_size, **config}


_OF_GENERATION = {"cpu": _cpu, "fork": _fork, "nxdi": _nxdi, "native": _native}


def _flags(arguments: Mapping[str, Any]) -> list[str]:
    """Arguments as flags: `max_loras=2` is `--max-loras 2`, True `--flag`, False `--no-flag`, a mapping JSON."""
    args: list[str] = []
    for name, value in arguments.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            args.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            args += [f"--{flag}", json.dumps(value) if isinstance(value, dict) else str(value)]
    return args
