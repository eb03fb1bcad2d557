"""What a recipe serves and with which words: the embedded server's, or vLLM's of the recipe's generation."""

from __future__ import annotations

import json
from collections.abc import Sequence

from runner.compose.schema import Recipe, Serve
from runner.errors import RecipeError
from runner.paths import ROOT
from runner.plan.checks import feasibility
from runner.plan.checks.releases import advice, merged
from runner.plan.command import Argument, Artifacts, Output, Place, compile_cache, flags, not_fingerprinted
from runner.plan.packages import needed

LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # MaxLoRARanks of vllm/config/lora.py
PROGRAMS = {"embedded": "serve_embedded.py", "vllm": "serve_vllm.py"}


def check(recipe: Recipe) -> None:
    """Raises RecipeError for an engine that cannot serve this adapter on this hardware."""
    serve, sdk, rank = recipe.serve, recipe.sdk, recipe.train.lora.rank
    _check_names(serve)
    on_neuron = recipe.hardware.device != "cpu"
    if serve.engine == "embedded" and on_neuron:
        raise RecipeError(f"serve=embedded: serves on a CPU alone; take serve=vllm on {recipe.hardware.name}")
    if serve.engine == "vllm" and on_neuron == (sdk.vllm == "cpu"):
        raise RecipeError(f"sdk.vllm: {sdk.vllm} does not run on {recipe.hardware.name}; {advice(recipe)}")
    if recipe.hardware.cores and cores(recipe) > recipe.hardware.cores:
        raise RecipeError(
            f"serve.tp_size: {cores(recipe)} is more than the {recipe.hardware.cores} cores of {recipe.hardware.name}; "
            f"choose serve.tp_size={recipe.hardware.cores}"
        )
    if sdk.vllm == "native" and sdk.vllm_lora:
        raise RecipeError("sdk.vllm_lora: the native plugin serves no LoRA; false has the merged model served")
    if serve.engine == "vllm" and sdk.vllm_lora and rank > LORA_RANKS[-1]:
        raise RecipeError(f"train.lora.rank: vLLM serves ranks up to {LORA_RANKS[-1]}; sdk.vllm_lora=false merges")


def _check_names(serve: Serve) -> None:
    """The server programs take NAME=FOLDER."""
    for key in ("base_name", "adapter_name"):
        name = getattr(serve, key)
        if not name or name.startswith("-") or "=" in name:
            raise RecipeError(f"serve.{key}: {name!r}: a served name is not empty, begins with no - and has no = in it")
    if serve.base_name == serve.adapter_name:
        raise RecipeError(f"serve.adapter_name: {serve.adapter_name}: is serve.base_name too; give it another")


def asks_base(recipe: Recipe) -> bool:
    """Whether the server answers for the base model.

    A merged model has none beside it. With an NxD Inference that cannot, such a request ends the engine or gets the
    first adapter.
    """
    return not merged(recipe) and (recipe.serve.engine != "vllm" or recipe.sdk.vllm_base)


def exact(recipe: Recipe) -> bool:
    """Whether the server computes as the evaluation does, so that every answer must be equal."""
    same_dtype = dtype(recipe) == recipe.evaluate.dtype
    same_rounding = recipe.serve.engine == "embedded" or dtype(recipe) == "fp32"  # vLLM rounds bf16 at other places
    return recipe.hardware.device == "cpu" and not merged(recipe) and same_dtype and same_rounding


def near_tie(recipe: Recipe) -> float:
    """How far below its own token, in nats, the evaluation may have found the one at which an answer parts from it.

    Measured on quickstart after 40 steps, fp32 evaluated and bf16 served: correct answers part at 0.04 at most; of a
    wrong adapter's 24 first differences 6 lie within 0.5, of the base model's 7, at half the scale 10.
    """
    return 0.0 if exact(recipe) else 0.5


def min_equal(recipe: Recipe) -> float:
    """Share of answers that must be as evaluated; of the 8 that are asked by default one may round otherwise twice."""
    if recipe.serve.min_equal is not None:
        return recipe.serve.min_equal
    return 1.0 if exact(recipe) else 0.8


def max_lora_rank(rank: int) -> int:
    """What vLLM's --max-lora-rank must be for an adapter of that rank, the largest at most."""
    return next((limit for limit in LORA_RANKS if limit >= rank), LORA_RANKS[-1])


def dtype(recipe: Recipe) -> str:
    return recipe.serve.dtype or ("fp32" if recipe.hardware.device == "cpu" else "bf16")


def cores(recipe: Recipe) -> int:
    """NeuronCores that the server computes on; 0 where it needs none, or the recipe names them itself."""
    if recipe.serve.engine != "vllm" or recipe.hardware.device == "cpu" or recipe.serve.cores:
        return 0
    return recipe.serve.tp_size or recipe.parallel.tp_size


