from __future__ import annotations

from pathlib import Path

import pytest
from planned import arguments, artifacts, command, recipe_of, value_of

from runner.compose.schema import Model
from runner.errors import RecipeError
from runner.plan.command import Artifacts, Place
from runner.plan.packages import GGUF, HUB
from runner.plan.stages import fetch

HUB_MODEL = ["model.source=hub", "model.path=me/llama"]


def test_a_model_of_the_hub_has_its_revision() -> None:
    made = command(fetch.command, *HUB_MODEL, "model.revision=v1")
    assert arguments(made)[:4] == ["--hub", "me/llama", "--revision", "v1"]
    assert made.uses == [HUB]


def test_a_folder_counts_by_its_content(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")

    def fingerprint() -> list[str]:
        made = command(fetch.command, "model.source=folder", f"model.path={tmp_path}")
        assert arguments(made)[:2] == ["--folder", str(tmp_path)]
        assert made.uses == []
        return [getattr(argument, "fingerprint", argument) for argument in made.arguments]

    before = fingerprint()
    assert str(tmp_path) not in before
    (tmp_path / "config.json").write_text('{"hidden_size": 8}')
    assert fingerprint() != before


def test_another_models_tokenizer_is_a_folder_if_there_is_one(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    local = command(fetch.command, *HUB_MODEL, f"model.tokenizer={tmp_path}", "model.tokenizer_revision=v1")
    assert value_of(arguments(local), "--tokenizer") == str(tmp_path)
    assert "--tokenizer-revision" not in arguments(local)
    hub = command(fetch.command, *HUB_MODEL, "model.tokenizer=me/other", "model.tokenizer_revision=v1")
    assert value_of(arguments(hub), "--tokenizer") == "me/other"
    assert value_of(arguments(hub), "--tokenizer-revision") == "v1"


def test_a_gguf_file_is_expanded_to_its_dtype(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    made = command(fetch.command, "model.source=gguf", f"model.path={tmp_path}/model.gguf", "model.dtype=fp32")
    assert arguments(made)[:4] == ["--gguf", f"{tmp_path}/model.gguf", "--dtype", "fp32"]
    assert made.uses == [GGUF]


def test_the_trainer_is_told_but_another_one_fetches_the_same_model() -> None:
    made = command(fetch.command, *HUB_MODEL)
    assert value_of(arguments(made), "--trainer") == "torch"
    texts = [argument for argument in made.arguments if isinstance(argument, str)]
    assert "--trainer" not in texts and "torch" not in texts


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Model(path=""), "model.path: says where the model is"),
        (Model(source="hub", path="llama"), "model.path: llama: a name on the hub is OWNER/NAME"),
        (Model(source="hub", path="me/llama/7b"), "OWNER/NAME"),
        (Model(source="gguf", path="package:nowhere/x.gguf"), "the Python package nowhere is not installed"),
        (Model(source="folder", path="/nowhere"), "model.path: /nowhere"),
    ],
)
def test_a_model_that_cannot_be_fetched_is_refused(model: Model, message: str) -> None:
    recipe = recipe_of()
    recipe.model = model
    with pytest.raises(RecipeError, match=message):
        fetch.command(recipe, Artifacts(Place(Path("/code"), Path("/store"))))


def test_a_package_of_another_python_is_not_looked_for_here() -> None:
    recipe = recipe_of("model.source=gguf", "model.path='package:nowhere/x.gguf'")
    assert "package:nowhere/x.gguf" in arguments(fetch.command(recipe, artifacts()))
