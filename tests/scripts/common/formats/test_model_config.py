"""What a config.json may say: the cases that the runner is tested with too, and what transformers makes of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from common.formats import model_config
from common.program import BadInput

CASES = json.loads((Path(__file__).parents[3] / "data" / "model_configs.json").read_text())
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 64}


def write(folder: Path, config: dict[str, object]) -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("case", CASES, ids=lambda case: json.dumps(case["changes"])[:60])
def test_a_config_is_honoured_or_refused(tmp_path: Path, case: dict) -> None:
    folder = write(tmp_path, {"model_type": "llama", **case["changes"]})
    if case["problem"] is None:
        model_config.read(folder, case["trainer"])
        return
    with pytest.raises(BadInput) as caught:
        model_config.read(folder, case["trainer"])
    assert str(caught.value).startswith(f"{folder / 'config.json'}: {case['problem']}"), caught.value
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"rope_theta": 5e5},
        {"rope_theta": 5e5, "rope_scaling": LLAMA3},
        {"rope_theta": None, "rope_scaling": None},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
        {"rope_parameters": {**LLAMA3, "rope_theta": 5e5}},
        {"rope_theta": 1e6, "rope_parameters": LLAMA3},
        {"rope_theta": 1e6, "rope_scaling": LLAMA3, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
    ],
    ids=json.dumps,
)
def test_rotary_parameters_are_those_of_transformers(tmp_path: Path, config: dict) -> None:
    from transformers import LlamaConfig

    given = {key: value for key, value in config.items() if value is not None}
    expected = LlamaConfig(**json.loads(json.dumps(given))).rope_parameters
    assert model_config.rope(config) == expected
    old = model_config.with_old_names(config)
    assert model_config.rope({key: old[key] for key in ("rope_theta", "rope_scaling") if key in old}) == expected
    assert model_config.with_old_names(old) is old


def test_the_dtype_is_where_transformers_4_looks() -> None:
    assert model_config.with_old_names({"dtype": "float32"})["torch_dtype"] == "float32"
