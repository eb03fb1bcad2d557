"""Mistakes, each in the place where people make it: one line that helps, exit status 2, nothing written."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from runner.cli import main
from runner.compose.schema import Recipe
from runner.compose.validate import keys
from runner.errors import _SYNONYMS, did_you_mean

ON_THE_COMMAND_LINE = {
    # keys
    "tp_sise=4": "did you mean tp_size?",
    "train.epoch=1": "did you mean train.epochs?",
    "train.lr=1": "did you mean train.learning_rate?",
    "lora.r=8": "see `runner options` for all keys",
    "lora_alpha=8": "did you mean train.lora.alpha?",
    "rank=8": "did you mean train.lora.rank?",
    "max_seq_length=64": "did you mean dataset.seq_len?",
    "+typo=1": "no such key",
    "++train.typo=1": "no such key",
    "+train.lora.bias=none": "no such key",
    "~nothing": "no such key",
    "~train.lora": "a key cannot be deleted",
    "~tracker": "a key cannot be deleted",
    "'train.lora={rnak:8}'": "did you mean train.lora.rank?",
    "hydra.typo=1": "hydra.typo: no such key",
    "hydra.sweeper.n_trials=4": "hydra/sweeper=optuna",
    # options of groups
    "hardware=trn9": "did you mean trn",
    "serve=embeded": "did you mean embedded?",
    "tracker=wandbb": "did you mean wandb?",
    "train=optimun_lora": "no such train",
    "tp_size=3": "parallel.tp_size=3",
    "epochs=0": "train.epochs=0",
    # types and ranges
    "train.epochs=two": "must be an integer, not 'two'",
    "train.epochs=1.5": "must be an integer",
    "train.epochs=": "must be an integer",
    "train.epochs=null": "must be an integer",
    "train.lora=3": "must be a mapping",
    "train.lora.rank=0": "the minimum is 1",
    "train.learning_rate=-1": "the minimum is 0",
    "train.learning_rate=nan": "train.learning_rate: nan",
    "train.learning_rate=inf": "the maximum is 10",
    "train.warmup_ratio=1.5": "the maximum is 1",
    "train.max_steps=-1": "the minimum is 0",
    "train.gradient_checkpointing=maybe": "must be true or false",
    "train.lora.targets=[q_prj]": "did you mean q_proj?",
    "train.lora.targets=q_proj": "must be a list of strings",
    "train.lora.targets=[]": "must have at least one of q_proj",
    "dataset.template.response=''": "dataset.template.response: names no column to learn",
    "dataset.format=alpaca": "dataset.format: alpaca has its own template; leave it out",
    "dataset.format=aplaca": "did you mean alpaca?",
    "dataset.format=chatml": "choose from: alpaca, conversations, dolly, messages",
    "dataset.template.turns=[messages]": "dataset.template.sections: turns hold the prompts and answers",
    "dataset.source=s3": "choose from: files, hub",
    "evaluate.metrics=[bleu]": "choose from: exact_match, rouge_l, sql",
    "serve.port=99999": "the maximum is 65535",
    "sweep.objective=speed": "choose from: adapter.exact_match",
    # grammar
    "tp_size": "KEY=VALUE",
    "train.epochs=[": "in quotes",
    "train.epochs=1,2": "add -m",
    # combinations and files
    "parallel.tp_size=3": "try 1, 2, 4, 8",
    "parallel.kv_size_multiplier=3": "remove the key to derive it",
    "dataset.seq_len=100000": "more than the 512 positions",
    "epochs=3 train.epochs=4": "set train.epochs=3",
    "model.path=": "model.path: ",
    "model.path=/nowhere": "/nowhere/config.json: no such file",
    "model.source=hub model.path=llama": "OWNER/NAME",
    "model=smollm2_135m tp_size=1 model.path=package:nowhere/x.gguf": "nowhere is not installed",
    "dataset.path=nowhere.jsonl": "nowhere.jsonl: No such file or directory",
    "dataset.eval_path=/nowhere": "dataset.eval_path: /nowhere",
    "dataset.source=hub dataset.path=dolly": "OWNER/NAME",
    "dataset.eval_path=null dataset.eval_rows=6000": "leave nothing to train on",
    "'dataset.template.sections=[\"{contxt}\"]'": "did you mean context?",
    "'dataset.template.response=\"SELECT\"'": "names no column to learn",
    "dataset.template.system=Hello": "dataset.template.chat=true",
    "dataset.where.topic=birds": "no column 'topic'",
    "evaluate.sql_schema=tables": "no column 'tables'",
    "serve.host=not.an.address": "127.0.0.1",
    "'name=\"a\tb\"'": "name: 'a\\tb': contains a line break",
    "paths.store=/etc/passwd": "/etc/passwd is not a folder",
    "paths.runs=/etc/passwd/runs": "/etc/passwd is not a folder",
    # flags and sweeps
    "--multi train.lora.rank=4": "did you mean --multirun?",
    "--nonsense": "no such flag",
    "-m train.lora.rank=4,8,0": "trial 2",
    "-m 'train.lora.rank=range(3,1)'": "no trials",
    "-m sweep.objective=speed train.seed=1,2": "choose from",
}  # fmt: skip

IN_A_RECIPE = {
    "": "defaults: [base, _self_]",
    "[base]": "must be a DictConfig",
    "defaults: [base": "mine.yaml:2: not valid YAML",
    "defaults: [base]\ntrain:\n\tepochs: 2": "not valid YAML",
    "defaults: [base]\ntrain: {epochs: 2}\ntrain: {seed: 3}": "duplicate key train",
    "defaults: [bass]": "bass",
    "defaults: [base, {override hardwear: trn1}]": "hardwear",
    "defaults: [base, {override hardware: trn9}]": "trn9",
    "defaults: [base, _self_]\ntrian: {epochs: 2}": "did you mean train?",
    "defaults: [base, _self_]\ntrain: {lora: {alfa: 2}}": "did you mean alpha?",
    "defaults: [base, _self_]\ntrain: {epochs: two}": "must be an integer",
    "defaults: [base, _self_]\ntrain: 3": "train",
    "defaults: [base, _self_]\nname: ${nothing}": "nothing",
    "defaults: [base, _self_]\nname: ${oc.env:NOT_SET_ANYWHERE}": "NOT_SET_ANYWHERE",
}

COMMANDS = {
    "": "the following arguments are required",
    "rum quickstart": "did you mean run?",
    "run": "the following arguments are required",
    "run .": "no such recipe",
    "run quickstat": "did you mean quickstart?",
    "run ./nowhere.yaml": "no such recipe file",
    "plan quickstart --jsn": "unrecognized arguments: --jsn",
    "plan quickstart --json --shell": "not allowed with",
    "options hardwear": "did you mean hardware?",
    "show nothing": "no such run",
    "compare": "the following arguments are required",
    "compare nothing": "no such run",
    "diff quickstart nothing": "no such run",
    "report nothing": "no such run",
    "rerun nothing": "no such run",
    "gc": "choose what to remove",
    "gc --unreachable --host nobody@127.0.0.1:1": "cannot be reached",
    "gc --days x": "argument --days: x: must be a number from 0 on",
    "gc --unreachable": "no such store",
}


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    """Call the command in an empty folder and expect one line with `expected`, exit status 2, nothing new."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["runner"])

    def check(words: list[str], expected: str) -> None:
        before = sorted(tmp_path.iterdir())
        status = main(words)
        said = capsys.readouterr().err
        assert status == 2, said
        assert said.startswith("runner: ")
        assert said.count("\n") == 1, said
        assert expected in said
        assert sorted(tmp_path.iterdir()) == before

    return check


