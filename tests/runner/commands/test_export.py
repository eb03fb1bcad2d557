"""What a run hands over: folders that others load, with their cards."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from runner import cli
from runner.commands import export
from runner.commands.lifecycle import run as run_recipe
from runner.compose.recipe import compose
from runner.errors import RecipeError
from runner.paths import RECIPES
from runner.record.runs import Run, every
from tests.runner.trained_run import evaluation


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of two optimizer steps, whose artifacts are real; only the figures of its evaluation are made up."""
    folder = tmp_path_factory.mktemp("handover")
    words = ["train.max_steps=2", "dataset.train_rows=8", "evaluate=none", "serve=none",
             f"paths.runs={folder}/runs", f"paths.store={folder}/store"]  # fmt: skip
    assert run_recipe(compose("quickstart", words), Console(quiet=True)) == 0
    run = every(folder / "runs")[0]
    (run.folder / "results" / "evaluate").mkdir()
    (run.folder / "results" / "evaluate" / "report.json").write_text(json.dumps(evaluation(0.75)))
    return run


def card_of(folder: Path) -> tuple[dict, str]:
    _, front, text = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(front), text


def test_peft_and_transformers_load_what_is_handed_over(trained: Run, tmp_path: Path) -> None:
    """The adapter on the base gives the merged model's logits."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    export.export(trained, "peft", tmp_path / "adapter")
    export.export(trained, "merged", tmp_path / "whole")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    base = AutoModelForCausalLM.from_pretrained(config["base_model_name_or_path"], dtype=torch.float32)
    adapted = PeftModel.from_pretrained(base, tmp_path / "adapter")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "whole", dtype=torch.float32)
    tokens = torch.arange(3, 40)[None]
    with torch.no_grad():
        assert torch.allclose(adapted(tokens).logits, merged(tokens).logits, atol=0.1)  # the merged one is bf16
    assert config["base_model_name_or_path"] == str(RECIPES / "assets" / "tiny_llama")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "whole"], "nothing is left beside them"


def test_nxd_gets_its_checkpoint(trained: Run, tmp_path: Path) -> None:
    export.export(trained, "nxd", tmp_path / "sharded")
    assert (tmp_path / "sharded" / "lora" / "done").is_file()
    assert len(list((tmp_path / "sharded" / "lora" / "model").glob("dp_rank_00_tp_rank_*_pp_rank_00.pt"))) == 2
    assert json.loads((tmp_path / "sharded" / "layout.json").read_text())["tp_size"] == 2
    assert "2 tensor-parallel rank(s) in trn2 order" in card_of(tmp_path / "sharded")[1]


def test_the_card_says_from_what_it_was_made_and_how_good_it_is(trained: Run, tmp_path: Path) -> None:
    export.export(trained, "peft", tmp_path / "adapter")
    front, text = card_of(tmp_path / "adapter")
    assert front["library_name"] == "peft"
    base = str(RECIPES / "assets" / "tiny_llama")
    for part in (base, "sql-tiny", trained.name, "held-out loss", "rank 16", "max_steps: 2", "## Licence"):
        assert part in text


def test_a_model_of_the_hub_is_named_with_its_terms(trained: Run, tmp_path: Path) -> None:
    trained.recipe["model"] |= {"source": "hub", "path": "meta-llama/Llama-3.2-1B"}
    trained.recipe["dataset"] |= {"source": "hub", "path": "databricks/databricks-dolly-15k"}
    export.export(trained, "peft", tmp_path / "adapter")
    front, text = card_of(tmp_path / "adapter")
    assert (front["base_model"], front["datasets"]) == ("meta-llama/Llama-3.2-1B", ["databricks/databricks-dolly-15k"])
    assert 'begin the name with "Llama"' in text and "CC BY-SA 3.0" in text
    del trained.__dict__["recipe"]


def test_a_folder_that_is_there_and_an_artifact_that_is_not_are_refused(trained: Run, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="already exists"):
        export.export(trained, "peft", tmp_path)
    link = trained.folder / "artifacts" / "export"
    target = link.readlink()
    link.unlink()
    with pytest.raises(RecipeError, match="export/adapter does not exist .any more.; run its recipe again"):
        export.export(trained, "peft", tmp_path / "new")
    link.symlink_to(target)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_this_machine_is_not_published_as_the_base_model(trained: Run, tmp_path: Path, capsys) -> None:
    words = ["export", str(trained.folder), str(tmp_path / "new"), "--push", "me/new"]
    assert cli.main(words) == 2
    assert "--base-model OWNER/NAME says what it is on the hub" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_base_model_from_a_folder_is_named_as_on_the_hub(trained: Run, tmp_path: Path) -> None:
    assert (
        cli.main(["export", str(trained.folder), str(tmp_path / "new"), "--base-model", "meta-llama/Llama-3.2-1B"]) == 0
    )
    config = json.loads((tmp_path / "new" / "adapter_config.json").read_text(encoding="utf-8"))
    front, text = card_of(tmp_path / "new")
    assert {config["base_model_name_or_path"], front["base_model"]} == {"meta-llama/Llama-3.2-1B"}
    assert front["license"] == "llama3.2" and str(RECIPES) not in text


def test_the_card_is_what_the_hub_reads(trained: Run, tmp_path: Path) -> None:
    """Its client reads licence, base model and metrics from it, and its code is Python that asks a real question."""
    from huggingface_hub import ModelCard

    trained.recipe["model"] |= {"source": "hub", "path": "meta-llama/Llama-3.2-1B"}
    samples = trained.folder / "artifacts" / "evaluate"
    samples.mkdir(exist_ok=True)
    sides = {"text": "SELECT 1", "token_ids": [1]}
    sample = {"prompt": 'Say "it\'s {x}"\n', "reference": "x", "base": sides, "adapter": sides}
    (samples / "samples.jsonl").write_text(json.dumps(sample) + "\n")
    for format in ("peft", "merged"):
        export.export(trained, format, tmp_path / format)
        card = ModelCard.load(tmp_path / format / "README.md")
        assert (card.data.license, card.data.base_model) == ("llama3.2", "meta-llama/Llama-3.2-1B")
        measured = {result.metric_type: result.metric_value for result in card.data.eval_results}
        assert measured["exact_match"] == evaluation(0.75)["adapter"]["exact_match"]
        code = card.text.split("```python\n")[1].split("```")[0]
        compile(code, "card", "exec")
        assert """prompt = 'Say "it\\'s {x}"\\n'""" in code
    del trained.__dict__["recipe"]
