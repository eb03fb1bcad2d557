"""`runner plan`: the command lines of a recipe, and what follows from it."""

from __future__ import annotations

import io
import json
import subprocess
from pathlib import Path

import pytest
from command_line import runner
from rich.console import Console

from runner import targets
from runner.cli import main
from runner.commands import plan
from runner.compose.recipe import compose

ODD_VOCABULARY = (
    "{vocab_size:10,hidden_size:64,intermediate_size:64,num_hidden_layers:2,num_attention_heads:4,"
    "num_key_value_heads:4,max_position_embeddings:4096}"
)


def shown(*overrides: str) -> str:
    recipe, output = compose("quickstart", overrides).recipe, io.StringIO()
    plan.show(recipe, targets.of(recipe.target).plan(recipe), Console(file=output, width=200))
    return output.getvalue()


def test_plan_shows_what_it_derives_and_commands_that_a_shell_accepts(tmp_path: Path) -> None:
    done = runner(tmp_path, "plan", "quickstart", "name=my recipe", f"paths.store={tmp_path}/a store")
    assert done.returncode == 0, done.stderr
    assert "[7/7]" in done.stdout
    assert "will run" in done.stdout
    assert "4 query and 1 K/V heads (kv_size_multiplier 1)" in done.stdout
    commands = done.stdout[done.stdout.index("# [1/7]") :]
    assert subprocess.run(["bash", "-n"], input=commands, text=True, check=False).returncode == 0
    assert not list(tmp_path.iterdir())


def test_a_padded_vocabulary_is_shown() -> None:
    model = ["model.source=hub", "model.path=a/b", f"model.architecture={ODD_VOCABULARY}"]
    assert "3 tokens (the vocabulary is padded by 2)" in shown(*model, "tp_size=4")
    assert "padded" not in shown(*model, "tp_size=2")


def test_what_must_be_installed_first_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """AWS's fork of vLLM is on no AMI: known before nine steps, not at the last of them."""
    assert main(["plan", "llama3_8b_dolly_trn2", "sdk=neuron_2_26"]) == 0
    output = capsys.readouterr().out
    assert "install first" in output and "no AMI has this vLLM" in output


def test_a_step_whose_artifact_exists_is_cached_and_one_with_a_checkpoint_resumes(tmp_path: Path) -> None:
    recipe = compose("quickstart", [f"paths.store={tmp_path}"]).recipe
    keys = {step.stage: step.key for step in targets.of(recipe.target).plan(recipe).steps}
    (tmp_path / "objects" / keys["convert"]).mkdir(parents=True)
    (tmp_path / "objects" / keys["convert"] / "weights").touch()
    (tmp_path / "partial" / keys["train"] / "checkpoints" / "step-3").mkdir(parents=True)
    states = {line.split()[-1]: line for line in shown(f"paths.store={tmp_path}").splitlines() if line.strip()}
    assert " cached " in states[keys["convert"]]
    assert "will run, from its last checkpoint" in states[keys["train"]]
    assert "checkpoint" not in states[keys["tokenize"]]


def test_the_same_plan_is_printed_as_json_and_as_a_script(tmp_path: Path, capsys) -> None:
    overrides = [f"paths.store={tmp_path}", f"name={tmp_path.name}"]
    assert main(["plan", "quickstart", "--json", *overrides]) == 0
    steps = json.loads(capsys.readouterr().out)["steps"]
    assert main(["plan", "quickstart", "--shell", *overrides]) == 0
    script = capsys.readouterr().out
    assert len(steps) == 7 and all(step["key"] in script for step in steps)
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
    assert not list(tmp_path.iterdir())


def test_manifests_need_a_scheduler(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "quickstart", "--manifests"]) == 2
    assert capsys.readouterr().err == "runner: --manifests: target=local has no scheduler; try target=slurm\n"