def python(recipe: Recipe, place: Place) -> str:
    """The Python that has vLLM, on the machine of `place`. Raises RecipeError when the CPU's is not made yet."""
    if place.container:
        return place.python
    if recipe.sdk.serve_python or recipe.hardware.device != "cpu":
        return recipe.sdk.serve_python or place.python
    made = place.code / ".venv-vllm" / "bin" / "python"
    if place.code == ROOT and not made.is_file():
        raise RecipeError(
            f"serve=vllm: {made}: no such file; run `make setup-vllm` in a checkout, or set sdk.serve_python to a "
            "Python with vLLM"
        )
    return str(made)


def packages(recipe: Recipe, place: Place) -> dict[str, list[str]]:
    """What the server's program imports, and what the environment of vLLM holds, unless it runs in an image."""
    found = {place.python: [*needed(PROGRAMS[recipe.serve.engine])]}
    if recipe.serve.engine == "vllm" and (place.container or not recipe.serve.image):
        found.setdefault(python(recipe, place), []).extend(recipe.sdk.serve_packages)
    return found


def named(name: str, artifacts: Artifacts) -> Argument:
    """An adapter under the name that asks it."""
    adapter = artifacts.path("export", "adapter")
    return Argument(f"{name}={adapter.text}", adapter.fingerprint)


def models(recipe: Recipe, artifacts: Artifacts, adapters: Sequence[Argument] = ()) -> list[str | Argument]:
    """Options that name what is loaded: the recipe's model and its adapter, or the `adapters` that are named."""
    serve = recipe.serve
    if merged(recipe):
        return ["--model", artifacts.path("export", "merged"), *flags(served_model_name=serve.adapter_name)]
    given = [word for one in adapters or [named(serve.adapter_name, artifacts)] for word in ("--adapter", one)]
    return ["--model", artifacts.path("fetch"), *given, *flags(served_model_name=serve.base_name)]


def server(
    recipe: Recipe, artifacts: Artifacts, port: int, output: Output, adapters: Sequence[Argument] = ()
) -> list[str | Argument]:
    """Options of the server program for the recipe's model and its adapter, or the `adapters` that are named."""
    serve, words = recipe.serve, models(recipe, artifacts, adapters)
    host = "0.0.0.0" if artifacts.place.container and serve.mode == "foreground" else serve.host  # a pod's network
    words += flags(host=host, port=port, dtype=dtype(recipe))
    if serve.engine == "embedded":
        return words
    return [
        *words, *([] if merged(recipe) or asks_base(recipe) else ["--no-base"]), *vllm(recipe, artifacts.place),
        *not_fingerprinted("--python", python(recipe, artifacts.place)),
        *flags(image=None if artifacts.place.container else serve.image, spare_adapters=serve.spare_adapters or None),
        *not_fingerprinted(*flags(timeout=serve.timeout)),
        "--output", output,
    ]  # fmt: skip


def vllm(recipe: Recipe, place: Place) -> list[str | Argument]:
    """Options of serve_vllm.py and generate.py alike. Compiled models lie beside the store's artifacts."""
    serve, sdk = recipe.serve, recipe.sdk
    words = flags(generation=sdk.vllm, max_model_len=_max_model_len(recipe), max_num_seqs=serve.max_num_seqs)
    if sdk.vllm == "cpu":
        return [*words]
    return [
        *words,
        *flags(tp_size=serve.tp_size or recipe.parallel.tp_size, cores=serve.cores),
        *flags(neuron_config=json.dumps(serve.neuron_config) if serve.neuron_config else None),
        *not_fingerprinted(*_kept(recipe, place)),
    ]  # fmt: skip


def _kept(recipe: Recipe, place: Place) -> list[str]:
    """Where compiled models and programs are kept. The native plugin has programs alone, in a folder, not in S3."""
    if recipe.sdk.vllm == "native":
        return ["--compile-cache", str(place.store / "neuron-cache" / "vllm")]
    return ["--artifacts", str(place.store / "compiled"), "--compile-cache", compile_cache(recipe, place)]


def _max_model_len(recipe: Recipe) -> int | None:
    if recipe.serve.max_model_len or recipe.sdk.vllm == "cpu":
        return recipe.serve.max_model_len
    architecture = feasibility.architecture_of(recipe)
    longest = architecture.max_position_embeddings if architecture else 2 * recipe.dataset.seq_len
    return min(longest, 2 * recipe.dataset.seq_len)


def port(recipe: Recipe, artifacts: Artifacts) -> int:
    """The recipe's; else one below the range that systems hand out by themselves, another for other adapters."""
    return recipe.serve.port or 20000 + int(artifacts.keys["export"].rpartition("-")[2], 16) % 10000
