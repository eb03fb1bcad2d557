"""Whether the container images that a recipe names can do what it asks: what they have is said, never guessed."""

from __future__ import annotations

from collections.abc import Iterator

from runner.compose.schema import Recipe

_KEY = "target.kubernetes"


def problems(recipe: Recipe) -> Iterator[str]:
    """Why the images and the recipe do not go together, and what to do."""
    yield from _of_training(recipe)
    if recipe.serve.engine == "vllm":
        yield from _of_serving(recipe)


def _of_training(recipe: Recipe) -> Iterator[str]:
    named, backend, wanted = recipe.target.kubernetes, recipe.train.backend, _option(recipe)
    says = f"{_KEY}.image=ADDRESS {_KEY}.image_sdk={wanted} {_KEY}.image_trains=[{backend}]"
    if not named.image:
        yield f"{_KEY}.image: names no image; {_build(recipe, backend)}, and say {says}"
    elif recipe.hardware.device == "cpu":
        return  # any environment of the stages will do: the run looks at its packages before it starts
    elif named.image_sdk != wanted:
        has = f"has the software of {named.image_sdk}" if named.image_sdk else "is not said to have any Neuron release"
        yield (
            f"{_KEY}.image_sdk: {named.image} {has}, the recipe wants {wanted} (sdk.name); "
            f"{_build(recipe, backend)}, and say {says}"
        )
    elif backend not in named.image_trains:
        has = " and ".join(named.image_trains) or "no trainer"
        yield f"{_KEY}.image_trains: {named.image} has {has}, not {backend}; {_build(recipe, backend)}, and say {says}"


def _of_serving(recipe: Recipe) -> Iterator[str]:
    """vLLM has an image of its own, in which a Deployment runs; the steps of the Job run in the image of the stages."""
    named = recipe.target.kubernetes
    if not named.serve_image:
        says = f"say {_KEY}.serve_image=ADDRESS"
        yield f"{_KEY}.serve_image: serve=vllm needs an image with vLLM; {_build(recipe, 'vllm')}, and {says}"
    elif recipe.serve.mode == "smoke" and named.serve_image != named.image:
        yield (
            "serve.mode: the smoke test would run in the image of the stages, which has no vLLM; "
            "say serve.mode=foreground, which serves in target.kubernetes.serve_image, or serve=none"
        )


def _option(recipe: Recipe) -> str:
    """The sdk= option of the recipe's release."""
    name = recipe.sdk.name
    return name if name == "cpu" else f"neuron_{name.replace('.', '_')}"


def _build(recipe: Recipe, what: str) -> str:
    file = recipe.sdk.images.get(what)
    if file:
        return f"build {file} (docker build -f {file} .) and push it"
    return f"build one with Neuron {recipe.sdk.name} and {what}, as the Dockerfiles in recipes/images do for others"
