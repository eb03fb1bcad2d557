"""config.json of a Hugging Face folder, under the names that transformers 4 and 5 both read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common.files import read_json

_DEFAULT_THETA = 10000.0  # transformers', where a config names none


def read_config(folder: Path) -> dict[str, Any]:
    """The config with rope_theta, rope_scaling and torch_dtype.

    Transformers 5 saves them as rope_parameters and dtype, which transformers 4 ignores without a word: it would
    compute with other positions. Transformers 5 reads the old names too.
    """
    config = read_json(folder / "config.json")
    rope = dict(config.pop("rope_parameters", None) or {})
    if rope:
        config.pop("rope_scaling", None)
        config["rope_theta"] = rope.pop("rope_theta", config.get("rope_theta", _DEFAULT_THETA))
        if rope.get("rope_type", "default") != "default":
            config["rope_scaling"] = rope
    if "dtype" in config:
        config["torch_dtype"] = config.pop("dtype")
    return config
