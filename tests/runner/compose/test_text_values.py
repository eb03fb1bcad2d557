"""What is written for a word arrives as it is written: from a recipe's file, an option's, an override, a record."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from runner.compose.recipe import compose
from runner.compose.schema import Recipe
from runner.compose.text_values import quoted
from runner.compose.validate import build
from runner.errors import RecipeError

# What YAML 1.1, OmegaConf or Hydra read as a number, a truth value, a null or a date.
WORDS = [
    "1.10", "12e4567", "010", "01234", "0x10", "0o7", "1_000", "1e3", "30:00", "4:00:00", "2026-11-25", ".5", "-1",
    "yes", "No", "on", "true", "True", "~", "null", "None", "nan", ".nan", "inf", "-.inf", "1.2.3", "2026",
]  # fmt: skip


def written(folder: Path, text: str) -> Recipe:
    (folder / "mine.yaml").write_text(f"defaults: [base, _self_]\n{text}\n")
    return compose(str(folder / "mine.yaml")).recipe


def test_a_recipe(tmp_path: Path) -> None:
    mapping = ", ".join(f"{word}: {word}" for word in WORDS)
    recipe = written(
        tmp_path,
        f"""
dataset: {{where: {{{mapping}}}, split: 010}}
model: {{revision: 1.10, tokenizer_revision: 12e4567, tokenizer: null}}
sdk: {{train_packages: [{", ".join(WORDS)}]}}
target: {{kubernetes: {{node_selector: {{pool: yes}}}}, slurm: {{time: 30:00, stages: {{convert: {{{mapping}}}}}}}}}
""",
    )
    assert recipe.dataset.where == {word: word for word in WORDS}
    assert recipe.dataset.split == "010"
    assert (recipe.model.revision, recipe.model.tokenizer_revision, recipe.model.tokenizer) == ("1.10", "12e4567", None)
    assert recipe.sdk.train_packages == WORDS
    assert recipe.target.kubernetes.node_selector == {"pool": "yes"}
    assert recipe.target.slurm.time == "30:00"
    assert recipe.target.slurm.stages == {"convert": {word: word for word in WORDS}}


def test_an_override() -> None:
    words = [word for word in WORDS if word != "~"]
    recipe = compose("quickstart", [
        "model.revision=1.10", "model.tokenizer_revision=12e4567", "model.tokenizer=null", "dataset.split=010",
        *(f"dataset.where.column{number}={word}" for number, word in enumerate(words)),
        f"sdk.train_packages=[{','.join(words)}]", "target.slurm.stages={convert:{time:30:00,exclusive:true}}",
    ]).recipe  # fmt: skip
    assert recipe.dataset.split == "010"
    assert (recipe.model.revision, recipe.model.tokenizer_revision, recipe.model.tokenizer) == ("1.10", "12e4567", None)
    assert list(recipe.dataset.where.values()) == words
    assert recipe.sdk.train_packages == words
    assert recipe.target.slurm.stages == {"convert": {"time": "30:00", "exclusive": "true"}}


def test_an_option_of_a_group(tmp_path: Path) -> None:
    (tmp_path / "configs/model").mkdir(parents=True)
    (tmp_path / "configs/model/mine.yaml").write_text("name: 1.10\nsource: hub\npath: a/b\nrevision: 12e4567\n")
    (tmp_path / "mine.yaml").write_text("defaults: [base, override model: mine, _self_]\n")
    model = compose(str(tmp_path / "mine.yaml")).recipe.model
    assert (model.name, model.revision) == ("1.10", "12e4567")


def test_anchors_and_merged_mappings(tmp_path: Path) -> None:
    text = "dataset:\n  where: &one {zip: 01234}\ntarget:\n  slurm:\n    options: {<<: *one, nice: 010}\n"
    recipe = written(tmp_path, text)
    assert recipe.dataset.where == {"zip": "01234"}
    assert recipe.target.slurm.options == {"zip": "01234", "nice": "010"}


def test_numbers_stay_numbers(tmp_path: Path) -> None:
    recipe = written(tmp_path, "train: {epochs: 2, learning_rate: 1e-3, gradient_checkpointing: yes}\nname:\n  1.10\n")
    assert (recipe.train.epochs, recipe.train.learning_rate, recipe.train.gradient_checkpointing) == (2, 1e-3, True)
    assert recipe.name == "1.10"


def test_options_of_vllm_are_values_not_words(tmp_path: Path) -> None:
    recipe = written(tmp_path, 'serve: {neuron_config: {a: null, b: [1, x], c: true, d: 1.5, e: "010"}}')
    assert recipe.serve.neuron_config == {"a": None, "b": [1, "x"], "c": True, "d": 1.5, "e": "010"}
    recipe = compose("quickstart", ["serve.neuron_config.a=null", "serve.neuron_config.b=1.5"]).recipe
    assert recipe.serve.neuron_config == {"a": None, "b": 1.5}


def test_every_value_of_a_sweep_keeps_its_text() -> None:
    assert quoted("model.revision=1.10,choice(2,x)") == "model.revision='1.10',choice('2',x)"
    assert quoted("dataset.where.column=choice(yes,true,null)") == "dataset.where.column=choice(yes,'true','null')"
    assert quoted("train.seed=1,2") == "train.seed=1,2"


@pytest.mark.parametrize("words", [["target.slurm.time=[a]"], ["dataset.where.a=[b]"], ["dataset.where=x"]])
def test_what_is_no_word_is_refused(words: list[str]) -> None:
    with pytest.raises(RecipeError, match="command line: .*must be"):
        compose("quickstart", words)


TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]))


@settings(deadline=None, max_examples=40)
@given(TEXT)
@example("${nothing}")
@example("{{ x }} ${oc.env:HOME} {output}")
@example("1.10")
def test_a_record_read_again_is_the_same(text: str) -> None:
    recipe = Recipe()
    recipe.dataset.where = {text: text}
    recipe.dataset.template.sections = [text]
    recipe.model.revision = text
    recorded = yaml.safe_dump(asdict(recipe), sort_keys=False)
    assert build(Recipe, yaml.safe_load(recorded)) == recipe


def test_any_text_can_be_written_in_a_recipe(tmp_path: Path) -> None:
    """In quotes, with a backslash before what OmegaConf would take for an interpolation."""
    texts = ["${nothing}", "{{ x }} ${oc.env:HOME}", "${ open", "1.10", "\n{a}\t", "한국어 🙂", "%j [bold] \\1 $x"]
    sections = [text.replace("${", "\\${") for text in texts]
    template = json.dumps({"sections": sections, "response": "{a}"}, ensure_ascii=False)
    recipe = written(tmp_path, f"dataset: {{template: {template}}}")
    assert recipe.dataset.template.sections == texts
