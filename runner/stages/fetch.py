"""The base model → a Hugging Face folder."""

from __future__ import annotations

from runner.draft import OUTPUT, Artifacts, Draft, Word, options
from runner.errors import RecipeError
from runner.schema import Model, Recipe


def draft(recipe: Recipe, artifacts: Artifacts) -> Draft:
    model = recipe.model
    if not model.path:
        raise RecipeError("model.path: says where the model is; for example model.path=./my-llama")
    words = [*_source(model, artifacts), "--output", OUTPUT]
    return Draft(f"get the base model {model.name}", "fetch_model.py", words)


def _source(model: Model, artifacts: Artifacts) -> list[str | Word]:
    if model.source == "hub":
        return ["--hub", model.path, *options(revision=model.revision)]
    if model.source == "folder":
        return ["--folder", artifacts.outside(model.path, "model.path")]
    inside_package = model.path.startswith("package:")
    file = model.path if inside_package else artifacts.outside(model.path, "model.path")
    return ["--gguf", file, *options(dtype=model.dtype)]
