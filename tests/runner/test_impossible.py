"""Combinations that cannot work, generated: each is refused with one line that says why and what to do instead."""

from __future__ import annotations

import dataclasses
import itertools
from functools import cache
from typing import Any

import pytest

from runner import backends, feasibility, memory, schema
from runner.compose import compose
from runner.schema import Recipe

HARDWARE = ("cpu", "trn1", "trn2")
RELEASES = ("cpu", *(f"neuron_2_{minor}" for minor in range(26, 34)))
# What the release notes of the Neuron SDK say; everything else is impossible.
WITH_NXD = {(f"neuron_2_{minor}", hardware, "nxd") for minor in range(26, 32) for hardware in ("trn1", "trn2")}
WITH_OPTIMUM = {("neuron_2_26", hardware, "optimum") for hardware in ("trn1", "trn2")}
POSSIBLE = {("cpu", "cpu", "torch"), ("neuron_2_33", "trn2", "torch")} | WITH_NXD | WITH_OPTIMUM
COMBINATIONS = list(itertools.product(RELEASES, HARDWARE, schema.BACKENDS))
LLAMA_CUTS = {1, 2, 4, 8, 16, 32}  # divide 32 heads, 14336 and 128256


@cache
def composed(hardware: str, sdk: str | None = None) -> Recipe:
    """Llama-3-8B in bf16, trained with NxD (on a CPU with torch), neither evaluated nor served."""
    overrides = ["model=llama3_8b", f"hardware={hardware}", "tp_size=8", "evaluate=none", "serve=none"]
    recipe = compose("quickstart", [*overrides, *([f"sdk={sdk}"] if sdk else [])]).recipe
    backend = "torch" if hardware == "cpu" else "nxd"
    recipe = changed(recipe, "train", backend=backend, dtype="bf16", batch_size=1)
    return changed(recipe, "dataset", seq_len=1024)


def changed(recipe: Recipe, section: str, **values: Any) -> Recipe:
    return dataclasses.replace(recipe, **{section: dataclasses.replace(getattr(recipe, section), **values)})


def refusal(recipe: Recipe) -> str:
    """The one reason for which a recipe is refused; what to do comes after its last colon or semicolon."""
    reasons = list(feasibility.problems(recipe))
    assert reasons, "nothing was refused"
    assert all("\n" not in reason for reason in reasons)
    return reasons[0]


def says_what_to_do(reason: str) -> bool:
    return any(f" {word} " in f" {reason} " for word in ("choose", "say", "try", "take", "leave", "name", "put", "sdk"))


def test_every_back_end_has_its_row() -> None:
    assert set(backends.BACKENDS) == set(schema.BACKENDS)


@pytest.mark.parametrize(("sdk", "hardware", "backend"), [one for one in COMBINATIONS if one not in POSSIBLE])
def test_a_release_that_cannot_train_there_is_refused(sdk: str, hardware: str, backend: str) -> None:
    recipe = changed(composed(hardware, sdk), "train", backend=backend)
    reason = refusal(recipe)
    assert backend in reason
    assert says_what_to_do(reason)


@pytest.mark.parametrize(("sdk", "hardware", "backend"), sorted(POSSIBLE))
def test_a_release_that_can_train_there_is_not(sdk: str, hardware: str, backend: str) -> None:
    recipe = changed(composed(hardware, sdk), "train", backend=backend)
    assert list(feasibility.problems(recipe)) == []


@pytest.mark.parametrize("sdk", RELEASES[4:])
def test_trn1_is_served_up_to_2_28(sdk: str) -> None:
    recipe = changed(composed("trn1", sdk), "serve", engine="vllm")
    [reason] = [reason for reason in feasibility.problems(recipe) if "serves on" in reason]
    assert reason.endswith("not on trn1; choose sdk=neuron_2_26 or neuron_2_27 or neuron_2_28")


@pytest.mark.parametrize("hardware", ["trn1", "trn2"])
def test_the_default_release_trains_and_serves(hardware: str) -> None:
    recipe = changed(composed(hardware), "serve", engine="vllm")
    assert recipe.sdk.vllm_lora
    assert list(feasibility.problems(recipe)) == []


@pytest.mark.parametrize("tp_size", [size for size in range(1, 41) if size not in LLAMA_CUTS])
def test_a_cut_that_leaves_a_rest_is_refused(tp_size: int) -> None:
    reason = refusal(changed(composed("cpu"), "parallel", tp_size=tp_size))
    assert f"tp_size: {tp_size} does not divide" in reason
    assert reason.endswith("try 1, 2, 4, 8, 16, 32")


@pytest.mark.parametrize(
    ("tp_size", "dp_size"),
    [pair for pair in itertools.product(sorted(LLAMA_CUTS), (1, 2, 3, 4, 8)) if pair[0] * pair[1] not in (1, 2, 8, 32)],
)
def test_a_number_of_processes_that_trn1_does_not_start_is_refused(tp_size: int, dp_size: int) -> None:
    reason = refusal(changed(composed("trn1"), "parallel", tp_size=tp_size, dp_size=dp_size))
    more = f"{tp_size} x dp_size {dp_size}" if dp_size > 1 else str(tp_size)
    assert reason.startswith(f"parallel.tp_size: {more} ")
    assert "cores of trn1.32xlarge" in reason or "starts 1, 2, 8, 32" in reason