@pytest.mark.parametrize("words", ON_THE_COMMAND_LINE)
def test_mistakes_on_the_command_line(refused, words: str) -> None:
    refused(["run", "quickstart", *shlex.split(words)], ON_THE_COMMAND_LINE[words])


@pytest.mark.parametrize("text", IN_A_RECIPE)
def test_mistakes_in_a_recipe(refused, tmp_path: Path, text: str) -> None:
    (tmp_path / "mine.yaml").write_text(text + "\n")
    refused(["run", "./mine.yaml"], IN_A_RECIPE[text])


def test_a_recipe_beside_another_of_its_stem_is_refused_or_itself(refused, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("defaults: [base, _self_]\ntrain: {epochs: 0}\n")
    (tmp_path / "x.yml").write_text("defaults: [base, _self_]\n")
    refused(["run", "x.yml"], "x.yml: Hydra reads only .yaml files; rename it to x.yaml")
    (tmp_path / "x.yaml.yaml").write_text("defaults: [base, _self_]\ntrain: {epochs: -5}\n")
    refused(["run", "x.yaml.yaml"], "-5")


@pytest.mark.parametrize("words", COMMANDS)
def test_mistakes_in_a_command(refused, words: str) -> None:
    refused(words.split(), COMMANDS[words])


KEYS = [key for key, _, _ in keys(Recipe)]


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [
        ("train.epoch", "train.epochs"),
        ("lr", "train.learning_rate"),
        ("rank", "train.lora.rank"),
        ("lora_alpha", "train.lora.alpha"),
        ("lora_r", "train.lora.rank"),
        ("max_seq_length", "dataset.seq_len"),
        ("per_device_train_batch_size", "train.batch_size"),
        ("smoke_promts", "serve.smoke_prompts"),
    ],
)
def test_the_nearest_key_is_suggested(wrong: str, nearest: str) -> None:
    assert did_you_mean(wrong, KEYS) == f"did you mean {nearest}?"


def test_a_few_names_are_all_listed_and_many_are_not() -> None:
    assert did_you_mean("zzz", ["cpu", "trn1"]) == "choose from: cpu, trn1"
    assert did_you_mean("zzz", map(str, range(1000, 1021))) == "see `runner options` for all keys"
    assert did_you_mean("zzz", []) == "none exist yet"


def test_names_from_other_trainers_stand_for_keys_that_exist() -> None:
    for name in _SYNONYMS.values():
        assert any(f".{key}".endswith(f".{name}") for key in KEYS), name
