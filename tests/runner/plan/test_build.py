"""Plans: complete command lines, and fingerprints that change with what matters."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from runner.compose.recipe import compose
from runner.compose.schema import Recipe
from runner.errors import RecipeError
from runner.paths import ROOT
from runner.plan.build import build
from runner.plan.command import Place
from runner.plan.model import Plan

ALL = ["fetch", "tokenize", "convert", "train", "export", "evaluate", "serve"]


def plan(*overrides: str) -> Plan:
    return build(compose("quickstart", overrides).recipe, Place(ROOT, Path("/store"), "python"))


def keys(of: Plan) -> dict[str, str]:
    return {step.stage: step.key for step in of.steps}


def redone(*overrides: str) -> list[str]:
    before, after = keys(plan()), keys(plan(*overrides))
    return [stage for stage in ALL if before[stage] != after.get(stage)]


@pytest.mark.parametrize(
    ("override", "stages"),
    [
        ("train.lora.rank=4", ["train", "export", "evaluate", "serve"]),
        ("tp_size=1", ["convert", "train", "export", "evaluate", "serve"]),
        ("dataset.seed=1", ["tokenize", "train", "export", "evaluate", "serve"]),
        ("evaluate.examples=10", ["evaluate", "serve"]),
        ("serve.port=12345", ["serve"]),
        ("train.checkpoint_every=7", []),
        ("name=other", []),
        ("paths.runs=elsewhere", []),
    ],
)
def test_a_change_redoes_what_depends_on_it(override: str, stages: list[str]) -> None:
    assert redone(override) == stages


def test_a_store_elsewhere_holds_the_same_artifacts() -> None:
    recipe = compose("quickstart").recipe
    assert keys(build(recipe, Place(Path("/opt/code"), Path("/mnt/store"), "/opt/venv/bin/python"))) == keys(plan())


def test_every_step_reads_what_an_earlier_one_makes() -> None:
    made: set[str] = set()
    for step in plan("serve.mode=smoke").steps:
        read = {word.split("/objects/")[1].split("/")[0] for word in step.argv if "/objects/" in word}
        assert read <= made, step.stage
        assert f"/store/partial/{step.key}" in step.argv, "the output is an argument"
        made.add(step.key)


def test_content_of_outside_files_counts(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"context": "", "question": "", "answer": "x"}\n')
    before = keys(plan(f"dataset.eval_path={rows}"))
    rows.write_text('{"context": "", "question": "", "answer": "y"}\n')
    assert keys(plan(f"dataset.eval_path={rows}"))["tokenize"] != before["tokenize"]


def test_a_missing_data_set_is_named() -> None:
    with pytest.raises(RecipeError, match="dataset.path: .*nowhere.jsonl: No such file"):
        plan("dataset.path=/nowhere.jsonl")


def test_choices_leave_stages_out() -> None:
    assert list(keys(plan("evaluate=none", "serve=none"))) == ALL[:5]
    assert list(keys(plan("evaluate=none"))) == ALL[:5], "a smoke test compares with the evaluation"
    assert list(keys(plan("serve.mode=foreground"))) == ALL


def words_of(recipe: Recipe, stage: str) -> list[str]:
    steps = build(recipe, Place(ROOT, Path("/store"), "python")).steps
    return list(next(step.argv for step in steps if step.stage == stage))


@settings(max_examples=20, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(["{output}", "{output}/server"]))
@example(text="{output}")
def test_what_a_user_wrote_reaches_the_program_as_it_is(text: str) -> None:
    recipe = compose("quickstart").recipe
    recipe.dataset.template.separator = text
    assert json.loads(word_behind("--template", words_of(recipe, "tokenize")))["separator"] == text


def test_a_column_named_output_is_a_column(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"instruction": "Say hi.", "input": "", "output": "hi"}\n' * 3)
    template = "dataset.template={sections:['{instruction}'],response:'{output}'}"
    words = ["dataset=files", f"dataset.path={rows}", "dataset.eval_rows=1", "dataset.seq_len=256", template]
    recipe = compose("quickstart", [*words, "evaluate=none"]).recipe
    template = json.loads(word_behind("--template", words_of(recipe, "tokenize")))
    assert template["response"] == "{output}"


def word_behind(flag: str, words: list[str]) -> str:
    return words[words.index(flag) + 1]


@pytest.mark.parametrize("name", ["{output}", "{output}/server"])
def test_a_served_name_that_was_once_a_placeholder_is_a_name(name: str) -> None:
    recipe = compose("quickstart").recipe
    recipe.serve.adapter_name = name
    [adapter] = [word for word in words_of(recipe, "serve") if "/objects/export-" in word]
    assert adapter.startswith(f"{name}=/store/objects/export-")


def test_a_name_of_several_lines_stays_a_comment() -> None:
    recipe = compose("quickstart").recipe
    recipe.dataset.name = "mine\nrm -r store"
    step = build(recipe, Place(ROOT, Path("/store"), "python")).steps[1]
    assert step.title == "tokenize mine rm -r store to sequences of 256"


def test_lnc_is_set_for_the_steps_on_neuroncores_and_counts_there() -> None:
    native = ["hardware=trn3", "tp_size=2", "serve=vllm", "serve.cores=0-1"]
    default, one = plan(*native), plan(*native, "hardware.lnc=1")
    assert variables(default, "NEURON_LOGICAL_NC_CONFIG") == {"train": "2", "serve": "2"}
    assert variables(one, "NEURON_LOGICAL_NC_CONFIG") == {"train": "1", "serve": "1"}
    assert keys(default)["convert"] == keys(one)["convert"]
    assert keys(default)["train"] != keys(one)["train"]


def test_hardware_without_lnc_gets_no_such_variable() -> None:
    assert variables(plan("hardware=trn1", "train=nxd_lora", "serve=none"), "NEURON_LOGICAL_NC_CONFIG") == {}


def variables(of: Plan, name: str) -> dict[str, str]:
    return {step.stage: step.env[name] for step in of.steps if name in step.env}
