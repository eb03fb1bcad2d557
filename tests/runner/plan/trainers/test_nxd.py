"""The plan of train=nxd_lora: command lines and environment as AWS's launch script has them, without its faults."""

from __future__ import annotations

from pathlib import Path

import pytest

import fetch_nxd_model
from runner.compose.recipe import compose
from runner.compose.schema import NXD_RELEASES
from runner.errors import RecipeError
from runner.paths import ROOT
from runner.plan.build import build
from runner.plan.command import Place, launcher
from runner.plan.model import Step

PYTHON = "/opt/aws_neuronx_venv_pytorch_2_8_nxd_training/bin/python"
GUIDE = [
    "model=llama3_8b", "dataset=dolly", "hardware=trn2", "tp_size=32", "train=nxd_lora", "epochs=3", "serve=none",
    f"sdk.train_python={PYTHON}",
]  # fmt: skip


def steps(*overrides: str) -> dict[str, Step]:
    recipe = compose("quickstart", [*GUIDE, *overrides]).recipe
    return {step.stage: step for step in build(recipe, Place(ROOT, Path("/store"), PYTHON)).steps}


def after(argv: tuple[str, ...], flag: str) -> str:
    return argv[argv.index(flag) + 1]


def test_the_modelling_code_comes_before_anything_costly() -> None:
    assert list(steps())[:2] == ["modelling", "fetch"]
    assert after(steps()["train"].argv, "--model-code") == f"/store/objects/{steps()['modelling'].key}"


@pytest.mark.parametrize(
    ("overrides", "release"),
    [
        ([], "2.29"),  # of hardware=trn2
        (["sdk=neuron_2_26"], "2.26"),
        (["hardware=trn1"], "2.28"),
        (["sdk=neuron_2_26", "train.nxd.release=2.28"], "2.28"),
        (["sdk=neuron_2_30", "train.nxd.release=2.29"], "2.29"),
    ],
)
def test_the_modelling_code_is_that_of_the_sdk_unless_the_recipe_names_another(overrides: list[str], release: str):
    assert after(steps(*overrides)["modelling"].argv, "--release") == release


@pytest.mark.parametrize("sdk", ["2_30", "2_31"])
def test_an_sdk_without_known_modelling_code_is_refused(sdk: str) -> None:
    with pytest.raises(RecipeError, match=r"train.nxd.release: no modelling code is known for SDK 2.3\d .*=2.29"):
        steps(f"sdk=neuron_{sdk}")


def test_the_releases_of_the_recipe_are_those_of_the_stage_program() -> None:
    assert tuple(fetch_nxd_model.RELEASES) == NXD_RELEASES


