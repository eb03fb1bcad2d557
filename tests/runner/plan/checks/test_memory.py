"""The estimate follows what a trainer is told to recompute, to share and to leave out, and so does its advice."""

from __future__ import annotations

import dataclasses

import pytest

from runner.compose.recipe import compose
from runner.compose.schema import Recipe, Train
from runner.plan.checks import feasibility, memory
from tests.runner.plan.checks.test_impossible import changed, composed, followed, refusal

TOKENS, WIDTH, LAYERS = 2048, 2, 32  # a sequence in bf16 of Llama-3-8B
HIDDEN, MLP, HEADS, TP = 4096, 14336, 32, 8


def recipe_of(backend: str, **train: object) -> Recipe:
    recipe = changed(composed("trn1", "neuron_2_26"), "train", backend=backend, **train)
    return changed(recipe, "dataset", seq_len=TOKENS)


def activations(recipe: Recipe) -> int:
    assert recipe.model.architecture is not None
    return memory.estimate(recipe, recipe.model.architecture, 1).activations


def more(less: Recipe, greater: Recipe) -> float:
    """Elements a token that the second keeps and the first does not."""
    return (activations(greater) - activations(less)) / TOKENS / WIDTH


def nxd(**options: bool) -> Recipe:
    return recipe_of("nxd", nxd=dataclasses.replace(Train().nxd, **options))


def test_without_selective_recomputation_scores_and_silu_are_kept() -> None:
    recomputed = (HEADS * TOKENS + MLP) // TP
    layer = 4 * HIDDEN // TP + (2 * HIDDEN + 2 * HIDDEN // 4 + 3 * MLP) // TP + recomputed
    assert more(nxd(), nxd(selective_checkpointing=False)) == LAYERS * recomputed - layer  # and no second working set


def test_without_sequence_parallelism_what_lies_between_the_layers_is_whole() -> None:
    between = 4 * HIDDEN - 4 * HIDDEN // TP
    assert more(nxd(), nxd(sequence_parallel=False)) == (LAYERS + 2) * between


def test_flash_attention_keeps_no_scores() -> None:
    masked, flash = (recipe_of("optimum", attention=attention) for attention in ("masked", "flash"))
    assert more(flash, masked) == (LAYERS + 1) * HEADS * TOKENS // TP


@pytest.mark.parametrize("backend", ["nxd", "optimum"])
def test_whole_layers_computed_again_keep_their_input_alone(backend: str) -> None:
    again = recipe_of(backend, gradient_checkpointing=True)
    assert again.model.architecture is not None
    deeper = changed(again, "model", architecture=dataclasses.replace(again.model.architecture, num_hidden_layers=33))
    assert more(again, deeper) == HIDDEN // (TP if backend == "nxd" else 1)


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        ({"selective_checkpointing": False}, "train.nxd.selective_checkpointing=true"),
        ({"sequence_parallel": False}, "train.nxd.sequence_parallel=true"),
    ],
)
def test_the_advice_names_the_option_that_was_left_out(options: dict[str, bool], advice: str) -> None:
    needed = activations(nxd()), activations(nxd(**options))
    recipe = nxd(**options)
    assert recipe.model.architecture is not None
    other = feasibility.estimate(recipe, recipe.model.architecture).core - needed[1]
    limit = (other + sum(needed) / 2) / memory.GIB  # between what it needs with the option and without
    tight = changed(recipe, "hardware", core_memory_gb=limit)
    reason = refusal(tight)
    assert reason.endswith(f"try {advice}")
    assert list(feasibility.problems(followed(tight, reason))) == []


PUBLISHED = {  # parameters, as the hub shows for the published weights
    "llama3_8b": 8_030_261_248,
    "llama3_8b_instruct": 8_030_261_248,
    "llama3_1_8b": 8_030_261_248,
    "llama3_1_8b_instruct": 8_030_261_248,
    "llama3_1_70b": 70_553_706_496,
    "llama3_1_70b_instruct": 70_553_706_496,
    "llama3_3_70b_instruct": 70_553_706_496,
    "llama3_2_1b": 1_235_814_400,
    "llama3_2_1b_instruct": 1_235_814_400,
    "llama3_2_3b": 3_212_749_824,
    "llama3_2_3b_instruct": 3_212_749_824,
    "mistral_7b": 7_248_023_552,
    "qwen2_5_0_5b": 494_032_768,
    "qwen2_5_1_5b": 1_543_714_304,
    "qwen2_5_7b": 7_615_616_512,
    "qwen3_0_6b": 596_049_920,
    "qwen3_1_7b": 1_720_574_976,
    "qwen3_8b": 8_190_735_360,
}
TIED = {name for name in PUBLISHED if name.startswith(("llama3_2", "qwen2_5_0", "qwen2_5_1", "qwen3_0", "qwen3_1"))}


@pytest.mark.parametrize("option", PUBLISHED)
def test_the_shapes_of_a_model_option_give_the_published_number_of_parameters(option: str) -> None:
    shapes = compose("quickstart", [f"model={option}"]).recipe.model.architecture
    assert shapes is not None
    output_layer = shapes.vocab_size * shapes.hidden_size if option in TIED else 0  # counted, but not published
    assert memory.parameters(shapes) - output_layer == PUBLISHED[option]


SEVENTY_BILLION = ["llama3_8b_dolly_trn2", "model=llama3_3_70b_instruct"]


def seventy_billion(*overrides: str) -> Recipe:
    return compose(SEVENTY_BILLION[0], [*SEVENTY_BILLION[1:], *overrides]).recipe


@pytest.mark.parametrize(("tp_size", "weights"), [(32, 4.3), (64, 2.3)])
def test_70b_fits_a_trn2_48xlarge(tp_size: int, weights: float) -> None:
    recipe = seventy_billion(f"tp_size={tp_size}")
    assert recipe.model.architecture is not None
    assert list(feasibility.problems(recipe)) == []
    needs = feasibility.estimate(recipe, recipe.model.architecture)
    assert needs.weights / memory.GIB == pytest.approx(weights, abs=0.05)


def test_70b_on_too_few_cores_is_refused_with_what_would_fit() -> None:
    recipe = seventy_billion("tp_size=8")
    reason = refusal(recipe)
    assert "weights 16.4 GiB" in reason and "a core has 24 GiB" in reason
    assert list(feasibility.problems(followed(recipe, reason))) == []


def test_70b_on_eight_cores_of_trn1_is_refused() -> None:
    [reason] = feasibility.problems(seventy_billion("hardware=trn1", "sdk=neuron_2_26", "tp_size=8", "serve=none"))
    assert "weights 16.4 GiB" in reason and "a core has 16 GiB" in reason
