"""A model folder that is not whole is refused before any work."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from runner.errors import RecipeError
from runner.paths import RECIPES
from runner.plan.checks import weights


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Path(shutil.copytree(RECIPES / "assets" / "tiny_llama", tmp_path / "model"))


def test_a_whole_model_passes(model: Path) -> None:
    weights.check(model, "model.path")


@pytest.mark.parametrize("kept", [0, 5, 100, 10_000, -1])
def test_a_truncated_file_is_named(model: Path, kept: int) -> None:
    file = model / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(RecipeError, match="model.path: .*model.safetensors"):
        weights.check(model, "model.path")


@pytest.mark.parametrize("content", [b"garbage" * 100, b"\2\0\0\0\0\0\0\0[]", b"\2\0\0\0\0\0\0\0{]"])
def test_what_is_no_safetensors_file_is_named(model: Path, content: bytes) -> None:
    (model / "model.safetensors").write_bytes(content)
    with pytest.raises(RecipeError, match="not a safetensors file"):
        weights.check(model, "model.path")


def test_a_folder_without_weights_says_what_to_do(model: Path) -> None:
    (model / "model.safetensors").unlink()
    with pytest.raises(RecipeError, match="save_pretrained"):
        weights.check(model, "model.path")