def test_training_is_started_by_torchrun_once_a_core() -> None:
    argv = steps()["train"].argv
    assert argv[:5] == (PYTHON, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=32")
    assert argv[5] == str(ROOT / "scripts" / "train_nxd.py")
    assert {"--sequence-parallel", "--selective-checkpointing", "--no-zero1"} <= {*argv}
    assert "--nproc-per-node=64" in steps("parallel.dp_size=2")["train"].argv


def test_the_environment_is_that_of_the_launch_script() -> None:
    env = steps()["train"].env
    cores = {"NEURON_RT_NUM_CORES", "NUM_NEURONCORES", "TPU_NUM_DEVICES", "TPU_CHIPS_PER_HOST_BOUNDS"}
    assert {env[name] for name in cores} == {"32"}
    assert env["NEURON_CC_FLAGS"].startswith("--model-type=transformer -O1")
    assert env["NEURON_RT_ROOT_COMM_ID"] == "localhost:48620"
    assert env["NEURON_RT_ASYNC_EXEC_MAX_INFLIGHT_REQUESTS"] == "3"
    assert env["MALLOC_ARENA_MAX"] == "64" and env["NEURON_FUSE_SOFTMAX"] == "1"
    assert not {"XLA_USE_BF16", "XLA_DOWNCAST_BF16"} & {*env}, "without effect from torch-xla 2.8 on"
    assert after(steps()["train"].argv, "--dtype") == "bf16"


def test_compilation_runs_the_command_of_the_training() -> None:
    compiled, trained = steps()["compile"].argv, steps()["train"].argv
    command = compiled[compiled.index("--") + 1 :]
    assert command[:-1] == trained[:-1], "but for --output"
    assert steps()["compile"].env == steps()["train"].env


def test_the_cache_of_compiled_programs_is_shared_and_changes_no_result() -> None:
    elsewhere = steps("train.compile_cache=s3://bucket/cache")
    assert elsewhere["train"].env["NEURON_COMPILE_CACHE_URL"] == "s3://bucket/cache"
    assert steps()["train"].env["NEURON_COMPILE_CACHE_URL"] == "/store/neuron-cache"
    others = [stage for stage, step in steps().items() if elsewhere[stage].key != step.key]
    assert others == ["compile"], "another cache has to be filled"


def test_flags_of_the_compiler_are_part_of_the_result() -> None:
    assert steps("train.nxd.compiler_flags=-O2")["train"].key != steps()["train"].key


def test_compilation_can_be_left_out() -> None:
    assert "compile" not in steps("train.nxd.compile=false")


@pytest.mark.parametrize("nodes", [2, 4])
def test_several_nodes_meet_at_an_address_known_where_they_run(nodes: int) -> None:
    words = launcher("python", 32, nodes)
    assert words[3:] == [f"--nnodes={nodes}", "--nproc-per-node=32", "--master-port=44000"]
    assert "--standalone" not in words


def test_no_secret_is_in_a_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_thisisasecret")
    for step in steps().values():
        assert not any("hf_thisisasecret" in word for word in (*step.argv, *step.env.values()))


def test_what_the_runtime_ignores_is_not_set() -> None:
    """From 2.31 on it has no effect (release notes of the runtime)."""
    name = "NEURON_RT_ASYNC_EXEC_MAX_INFLIGHT_REQUESTS"
    assert steps()["train"].env[name] == "3"
    assert name not in steps("sdk=neuron_2_31", "train.nxd.release=2.29", "serve=none")["train"].env


def test_a_training_says_on_which_ports_it_listens() -> None:
    assert steps()["train"].ports == (48620,)
    assert steps("parallel.nodes=2", "target=slurm")["train"].ports == (48620, 44000)


# Other values of everything that is an input of the programs, or decides how often they run.
INPUTS = (
    "train.learning_rate=3e-4", "train.lora.alpha=8", "train.lora.rslora=true", "train.schedule=linear",
    "train.warmup_ratio=0.2", "train.weight_decay=0.1", "train.max_grad_norm=0", "train.seed=7", "epochs=5",
    "train.max_steps=9", "train.checkpoint_every=7", "dataset.seed=3", "dataset.train_rows=99", "dataset.eval_rows=9",
)  # fmt: skip
PROGRAMS = (
    "train.lora.rank=8", "train.lora.targets=[q_proj]", "train.lora.dropout=0.1", "train.batch_size=3",
    "train.accumulate=1", "dataset.seq_len=512", "train.dtype=fp32", "train.gradient_checkpointing=true",
    "tp_size=16", "parallel.dp_size=2", "parallel.nodes=2", "train.nxd.compiler_flags=-O2", "sdk=neuron_2_28",
    "train.nxd.zero1=true", "train.nxd.sequence_parallel=false", "train.compile_cache=s3://bucket/cache",
)  # fmt: skip
BASE = ("train.accumulate=4",)


@pytest.mark.parametrize("override", INPUTS)
def test_an_input_of_the_programs_needs_no_other_compilation(override: str) -> None:
    changed, base = steps(*BASE, override), steps(*BASE)
    assert changed["compile"].key == base["compile"].key
    assert changed["train"].key != base["train"].key or override == "train.checkpoint_every=7"


@pytest.mark.parametrize("override", PROGRAMS)
def test_other_programs_are_compiled(override: str) -> None:
    assert steps(*BASE, override)["compile"].key != steps(*BASE)["compile"].key


def test_more_micro_batches_and_another_dropout_rate_are_the_same_programs() -> None:
    keys = {
        steps(f"train.accumulate={count}", f"train.lora.dropout={rate}")["compile"].key
        for count in (2, 8)
        for rate in (0.05, 0.1)
    }
    assert len(keys) == 1
