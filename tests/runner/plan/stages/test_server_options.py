"""The arguments of a server, on a CPU and by each generation of vLLM on Neuron."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runner.compose.recipe import compose
from runner.compose.schema import Recipe
from runner.errors import RecipeError
from runner.paths import ROOT
from runner.plan.build import build
from runner.plan.command import Artifacts, Place, StageCommand
from runner.plan.stages import serve, server_options

PLACE = Place(ROOT, Path("/store"), "python")
TRN2 = ["hardware=trn2", "tp_size=2", "serve=vllm"]
NATIVE = [*TRN2, "sdk.vllm=native", "sdk.vllm_lora=false"]


def recipe_of(*overrides: str) -> Recipe:
    return compose("quickstart", overrides).recipe


def command(*overrides: str) -> StageCommand:
    artifacts = Artifacts(PLACE)
    artifacts.keys = {"fetch": "fetch-1", "export": "export-2", "evaluate": "evaluate-3"}
    found = serve.command(recipe_of(*overrides), artifacts)
    assert found
    return found


def words(*overrides: str) -> list[str]:
    return [getattr(word, "text", word) for word in command(*overrides).arguments]


def value_of(found: list[str], flag: str) -> str:
    return found[found.index(flag) + 1]


def test_a_cpu_serves_with_the_environment_of_its_own(tmp_path: Path) -> None:
    found = words("serve=vllm", "sdk.serve_python=/venv/bin/python")
    assert value_of(found, "--python") == "/venv/bin/python"
    assert (value_of(found, "--generation"), value_of(found, "--dtype")) == ("cpu", "fp32")
    assert value_of(found, "--min-equal") == "1" and not {"--no-base", "--near-tie"} & set(found)
    elsewhere = Place(tmp_path, tmp_path)
    assert server_options.python(recipe_of("serve=vllm"), elsewhere) == str(tmp_path / ".venv-vllm/bin/python")


@pytest.mark.parametrize(
    ("overrides", "exact"),
    [
        (["serve=embedded"], True),
        (["serve=embedded", "serve.dtype=bf16", "evaluate.dtype=bf16"], True),
        (["serve=embedded", "serve.dtype=bf16"], False),
        (["serve=vllm", "sdk.serve_python=p"], True),
        (["serve=vllm", "sdk.serve_python=p", "serve.dtype=bf16", "evaluate.dtype=bf16"], False),
        (NATIVE, False),
    ],
)
def test_answers_must_be_equal_where_the_arithmetic_is_the_same(overrides: list[str], exact: bool) -> None:
    found = words(*overrides)
    assert ("--near-tie" not in found) == exact
    assert value_of(found, "--min-equal") == ("1" if exact else "0.8")


def test_an_environment_that_is_not_made_is_told_before_any_work() -> None:
    if (ROOT / ".venv-vllm").exists():
        pytest.skip("it is made here")
    with pytest.raises(RecipeError, match="serve=vllm: .*.venv-vllm/bin/python: no such file; run `make setup-vllm`"):
        build(recipe_of("serve=vllm"), PLACE)


def test_the_base_is_asked_where_nxd_inference_answers_for_it() -> None:
    """From Neuron 2.28 on, as the profiles say; where it cannot, neither the smoke test nor the server's probe asks."""
    found = words(*TRN2, "sdk.vllm=nxdi", "sdk.serve_python=/nxd/bin/python")
    assert "--no-base" not in found
    found = words(*TRN2, "sdk.vllm=nxdi", "sdk.serve_python=/nxd/bin/python", "sdk.vllm_base=false")
    assert found.count("--no-base") == 2
    assert value_of(found, "--adapter") == "adapter=/store/objects/export-2/adapter"
    assert (value_of(found, "--tp-size"), value_of(found, "--dtype"), value_of(found, "--max-model-len")) == (
        "2", "bf16", "512"  # twice the training's 256
    )  # fmt: skip
    rounding = (value_of(found, "--min-equal"), value_of(found, "--near-tie"))
    assert rounding == ("0.8", "0.5"), "bf16 on a device rounds otherwise than the evaluation"
    assert value_of(found, "--artifacts") == "/store/compiled"
    assert value_of(found, "--compile-cache") == "/store/neuron-cache", "what is compiled knows no adapter"


def test_options_of_the_generation_keep_their_types() -> None:
    config = {"skip_warmup": "true", "context_encoding_buckets": "[64,128]", "name": "x"}
    given = [f"+serve.neuron_config.{name}={value}" for name, value in config.items()]
    found = words(*TRN2, "sdk.vllm=fork", *given, "serve.cores=32-33", "serve.image=vllm:1", "serve.spare_adapters=0")
    assert json.loads(value_of(found, "--neuron-config")) == {
        "skip_warmup": True, "context_encoding_buckets": [64, 128], "name": "x"
    }  # fmt: skip
    assert (value_of(found, "--cores"), value_of(found, "--image")) == ("32-33", "vllm:1")


def test_where_there_is_no_lora_the_merged_model_is_served() -> None:
    found = words(*NATIVE)
    assert value_of(found, "--model") == "/store/objects/export-2/merged"
    assert value_of(found, "--served-model-name") == "adapter"
    assert "--adapter" not in found and found.count("--no-base") == 1, "the smoke test's"
    assert value_of(found, "--compile-cache") == "/store/neuron-cache/vllm" and "--artifacts" not in found


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["hardware=trn2", "serve=embedded"], "serve=embedded: serves on a CPU alone; take serve=vllm on trn2"),
        ([*TRN2, "sdk.vllm=cpu"], "sdk.vllm: cpu does not run on trn2.48xlarge"),
        (["serve=vllm", "sdk.vllm=nxdi"], "sdk.vllm: nxdi does not run on cpu"),
        ([*TRN2, "sdk.vllm=native"], "sdk.vllm_lora: the native plugin serves no LoRA"),
        (["serve=vllm", "train.lora.rank=600"], "train.lora.rank: vLLM serves ranks up to 512"),
    ],
)
def test_what_cannot_be_served_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        command(*overrides)


def test_the_ranks_are_those_that_the_server_takes() -> None:
    assert str(server_options.LORA_RANKS) in (ROOT / "scripts" / "common" / "serving" / "vllm_options.py").read_text()
