"""The adapter that a training continues: where `train.init_adapter` is, and what its files say."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from runner.compose.schema import Recipe
from runner.errors import RecipeError
from runner.paths import SCRIPTS
from runner.plan import elsewhere
from runner.plan.checks import safetensors_header

KEY = "train.init_adapter"
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_OF_A_RUN = Path("artifacts", "export", "adapter")
_SHARED = {"k_proj": "q_proj", "v_proj": "q_proj", "up_proj": "gate_proj"}  # whose lora_A NxD has for both


@dataclass(frozen=True)
class Tensor:
    """A tensor of a safetensors file: its shape, and where its bytes are in the file."""

    shape: tuple[int, ...]
    start: int
    size: int


def folder(recipe: Recipe) -> Path:
    """The PEFT folder: the one that the recipe names, or what the run of that folder or name has exported.

    Raises RecipeError if there is none.
    """
    name = recipe.train.init_adapter or ""
    runs = Path(recipe.paths.runs)
    named = [path for path in (Path(name).expanduser(), runs / name, runs / "sweeps" / name) if path.is_dir()]
    for path in named:
        for found in (path, path / _OF_A_RUN):
            if (found / CONFIG).is_file():
                return found
    if not named:
        raise RecipeError(f"{KEY}: {name}: no such folder, and no run of that name in {runs}")
    raise RecipeError(
        f"{KEY}: {named[0]}: has no {CONFIG}; name a PEFT folder, or a run with an exported adapter (`runner fetch` "
        "copies that of a run elsewhere)"
    )


def settings(path: Path) -> dict[str, Any]:
    """The content of an adapter_config.json. Raises RecipeError for one that cannot be continued exactly."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"{KEY}: {path}: not JSON: {error}") from None
    if not isinstance(content, dict) or content.get("peft_type") != "LORA":
        raise RecipeError(f"{KEY}: {path}: not a LoRA config of PEFT")
    for key, setting in _supported().items():
        if content.get(key) and content[key] not in setting["plain"]:
            raise RecipeError(f"{KEY}: {path}: {key} {content[key]!r} is not supported: {setting['reason']}")
    return content


def tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of an adapter_model.safetensors by name, from its header. Raises RecipeError for a damaged file."""
    if not path.is_file():
        raise RecipeError(f"{KEY}: {path}: no such file; save the adapter with PEFT's save_pretrained")
    try:
        header, data = safetensors_header.read(path)
    except ValueError:
        raise RecipeError(f"{KEY}: {path}: not a safetensors file, or truncated; copy it again") from None
    found = {name: _tensor(entry, data) for name, entry in header.items()}
    if max((tensor.start + tensor.size for tensor in found.values()), default=math.inf) > path.stat().st_size:
        raise RecipeError(f"{KEY}: {path}: truncated; copy it again")
    return found


def shares_lora_a(path: Path) -> bool | None:
    """Whether q, k and v have the same lora_A in every layer, and so do gate and up, as NxD stores them.

    Adapters that are exported here do; PEFT trains one for each. None for a large file elsewhere, whose header alone is
    read.
    """
    found = tensors(path)
    if not elsewhere.is_whole(path):
        return None
    groups: dict[str, list[Tensor]] = {}
    for name, tensor in found.items():
        if ".lora_A." in name:
            module, _, rest = name.partition(".lora_A.")
            parent, _, projection = module.rpartition(".")
            groups.setdefault(f"{parent}.{_SHARED.get(projection, projection)}{rest}", []).append(tensor)
    with path.open("rb") as file:
        return all(_same(file, group) for group in groups.values())


def _same(file: BinaryIO, group: list[Tensor]) -> bool:
    first = _bytes(file, group[0])
    return all(_bytes(file, tensor) == first for tensor in group[1:])


def _bytes(file: BinaryIO, tensor: Tensor) -> bytes:
    file.seek(tensor.start)
    return file.read(tensor.size)


def _tensor(entry: dict[str, Any], data: int) -> Tensor:
    start, end = entry["data_offsets"]
    return Tensor(tuple(entry["shape"]), data + start, end - start)


@cache
def _supported() -> dict[str, dict[str, Any]]:
    return json.loads((SCRIPTS / "common" / "formats" / "peft_folder.json").read_text(encoding="utf-8"))
