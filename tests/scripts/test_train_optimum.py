"""What train_optimum.py refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import train_optimum
from common import program
from common.formats import model_config
from tests.scripts.training_files import LLAMA3_ROPE, make_model, make_tokens

ROOT = Path(__file__).parents[2]
RECORD = json.loads((ROOT / "tests/data/optimum_0_4_5.json").read_text())


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("optimum")
    make_model(folder / "model")
    make_tokens(folder / "tokens")
    return folder


def refused(files: Path, capsys: pytest.CaptureFixture[str], *flags: str, model: str = "model") -> str:
    """Run the program in this process, see it refuse, and return the one line that it says."""
    output = files / "out"
    argv = ["--model", str(files / model), "--data", str(files / "tokens"), "--output", str(output), *flags]
    assert program.main(train_optimum.run, train_optimum.flags(), argv) == 2
    assert not output.exists()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize(
    ("changes", "flags", "world", "message"),
    [
        (
            {"model_type": "gpt2"},
            [],
            1,
            "model_type 'gpt2' is not supported, only llama, mistral, qwen2, qwen3",
        ),
        ({"model_type": "mistral"}, [], 1, "'mistral' is not supported by the trainer optimum, only by torch, nxd"),
        ({}, ["--tp-size", "2"], 3, "--tp-size 2 does not divide the 3 processes of this run"),
        ({}, ["--tp-size", "3"], 3, "--tp-size 3 does not divide num_attention_heads"),
        ({}, ["--targets", "gate_proj"], 1, "gate_proj, up_proj are one fused layer: add up_proj, or drop all"),
        ({"num_key_value_heads": 1}, ["--tp-size", "2", "--targets", "q_proj", "v_proj"], 2, "layer: add k_proj"),
        ({"rope_parameters": {"rope_theta": 5e5}}, [], 1, "does not read rope_parameters: add rope_theta 500000.0"),
        ({"rope_parameters": LLAMA3_ROPE}, [], 1, "and rope_scaling with its other values"),
        ({}, ["--targets", "q_proj", "v_proj"], 1, "has no optimum-neuron"),  # no head is copied: allowed
        ({}, [], 1, "has no optimum-neuron: pip install 'optimum-neuron[training]==0.4.5'"),
    ],
)
def test_what_the_library_cannot_do_is_refused(files, tmp_path, capsys, monkeypatch, changes, flags, world, message):
    config = json.loads((files / "model" / "config.json").read_text())
    folder = tmp_path / "model"
    folder.mkdir()
    for key in ("rope_parameters", "rope_theta"):
        config.pop(key, None)
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    monkeypatch.setenv("WORLD_SIZE", str(world))
    assert message in refused(files, capsys, "--tp-size", "1", *flags, model=str(folder))


def test_versions_and_models_are_those_of_the_record() -> None:
    families = model_config.FAMILIES
    assert sorted(name for name in families if "optimum" in families[name]["trainers"]) == RECORD["models"]
    assert train_optimum.LIBRARY.endswith(f"=={RECORD['versions']['optimum-neuron']}")
    assert {"trl==0.24.0", "peft==0.17.0"} <= set(RECORD["training"])
