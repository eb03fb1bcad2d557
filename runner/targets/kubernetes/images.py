"""Checks that the container images of a recipe have what it needs, by what the recipe says of them."""

from __future__ import annotations

from collections.abc import Iterator

from runner.compose.schema import Recipe

_KEY = "target.kubernetes"


def problems(recipe: Recipe) -> Iterator[str]:
    """Why the images do not fit the recipe, and what to do."""
    yield from _stage_image(recipe)
    if recipe.serve.engine == "vllm":
        yield from _serve_image(recipe)


def _stage_image(recipe: Recipe) -> Iterator[str]:
    named, backend, wanted = recipe.target.kubernetes, recipe.train.backend, _option(recipe)
    settings = f"{_KEY}.image=ADDRESS {_KEY}.image_sdk={wanted} {_KEY}.image_trains=[{backend}]"
    if not named.image:
        yield f"{_KEY}.image: not set; {_build(recipe, backend)}, and set {settings}"
    elif recipe.hardware.device == "cpu":
        return  # any image with the packages works; the run checks them before it starts
    elif named.image_sdk != wanted:
        has = f"contains {named.image_sdk}" if named.image_sdk else "contains an unknown Neuron release"
        yield (
            f"{_KEY}.image_sdk: {named.image} {has}, the recipe needs {wanted} (sdk.name); "
            f"{_build(recipe, backend)}, and set {settings}"
        )
    elif backend not in named.image_trains:
        has = " and ".join(named.image_trains) or "no trainer"
        advice = f"{_build(recipe, backend)}, and set {settings}"
        yield f"{_KEY}.image_trains: {named.image} has {has}, not {backend}; {advice}"


def _serve_image(recipe: Recipe) -> Iterator[str]:
    """vLLM has a separate image for the Deployment; the steps of the Job run in the image of the stages."""
    named = recipe.target.kubernetes
    if not named.serve_image:
        settings = f"{_KEY}.serve_image=ADDRESS"
        yield f"{_KEY}.serve_image: serve=vllm needs an image with vLLM; {_build(recipe, 'vllm')}, and set {settings}"
    elif recipe.serve.mode == "smoke" and named.serve_image != named.image:
        yield (
            "serve.mode: the smoke test would run in the image of the stages, which has no vLLM; "
            "set serve.mode=foreground, which serves in target.kubernetes.serve_image, or serve=none"
        )


def _option(recipe: Recipe) -> str:
    """The option of the group sdk for the recipe's release."""
    name = recipe.sdk.name
    return name if name == "cpu" else f"neuron_{name.replace('.', '_')}"


def _build(recipe: Recipe, what: str) -> str:
    file = recipe.sdk.images.get(what)
    if file:
        return f"build {file} (docker build -f {file} .) and push it"
    return f"build one with Neuron {recipe.sdk.name} and {what}, as the Dockerfiles in recipes/images do for others"
