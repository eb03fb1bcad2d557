"""Shapes that do not fit are refused with the reason, those that fit are not."""

from __future__ import annotations

import pytest

from runner.compose.recipe import compose
from runner.errors import RecipeError
from runner.plan.checks.feasibility import architecture_of, check, kv_size_multiplier, problems

LLAMA = ["model=llama3_8b", "dataset.seq_len=1024"]
ODD_VOCABULARY = [*LLAMA, "tp_size=4", "model.architecture.vocab_size=128257", "serve=none", "evaluate=none"]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["parallel.tp_size=3"], "3 does not divide num_attention_heads 8"),
        ([*LLAMA, "tp_size=64"], "64 does not divide num_attention_heads 32 of llama3-8b; try 1, 2, 4, 8, 16, 32"),
        ([*LLAMA, "tp_size=32", "parallel.kv_size_multiplier=2"], "8 K/V heads x 2 do not fit"),
        (
            [*LLAMA, "tp_size=16", "parallel.kv_size_multiplier=4", "hardware.layout=trn1"],
            "8 K/V heads x 4 do not fit tp_size 16",
        ),
        ([*LLAMA, "tp_size=8", "parallel.kv_size_multiplier=3"], "8 K/V heads x 3"),
        (["dataset.seq_len=100000"], "more than the 512 positions"),
        (["hardware=trn2"], "2.29 trains nxd on trn1 and trn2, not torch on trn2; choose sdk=neuron_2_33"),
        (
            ["hardware=trn1", "sdk=neuron_2_33"],
            "2.33 trains torch on trn2 and trn3, not torch on trn1; no release supports that",
        ),
        (["hardware=trn2", "sdk=neuron_2_33", "parallel.dp_size=2"], "torch_lora trains one copy"),
        (["model.path=/nowhere"], "model.path: /nowhere/config.json: no such file"),
    ],
)
def test_what_cannot_work_is_refused(overrides: list[str], expected: str) -> None:
    with pytest.raises(RecipeError) as caught:
        check(compose("quickstart", overrides).recipe)
    assert expected in str(caught.value)


@pytest.mark.parametrize(("tp_size", "expected"), [(1, 1), (8, 1), (16, 2), (32, 4)])
def test_kv_heads_are_copied_as_often_as_the_ranks_need(tp_size: int, expected: int) -> None:
    recipe = compose("quickstart", [*LLAMA, f"tp_size={tp_size}"]).recipe
    architecture = architecture_of(recipe)
    assert architecture is not None
    assert kv_size_multiplier(recipe, architecture) == expected
    check(recipe)


@pytest.mark.parametrize("trainer", ["torch_lora", "nxd_lora"])
def test_a_vocabulary_that_tp_size_does_not_divide_is_padded(trainer: str) -> None:
    hardware = ["hardware=cpu"] if trainer == "torch_lora" else ["hardware=trn2", "sdk=neuron_2_29"]
    check(compose("quickstart", [*ODD_VOCABULARY, *hardware, f"train={trainer}"]).recipe)


def test_optimum_neuron_does_not_pad_the_vocabulary() -> None:
    found = list(problems(compose("quickstart", [*ODD_VOCABULARY, "hardware=trn1", "train=optimum_lora"]).recipe))
    assert any("4 does not divide vocab_size 128257 of llama3-8b; try 1" in problem for problem in found), found


NXD = [*LLAMA, "hardware=trn2", "train=nxd_lora", "tp_size=32"]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["train=nxd_lora"], "or train=torch_lora"),
        ([*NXD, "parallel.dp_size=4"], "32 x dp_size 4 is more than the 64 cores of trn2.48xlarge"),
        (["parallel.dp_size=2"], "torch_lora trains one copy"),
        ([*NXD, "dataset.seq_len=1000"], "1000 is not a multiple of tp_size 32"),
    ],
)
def test_an_nxd_training_that_cannot_work_is_refused(overrides: list[str], expected: str) -> None:
    test_what_cannot_work_is_refused(overrides, expected)


def test_an_nxd_training_that_fits_is_not_refused() -> None:
    check(compose("quickstart", [*NXD, "parallel.dp_size=2"]).recipe)


NATIVE = ["train=torch_lora", "model=llama3_8b", "evaluate=none", "serve=none", "dataset.seq_len=1024"]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["hardware=trn1", "hardware.lnc=2"], "hardware.lnc: trn1.32xlarge does not support LNC=2"),
        (["hardware=cpu", "hardware.lnc=1"], "hardware.lnc: cpu does not support LNC=1"),
        ([*NXD, "hardware.lnc=1"], "hardware.lnc: neuronx-distributed"),
        ([*NATIVE, "hardware=trn3", "tp_size=8"], "8 is more than the 4 cores of trn3pd98.3xlarge"),
        ([*NATIVE, "hardware=trn3", "tp_size=16", "hardware.lnc=1"], "16 is more than the 8 cores"),
        (["hardware=trn3", "train=nxd_lora"], "2.33 trains torch on trn2 and trn3, not nxd on trn3"),
    ],
)
def test_hardware_that_does_not_fit_is_rejected(overrides: list[str], expected: str) -> None:
    reasons = list(problems(compose("quickstart", overrides).recipe))
    assert any(expected in reason for reason in reasons), reasons


@pytest.mark.parametrize("hardware", ["trn2", "trn2u", "trn2_3xlarge", "trn3"])
def test_lnc_1_makes_room_for_twice_the_ranks(hardware: str) -> None:
    check(compose("quickstart", [*NATIVE, f"hardware={hardware}", "sdk=neuron_2_33", "tp_size=4"]).recipe)
    recipe = compose(
        "quickstart", [*NATIVE, f"hardware={hardware}", "sdk=neuron_2_33", "tp_size=8", "hardware.lnc=1"]
    ).recipe
    check(recipe)


def test_shapes_that_are_incomplete_name_the_first_that_is_missing() -> None:
    recipe = compose("quickstart", ["model.source=hub", "model.path=a/b", "model.architecture={hidden_size:64}"]).recipe
    with pytest.raises(RecipeError, match="model.architecture.intermediate_size: not set"):
        list(problems(recipe))
