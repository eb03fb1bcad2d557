"""train_torch.py against what the real neuronx_distributed gave: tests/data/nxd_lora, made by tests/nxd/prove.py."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import export_adapter
import train_torch
from tests.nxd.reference import make_inputs

DATA = Path(__file__).resolve().parents[3] / "data" / "nxd_lora"
CASES = sorted(path.stem for path in DATA.glob("*.json"))
TOLERANCE = 1e-3


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reference")
    make_inputs(folder)
    return folder


@pytest.fixture(scope="module")
def trained(inputs) -> dict[str, tuple[list[float], Path]]:
    """Losses and adapters of this repository's trainer, by the flags: several cases share them."""
    return {}


def ours(inputs: Path, trained: dict, flags: list[str], capsys) -> tuple[list[float], Path]:
    key = " ".join(flags)
    if key not in trained:
        output = inputs / f"output{len(trained)}"
        arguments = ["--shards", inputs / "tp1", "--data", inputs / "tokens", "--output", output, *flags]
        train_torch.run(train_torch.flags().parse_args([str(word) for word in arguments]))
        losses = [float(loss) for loss in re.findall(r"\] loss=(\S+)", capsys.readouterr().err)]
        arguments = ["--model", inputs / "model", "--adapter", output, "--output", output / "exported"]
        export_adapter.run(export_adapter.flags().parse_args([str(word) for word in arguments]))
        trained[key] = losses, output / "exported" / "adapter" / "adapter_model.safetensors"
    return trained[key]


def trained_part(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Without the projections that NxD stores beside a target and leaves at zero: an export has none of them."""
    trained = {projection(name) for name, tensor in tensors.items() if ".lora_B." in name and tensor.any()}
    return {name: tensor for name, tensor in tensors.items() if projection(name) in trained}


def projection(name: str) -> str:
    return name.partition(".lora_")[0].rpartition(".")[2]


@pytest.mark.parametrize("case", CASES)
def test_losses_and_adapter_are_those_of_nxd(case, inputs, trained, capsys):
    theirs = json.loads((DATA / f"{case}.json").read_text())
    losses, path = ours(inputs, trained, theirs["flags"], capsys)
    np.testing.assert_allclose(losses, theirs["losses"], atol=TOLERANCE, rtol=0)
    expected, found = trained_part(load_file(DATA / f"{case}.safetensors")), load_file(path)
    assert found.keys() == expected.keys()
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], atol=TOLERANCE, rtol=0, err_msg=name)


def test_both_layouts_with_and_without_sequence_parallelism_are_there():
    cases = {f"copied_heads_{layout}{way}" for layout in ("trn1", "trn2") for way in ("", "_sequence_parallel")}
    assert cases <= {*CASES}
