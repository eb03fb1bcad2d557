"""The special tokens that a model folder names, read as transformers reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common.files import read_json

_MORE = ("additional_special_tokens", "extra_special_tokens")  # transformers 4's name, and 5's


def tokenizer_settings(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json; special_tokens_map.json goes before it where it has no added_tokens_decoder."""
    settings, older = (_read(folder / name) for name in ("tokenizer_config.json", "special_tokens_map.json"))
    return settings if "added_tokens_decoder" in settings else settings | older


def special_tokens(folder: Path) -> dict[str, str]:
    """bos_token, eos_token, ... by name, given as text or as {"content": text}."""
    settings = tokenizer_settings(folder)
    return {key: _text(value) for key, value in settings.items() if key.endswith("_token") and _text(value)}


def all_special_tokens(folder: Path) -> list[str]:
    """Those that have a name, and the others that the settings list."""
    settings = tokenizer_settings(folder)
    listed = [token for name in _MORE if isinstance(settings.get(name), list) for token in settings[name]]
    return [*special_tokens(folder).values(), *filter(None, map(_text, listed))]


def added_tokens(folder: Path) -> list[dict[str, Any]]:
    """The arguments of AddedToken for the tokens that were added to the vocabulary, in the order of their ids."""
    by_id = tokenizer_settings(folder).get("added_tokens_decoder") or {}
    return [by_id[key] for key in sorted(by_id, key=int)]


def _text(value: Any) -> str:
    content = value.get("content") if isinstance(value, dict) else value
    return content if isinstance(content, str) else ""


def _read(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}
