"""The special tokens that a model folder names."""

from __future__ import annotations

from pathlib import Path

from common.files import read_json


def special_tokens(folder: Path) -> dict[str, str]:
    """bos_token, eos_token, ... of tokenizer_config.json, given as text or as {"content": text}."""
    path = folder / "tokenizer_config.json"
    settings = read_json(path) if path.is_file() else {}
    named = {key: value for key, value in settings.items() if key.endswith("_token")}
    texts = {key: value["content"] if isinstance(value, dict) else value for key, value in named.items()}
    return {key: value for key, value in texts.items() if isinstance(value, str)}
