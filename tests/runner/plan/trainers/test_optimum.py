"""The EKS guide's job as a plan: all its parameters, no conversion, in the Python that has optimum-neuron."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.compose.recipe import compose
from runner.errors import RecipeError
from runner.paths import ROOT
from runner.plan.build import build
from runner.plan.command import Place
from runner.plan.model import Step

PYTHON = "/opt/optimum/bin/python"


def steps(*overrides: str) -> dict[str, Step]:
    recipe = compose("llama3_8b_sql_trn1", overrides).recipe
    plan = build(recipe, Place(ROOT, Path("/store"), recipe.sdk.train_python or "python"))
    return {step.stage: step for step in plan.steps}


def option(step: Step, flag: str, words: int = 1) -> str:
    at = step.argv.index(flag)
    return " ".join(step.argv[at + 1 : at + 1 + words])


def test_the_guides_parameters_reach_the_trainer() -> None:
    train = steps()["train"]
    wanted = {
        "--max-steps": "250", "--learning-rate": "1e-05", "--batch-size": "8", "--seed": "23", "--tp-size": "8",
        "--rank": "8", "--alpha": "64", "--dropout": "0.05", "--dtype": "bf16", "--schedule": "linear",
    }  # fmt: skip
    assert {flag: option(train, flag) for flag in wanted} == wanted
    assert {"--rslora", "--gradient-checkpointing"} <= set(train.argv)
    assert option(train, "--targets", 7) == "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj"
    assert train.argv[:5] == (PYTHON, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=32")


def test_the_data_are_the_guides() -> None:
    planned = steps()
    assert option(planned["fetch"], "--tokenizer") == "meta-llama/Meta-Llama-3-8B-Instruct"
    tokenize = planned["tokenize"]
    wanted = {"--seq-len": "1024", "--seed": "23", "--train-rows": "50000", "--eval-rows": "500"}
    assert {flag: option(tokenize, flag) for flag in wanted} == wanted
    assert "--pack" in tokenize.argv
    assert "You are a text to SQL query translator." in option(tokenize, "--template")


def test_nothing_is_converted_and_the_merged_model_is_made() -> None:
    planned = steps()
    assert list(planned) == ["fetch", "tokenize", "train", "export", "evaluate"]
    assert "--merge" in planned["export"].argv
    assert option(planned["train"], "--model") == option(planned["export"], "--model")
    assert {step.argv[0] for step in planned.values()} == {PYTHON}


def test_attention_is_part_of_the_result() -> None:
    assert steps()["train"].key != steps("train.attention=flash")["train"].key
    assert option(steps("train.attention=flash")["train"], "--attention") == "flash"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("parallel.dp_size=5", "8 x dp_size 5 is more than the 32 cores of trn1.32xlarge"),
        ("hardware=cpu", "train=optimum_lora: trains on Neuron"),
    ],
)
def test_what_cannot_work_is_refused(override: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        steps(override)
    assert message in str(caught.value)


def test_a_tokenizer_of_ones_own_counts_by_its_content(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    file.write_text("{}")
    before = steps(f"model.tokenizer={tmp_path}")["fetch"]
    assert option(before, "--tokenizer") == str(tmp_path)
    file.write_text("{ }")
    assert steps(f"model.tokenizer={tmp_path}")["fetch"].key != before.key


def test_what_was_compiled_is_found_by_the_next_pod() -> None:
    assert steps()["train"].env["NEURON_COMPILE_CACHE_URL"] == "/store/neuron-cache"
    elsewhere = steps("train.compile_cache=s3://bucket/cache")["train"]
    assert elsewhere.env["NEURON_COMPILE_CACHE_URL"] == "s3://bucket/cache"
    assert elsewhere.key == steps()["train"].key
