from __future__ import annotations

import json

import pytest

from common.model_config import read_config

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"rope_theta": 5e5, "torch_dtype": "bfloat16"}, {"rope_theta": 5e5, "torch_dtype": "bfloat16"}),
        ({"rope_theta": 5e5, "rope_scaling": LLAMA3}, {"rope_theta": 5e5, "rope_scaling": LLAMA3}),
        ({"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}, {"rope_theta": 5e5}),
        ({"rope_parameters": {**LLAMA3, "rope_theta": 5e5}}, {"rope_theta": 5e5, "rope_scaling": LLAMA3}),
        ({"rope_parameters": LLAMA3, "rope_theta": 5e5}, {"rope_theta": 5e5, "rope_scaling": LLAMA3}),
        ({"rope_parameters": {"rope_type": "default"}, "rope_scaling": LLAMA3}, {"rope_theta": 10000.0}),
        ({"dtype": "float32"}, {"torch_dtype": "float32"}),
        ({}, {}),
    ],
)
def test_every_config_is_read_in_the_words_of_transformers_4(tmp_path, config, expected):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", **config}))
    assert read_config(tmp_path) == {"model_type": "llama", **expected}