TOO_LARGE = [
    (hardware, batch_size, seq_len, tp_size)
    for hardware, batch_size, seq_len, tp_size in itertools.product(("trn1", "trn2"), (32, 64), (2048, 8192), (1, 2, 8))
]


@pytest.mark.parametrize(("hardware", "batch_size", "seq_len", "tp_size"), TOO_LARGE)
def test_what_does_not_fit_a_core_is_refused_with_what_would(
    hardware: str, batch_size: int, seq_len: int, tp_size: int
) -> None:
    recipe = changed(composed(hardware), "train", batch_size=batch_size, accumulate=2)
    recipe = changed(changed(recipe, "dataset", seq_len=seq_len), "parallel", tp_size=tp_size)
    reason = refusal(recipe)
    assert "of memory a core" in reason
    assert f"a core has {recipe.hardware.core_memory_gb:g} GiB" in reason
    assert list(feasibility.problems(followed(recipe, reason))) == []


def followed(recipe: Recipe, reason: str) -> Recipe:
    """The recipe after the overrides that the reason says to try."""
    words = {"true": True, "bf16": "bf16"}
    advice = reason.rpartition("; try ")[2]
    assert "=" in advice, reason
    for word in advice.split():
        key, _, value = word.partition("=")
        recipe = feasibility._replaced(recipe, key, words.get(value) or int(value))
    return changed(recipe, "parallel", kv_size_multiplier=None)


MISTAKES = [
    ("train", {"learning_rate": 0.0}, "train.learning_rate: 0 learns nothing"),
    ("train", {"warmup_ratio": 1.0}, "train.warmup_ratio: 1 of all steps"),
    ("train", {"warmup_ratio": 0.05, "max_steps": 1}, "train.warmup_ratio: 0.05 of 1 steps"),
    ("train", {"warmup_ratio": 0.6, "max_steps": 2}, "train.warmup_ratio: 0.6 of 2 steps"),
    ("train", {"lora": schema.Lora(targets=[])}, "train.lora.targets: no layer"),
    ("train", {"lora": schema.Lora(targets=["q_proj", "q_proj"])}, "named twice"),
    ("dataset", {"seq_len": 8193}, "dataset.seq_len: 8193 is more than the 8192 positions"),
    ("evaluate", {"enabled": True, "max_new_tokens": 8192}, "evaluate.max_new_tokens: 8192 leaves none"),
    ("hardware", {"layout": "trn2"}, "hardware.layout: trn2 shards train wrongly on trn1.32xlarge"),
    ("hardware", {"host_memory_gb": 8.0}, "train needs 17.0 GiB of the host's memory, which has 8 GiB"),
    ("hardware", {"disk_gb": 20.0}, "of disk, it has 18.6 GiB"),
    ("parallel", {"kv_size_multiplier": 3}, "8 K/V heads x 3 do not fit tp_size 8"),
    ("parallel", {"tp_size": 32, "kv_size_multiplier": 2}, "8 K/V heads x 2 do not fit tp_size 32"),
]


@pytest.mark.parametrize(("section", "values", "expected"), MISTAKES)
def test_a_setting_that_cannot_work_is_refused(section: str, values: dict[str, Any], expected: str) -> None:
    reason = refusal(changed(composed("trn1"), section, **values))
    assert expected in reason


def test_a_rank_as_wide_as_the_model_is_refused() -> None:
    recipe = changed(compose("quickstart").recipe, "train", lora=schema.Lora(rank=1024))
    assert "train.lora.rank: 1024 is not less than the width" in refusal(recipe)


def test_one_copy_alone_trains_on_a_cpu() -> None:
    reason = refusal(changed(composed("cpu"), "parallel", dp_size=4))
    assert reason.endswith("say parallel.dp_size=1 train.accumulate=4")


def test_the_guides_settings_fit() -> None:
    """trn2: tp 32 at 2048 tokens. trn1: tp 8 x 4 copies, batch 8 at 1024 tokens, with checkpointing and not without."""
    trn2 = changed(changed(composed("trn2"), "parallel", tp_size=32), "dataset", seq_len=2048)
    trn1 = changed(composed("trn1", "neuron_2_26"), "parallel", dp_size=4)
    trn1 = changed(trn1, "train", backend="optimum", batch_size=8, gradient_checkpointing=True)
    assert [list(feasibility.problems(recipe)) for recipe in (trn2, trn1)] == [[], []]
    without = changed(trn1, "train", gradient_checkpointing=False)
    assert refusal(without).endswith("a core has 16 GiB; try train.gradient_checkpointing=true")


def test_there_are_enough() -> None:
    assert len(COMBINATIONS) - len(POSSIBLE) + len(TOO_LARGE) + len(MISTAKES) >= 50


def test_parameters_of_llama() -> None:
    architecture = composed("cpu").model.architecture
    assert architecture is not None
    assert memory.parameters(architecture) == 8_030_261_248  # the number of parameters of Meta-Llama-3-8B
