"""The files of an adapter that a training continues."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from runner.compose.recipe import compose
from runner.compose.schema import LORA_TARGETS, Recipe
from runner.errors import RecipeError
from runner.execute.survey import survey
from runner.plan import elsewhere, initial_adapter
from runner.plan.build import build
from runner.plan.checks import initial_adapter as checks
from runner.plan.command import Place
from runner.plan.initial_adapter import CONFIG, WEIGHTS

LAYERS, HIDDEN = 4, 256  # of quickstart's model
SETTINGS = {"peft_type": "LORA", "r": 16, "lora_alpha": 32, "target_modules": list(LORA_TARGETS)}


def make_adapter(folder: Path, shared: bool = True, seed: int = 0, hidden: int = HIDDEN, **changes: object) -> Path:
    """A PEFT folder; with `shared`, q, k and v have one lora_A, and so have gate and up."""
    folder.mkdir(parents=True)
    (folder / CONFIG).write_text(json.dumps({**SETTINGS, **changes}))
    random = np.random.default_rng(seed)
    tensors = {}
    for name in LORA_TARGETS:
        draw = np.random.default_rng(seed + (name in ("gate_proj", "up_proj"))) if shared else random
        tensors[f"base_model.model.model.layers.{LAYERS - 1}.x.{name}.lora_A.weight"] = draw.random(
            (16, hidden), np.float32
        )
    save_file(tensors, folder / WEIGHTS)
    return folder


def recipe_of(*overrides: str) -> Recipe:
    return compose("quickstart", overrides).recipe


def train_key(*overrides: str) -> str:
    plan = build(recipe_of(*overrides), Place(Path("/code"), Path("/store")))
    return next(step.key for step in plan.steps if step.stage == "train")


@pytest.mark.parametrize("shared", [True, False])
def test_whether_projections_share_a_lora_a(tmp_path, shared):
    assert initial_adapter.shares_lora_a(make_adapter(tmp_path / "adapter", shared) / WEIGHTS) == shared


def test_a_folder_or_the_name_or_folder_of_a_run_is_found(tmp_path):
    runs = tmp_path / "runs"
    exported = make_adapter(runs / "first" / "artifacts" / "export" / "adapter")
    trial = make_adapter(runs / "sweeps" / "rank" / "001" / "artifacts" / "export" / "adapter")
    for name, folder in {exported: exported, runs / "first": exported, "first": exported, "rank/001": trial}.items():
        recipe = recipe_of(f"paths.runs={runs}", f"train.init_adapter={name}")
        assert initial_adapter.folder(recipe) == folder


def test_the_key_of_the_training_covers_the_content_of_the_adapter_and_not_its_name(tmp_path):
    first, same, other = (make_adapter(tmp_path / str(n), seed=seed) for n, seed in enumerate([0, 0, 5]))
    assert train_key(f"train.init_adapter={first}") == train_key(f"train.init_adapter={same}")
    assert len({train_key(), train_key(f"train.init_adapter={first}"), train_key(f"train.init_adapter={other}")}) == 3


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\2\0\0\0\0\0\0\0[]", b'\x40\0\0\0\0\0\0\0{"a": {"data_offsets": [0]}}']
)
def test_a_damaged_file_is_named(tmp_path, content):
    path = make_adapter(tmp_path / "adapter") / WEIGHTS
    path.write_bytes(content)
    with pytest.raises(RecipeError, match="train.init_adapter: .*adapter_model.safetensors"):
        initial_adapter.tensors(path)


def test_a_truncated_file_is_named(tmp_path):
    path = make_adapter(tmp_path / "adapter") / WEIGHTS
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(RecipeError, match="train.init_adapter: .*truncated"):
        initial_adapter.tensors(path)


def test_what_is_no_adapter_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    for name, message in (("nowhere", "no such folder, and no run of that name"), ("empty", "has no adapter_config")):
        with pytest.raises(RecipeError, match=f"train.init_adapter: .*{name}: {message}"):
            initial_adapter.folder(recipe_of(f"train.init_adapter={tmp_path / name}"))


def test_whether_a_large_adapter_elsewhere_shares_a_lora_a_is_not_known(tmp_path, monkeypatch):
    monkeypatch.setattr("runner.execute.survey.SMALL", 1000)
    there = make_adapter(tmp_path / "there", shared=False)
    recipe = recipe_of("train=nxd_lora", f"train.init_adapter=target:{there}")
    preview = elsewhere.preview_of(recipe.target)
    lines = (json.dumps(line).encode() for line in survey([str(there)], tmp_path / "digests"))
    preview.add(lines, {str(there): "train.init_adapter"}, "trn-a")
    located = elsewhere.replaced(recipe, lambda path: str(preview.path(path)))
    assert initial_adapter.shares_lora_a(initial_adapter.folder(located) / WEIGHTS) is None
    assert "not known here" in str(checks.unknown(recipe))
    assert checks.unknown(recipe_of("train=torch_lora", f"train.init_adapter=target:{there}")) is None
    assert checks.unknown(recipe_of("train=nxd_lora", f"train.init_adapter={there}")) is None
