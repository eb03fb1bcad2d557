from __future__ import annotations

import json
from pathlib import Path

from common.data.special_tokens import added_tokens, all_special_tokens, special_tokens


def test_named_and_listed_tokens_as_text_or_as_objects(tmp_path: Path) -> None:
    settings = {"bos_token": {"content": "<s>"}, "eos_token": "</s>", "pad_token": None}
    settings["extra_special_tokens"] = ["<a>", {"content": "<b>"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    assert special_tokens(tmp_path) == {"bos_token": "<s>", "eos_token": "</s>"}
    assert all_special_tokens(tmp_path) == ["<s>", "</s>", "<a>", "<b>"]


def test_the_older_file_wins_only_without_added_tokens(tmp_path: Path) -> None:
    (tmp_path / "special_tokens_map.json").write_text('{"eos_token": "old"}')
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "new"}')
    assert special_tokens(tmp_path) == {"eos_token": "old"}
    added = {"10": {"content": "b"}, "9": {"content": "a"}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "new", "added_tokens_decoder": added}))
    assert special_tokens(tmp_path) == {"eos_token": "new"}
    assert [token["content"] for token in added_tokens(tmp_path)] == ["a", "b"]
