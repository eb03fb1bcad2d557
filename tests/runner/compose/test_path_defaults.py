"""What describes a model or a data set does not outlive its path."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from runner.cli import main
from runner.compose.path_defaults import name_of
from runner.compose.recipe import compose
from runner.paths import RECIPES
from runner.plan.checks.feasibility import architecture_of

TINY = RECIPES / "assets" / "tiny_llama"


def test_another_folder_is_read_and_named_itself() -> None:
    words = ["model=llama3_8b", "model.source=folder", f"model.path={TINY}", "tp_size=1"]
    composed = compose("quickstart", words)
    architecture = architecture_of(composed.recipe)
    assert architecture and architecture.hidden_size < 1024, "not the 8B model's"
    assert composed.recipe.model.name == "tiny_llama"
    assert composed.notes == (f"model.architecture: not used, because it belongs to another model.path than {TINY}",)


def test_another_hub_id_does_not_keep_the_revision() -> None:
    words = ["model.source=hub", "model.path=me/mine"]
    model = compose("quickstart", ["model=llama3_8b", "model.revision=abc", *words]).recipe.model
    assert (model.name, model.revision, model.architecture) == ("mine", "abc", None)


def test_another_data_set_is_not_measured_on_the_old_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = tmp_path / "mine.jsonl"
    shutil.copyfile(RECIPES / "assets" / "sql" / "eval.jsonl", rows)
    assert main(["plan", "quickstart", f"dataset.path={rows}", "dataset.eval_rows=20"]) == 0
    said = capsys.readouterr()
    assert said.err == f"note: dataset.eval_path: not used, because it belongs to another dataset.path than {rows}\n"
    assert "--eval-rows 20" in said.out and "--eval-input" not in said.out
    assert "tokenize mine to sequences" in said.out


@pytest.mark.parametrize(
    ("section", "name", "eval_path"),
    [
        ("path: rows.jsonl", "rows", None),
        ("path: rows.jsonl\n  eval_path: held_out.jsonl\n  name: my rows", "my rows", "held_out.jsonl"),
        ("name: my rows", "my rows", "sql/eval.jsonl"),
    ],
)
def test_a_recipe_that_names_its_own_data(tmp_path: Path, section: str, name: str, eval_path: str | None) -> None:
    (tmp_path / "mine.yaml").write_text(f"defaults: [base, _self_]\ndataset:\n  {section}\n")
    dataset = compose(str(tmp_path / "mine.yaml")).recipe.dataset
    assert dataset.name == name
    assert (dataset.eval_path or "").endswith(eval_path or "") and bool(dataset.eval_path) == bool(eval_path)
    again = compose(str(tmp_path / "mine.yaml"), ["dataset.path=other.csv"])
    assert (again.recipe.dataset.name, again.recipe.dataset.eval_path) == ("other", None)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("meta-llama/Llama-3.2-1B", "Llama-3.2-1B"),
        ("/models/llama-3.1/", "llama-3.1"),
        ("package:a/b.Q4_1.gguf", "b.Q4_1"),
        ("data/rows.jsonl", "rows"),
    ],
)
def test_names(path: str, name: str) -> None:
    assert name_of(path) == name


@pytest.mark.parametrize("config", ['{"base_model_name_or_path": "me/base"}', "{}", "not JSON"])
def test_an_adapter_is_no_model(tmp_path: Path, config: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "adapter_config.json").write_text(config)
    (tmp_path / "adapter_model.safetensors").touch()
    assert main(["plan", "quickstart", f"model.path={tmp_path}"]) == 2
    of = " of me/base" if "me/base" in config else ""
    assert (
        f"runner: model.path: {tmp_path}: is a LoRA adapter{of}; set the key to its base model"
        in capsys.readouterr().err
    )
