"""Combinations that cannot work, generated: each is refused with one line that says why and what to do instead."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from runner.compose import schema
from runner.compose.recipe import compose
from runner.compose.schema import Recipe
from runner.errors import RecipeError
from runner.plan.checks import feasibility, memory, releases
from runner.plan.command import Artifacts, Place
from runner.plan.stages import modelling, server_options
from runner.plan.trainers import TRAINERS

HARDWARE = ("cpu", "trn1", "trn2")
RELEASES = ("cpu", *(f"neuron_2_{minor}" for minor in range(26, 34)))
# What the release notes of the Neuron SDK say; everything else is impossible.
WITH_NXD = {(f"neuron_2_{minor}", hardware, "nxd") for minor in range(26, 32) for hardware in ("trn1", "trn2")}
WITH_OPTIMUM = {("neuron_2_26", hardware, "optimum") for hardware in ("trn1", "trn2")}
POSSIBLE = {("cpu", "cpu", "torch"), ("neuron_2_33", "trn2", "torch")} | WITH_NXD | WITH_OPTIMUM
COMBINATIONS = list(itertools.product(RELEASES, HARDWARE, schema.BACKENDS))
ARTIFACTS = Artifacts(Place(Path("/code"), Path("/store"), "/python"))
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
    assert reason.endswith("not on trn1; choose sdk=neuron_2_26 or sdk=neuron_2_27 or sdk=neuron_2_28")


MACHINES, ENGINES = ("cpu", "trn1", "trn1_2xlarge", "trn2"), ("none", "embedded", "vllm")
ADVISED = re.compile(r"\b(sdk|train|serve|hardware|train\.nxd\.release|serve\.tp_size)=([\w.]+)")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("backend", schema.BACKENDS)
def test_what_is_advised_is_accepted(machine: str, backend: str, engine: str) -> None:
    """Of hardware, trainer, server and release, whatever goes wrong: each thing to choose mends what it is said for."""
    for sdk in RELEASES:
        recipe = chosen(machine, sdk, backend, engine)
        for problem in refusals(recipe):
            for changes in advised(problem):
                after = refusals(chosen(*changed_choice((machine, sdk, backend, engine), changes), changes))
                assert kind_of(problem) not in map(kind_of, after), (problem, changes, after)


def chosen(machine: str, sdk: str, backend: str, engine: str, changes: dict[str, str] | None = None) -> Recipe:
    release, cores = (changes or {}).get("train.nxd.release"), (changes or {}).get("serve.tp_size")
    recipe = dataclasses.replace(composed(machine), sdk=profile(sdk))
    recipe = changed(changed(recipe, "train", backend=backend), "serve", engine=engine)
    if cores:
        recipe = changed(recipe, "serve", tp_size=int(cores))
    return changed(recipe, "train", nxd=dataclasses.replace(recipe.train.nxd, release=release))


@cache
def profile(sdk: str) -> schema.Sdk:
    return dict(releases.profiles())[sdk]


def refusals(recipe: Recipe) -> list[str]:
    """What refuses a recipe for its hardware, trainer, server and release."""
    found = list(releases.problems(recipe))
    for check in (lambda: modelling.command(recipe, ARTIFACTS), lambda: server_options.check(recipe)):
        try:
            check()
        except RecipeError as error:
            found.append(str(error))
    return found


def kind_of(problem: str) -> str:
    return problem.partition(":")[0]


def advised(problem: str) -> Iterator[dict[str, str]]:
    """The choices after the last semicolon: what stands around `or` is to choose from, `with` joins."""
    for part in problem.rpartition("; ")[2].split(" or "):
        changes = dict(ADVISED.findall(part))
        assert changes, f"advises nothing: {problem}"
        yield changes


def changed_choice(choice: tuple[str, str, str, str], changes: dict[str, str]) -> tuple[str, str, str, str]:
    machine, sdk, backend, engine = choice
    if "hardware" in changes:
        machine, sdk = (
            changes["hardware"],
            {"cpu": "cpu", "trn1": "neuron_2_28", "trn2": "neuron_2_29"}[changes["hardware"]],
        )
    trainers = {row.option: name for name, row in TRAINERS.items()}
    backend = trainers[changes["train"]] if "train" in changes else backend
    return machine, changes.get("sdk", sdk), backend, changes.get("serve", engine)


def test_a_release_that_only_serves_leads_to_one_that_does_both() -> None:
    """sdk=neuron_2_32 advised 2.30 and 2.31, of which no modelling code is known: refused again."""
    reason = refusal(chosen("trn2", "neuron_2_32", "nxd", "vllm"))
    assert reason == (
        "sdk: 2.32 trains nothing, not nxd on trn2; "
        "choose sdk=neuron_2_26 or sdk=neuron_2_27 or sdk=neuron_2_28 or sdk=neuron_2_29"
    )


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
    assert "of memory per core" in reason
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
    ("train", {"learning_rate": 0.0}, "train.learning_rate: with 0, nothing is learned"),
    ("train", {"keep": "best"}, "train.keep: it is decided by evaluations"),
    ("train", {"early_stopping_patience": 2}, "train.early_stopping_patience: it is decided by evaluations"),
    ("train", {"warmup_ratio": 1.0}, "train.warmup_ratio: 1 of all steps"),
    ("train", {"warmup_ratio": 0.05, "max_steps": 1}, "train.warmup_ratio: 0.05 of 1 steps"),
    ("train", {"warmup_ratio": 0.6, "max_steps": 2}, "train.warmup_ratio: 0.6 of 2 steps"),
    ("train", {"lora": schema.Lora(targets=[])}, "train.lora.targets: no layer"),
    ("train", {"lora": schema.Lora(targets=["q_proj", "q_proj"])}, "lists a layer twice"),
    ("dataset", {"seq_len": 8193}, "dataset.seq_len: 8193 is more than the 8192 positions"),
    ("evaluate", {"enabled": True, "max_new_tokens": 8192}, "evaluate.max_new_tokens: 8192 leaves no room"),
    ("hardware", {"layout": "trn2"}, "hardware.layout: trn2 shards train wrongly on trn1.32xlarge"),
    ("hardware", {"host_memory_gb": 8.0}, "train needs 17.0 GiB of host memory, but the host has 8 GiB"),
    ("hardware", {"disk_gb": 20.0}, "of disk, but it has 18.6 GiB"),
    ("parallel", {"kv_size_multiplier": 3}, "8 K/V heads x 3 do not fit tp_size 8"),
    ("parallel", {"tp_size": 32, "kv_size_multiplier": 2}, "8 K/V heads x 2 do not fit tp_size 32"),
]


@pytest.mark.parametrize(("section", "values", "expected"), MISTAKES)
def test_a_setting_that_cannot_work_is_refused(section: str, values: dict[str, Any], expected: str) -> None:
    reason = refusal(changed(composed("trn1"), section, **values))
    assert expected in reason


@pytest.mark.parametrize(
    ("targets", "tp_size", "refused"),
    [
        (["up_proj"], 8, "fuses gate_proj and up_proj into one layer"),
        (["gate_proj", "up_proj", "q_proj"], 8, ""),
        (["q_proj", "v_proj"], 32, "fuses q_proj, k_proj and v_proj into one layer"),
        (["q_proj", "k_proj", "v_proj"], 32, ""),
    ],
)
def test_layers_that_optimum_neuron_makes_one_are_targeted_together(targets: list[str], tp_size: int, refused: str):
    recipe = changed(composed("trn1", "neuron_2_26"), "train", backend="optimum", lora=schema.Lora(targets=targets))
    reasons = list(feasibility.problems(changed(recipe, "parallel", tp_size=tp_size)))
    assert [refused in reason for reason in reasons] == ([True] if refused else [])


def test_the_disk_holds_a_merged_model_also_where_it_is_only_implied() -> None:
    """Neuron 2.33 serves merged models alone: as much as with export.merge=true."""
    recipe = changed(composed("trn2", "neuron_2_33"), "serve", engine="vllm")
    asked = changed(recipe, "export", merge=True)
    plain = changed(recipe, "serve", engine="none")
    sizes = [sum(disk(one).values()) for one in (recipe, asked, plain)]
    assert sizes[0] == sizes[1] == sizes[2] + disk(plain)["fetch"]


def test_the_disk_holds_the_compiled_model() -> None:
    recipe = changed(composed("trn2"), "serve", engine="vllm")
    assert disk(recipe)["serve"] == int(1.2 * disk(recipe)["fetch"])
    assert disk(changed(composed("cpu"), "serve", engine="vllm"))["serve"] == 0
    assert disk(changed(composed("trn2", "neuron_2_33"), "serve", engine="vllm"))["serve"] == 0, "it keeps programs"


def test_what_is_not_converted_needs_no_room() -> None:
    assert disk(changed(composed("trn1", "neuron_2_26"), "train", backend="optimum"))["convert"] == 0


def disk(recipe: Recipe) -> Any:
    architecture = feasibility.architecture_of(recipe)
    assert architecture
    return feasibility.estimate(recipe, architecture).disk


def test_a_rank_as_wide_as_the_model_is_refused() -> None:
    recipe = changed(compose("quickstart").recipe, "train", lora=schema.Lora(rank=1024))
    assert "train.lora.rank: 1024 is not less than the width" in refusal(recipe)


def test_one_copy_alone_trains_on_a_cpu() -> None:
    reason = refusal(changed(composed("cpu"), "parallel", dp_size=4))
    assert reason.endswith("try parallel.dp_size=1 train.accumulate=4")


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
