"""Every model family, in random shapes: convert → train → export → merge gives what transformers and PEFT compute."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import convert_checkpoint
import export_adapter
import train_torch
from common.data.token_dataset import Batch, TokenSet
from common.formats.model_config import FAMILIES
from common.formats.peft_folder import BASE
from common.inference.generation import Sequence, generate
from common.inference.loading import load_model
from common.program import BadInput
from common.shards.layout import PROJECTIONS, read_shape
from common.training.cpu.trainer import Trainer
from common.training.parallel import Ranks
from tests.scripts.llama_files import read_model, same_bits
from tests.scripts.thread_ranks import run_on_ranks
from tests.scripts.training_files import SETTINGS, VOCAB_SIZE, make_model, make_shards, make_tokens, train_command

WORLDS = {"tp1": (1, "trn2"), "tp2": (2, "trn1"), "tp4_trn1": (4, "trn1"), "tp4_trn2": (4, "trn2")}
FLAGS = ("--batch-size", 2, "--max-steps", 2, "--learning-rate", 0.02, "--rank", 4, "--alpha", 8, "--warmup-ratio", 0)


def random_shape(seed: int) -> dict[str, object]:
    """Sizes that 1, 2 and 4 ranks can share, with and without copies of K/V heads, and padding of the vocabulary."""
    draw = random.Random(seed)
    key_value_heads = draw.choice([1, 2, 4])
    return {
        "hidden_size": draw.choice([24, 32, 40]), "intermediate_size": draw.choice([32, 48]),
        "num_attention_heads": key_value_heads * draw.choice([4, 8]), "num_key_value_heads": key_value_heads,
        "head_dim": draw.choice([4, 6, 8]), "tie_word_embeddings": seed % 2 == 0, "initializer_range": 0.2,
        "vocab_size": VOCAB_SIZE + 2 + seed,
    }  # fmt: skip


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tokens(tmp_path_factory.mktemp("tokens"), sequences=4)


def shards_of(model: Path, folder: Path, world: str) -> Path:
    tp_size, layout = WORLDS[world]
    heads = json.loads((model / "config.json").read_text())["num_key_value_heads"]
    return make_shards(model, folder, tp_size, max(1, tp_size // heads), layout)


def train(shards: Path, tokens: Path, output: Path, world: str, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    """Train, and return the trained ranks' own logits of the evaluation split."""
    args = train_torch.flags().parse_args(train_command(shards, tokens, output, *FLAGS))

    def program(ranks: Ranks) -> torch.Tensor:
        trainer = Trainer(args, ranks)
        trainer.run()
        batch = eval_batch(tokens)
        with torch.no_grad():
            return trainer.model.hidden_states(batch, torch.arange(len(batch.input_ids))) @ trainer.model.head.T

    logits = torch.cat(run_on_ranks(WORLDS[world][0], program, monkeypatch), dim=1)
    return logits[:, : read_shape(shards).vocab_size]


def export(model: Path, trained: Path, output: Path) -> Path:
    flags = ["--model", model, "--adapter", trained, "--output", output, "--merge"]
    export_adapter.run(export_adapter.flags().parse_args([str(flag) for flag in flags]))
    return output


def eval_batch(tokens: Path) -> Batch:
    data = TokenSet(tokens, "eval")
    return data.batch(np.arange(len(data)))


def load_reference(model: Path, adapter: Path | None = None) -> Any:
    """The model of transformers and PEFT, in evaluation mode."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(model)
    return (loaded if adapter is None else PeftModel.from_pretrained(loaded, str(adapter))).eval()


def logits_of(model: Path, batch: Batch, adapter: Path | None = None) -> torch.Tensor:
    """The logits of transformers and PEFT for each example by itself, (tokens of the batch, vocabulary)."""
    loaded = load_reference(model, adapter)
    starts = torch.nonzero(batch.positions == 0).flatten().tolist()
    with torch.no_grad():
        return torch.cat([loaded(ids.unsqueeze(0)).logits[0] for ids in batch.input_ids.tensor_split(starts[1:])])


def test_every_family_is_tested() -> None:
    assert SETTINGS.keys() == FAMILIES.keys()


def test_a_bias_is_sharded_like_the_rows_of_its_projection() -> None:
    """The ranks sum the outputs of the row-parallel projections, and would add a bias there more than once."""
    biases = {name for family in FAMILIES.values() for name in family.get("biases", [])}
    assert {PROJECTIONS[name].axis for name in biases} == {0}


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("family", SETTINGS)
def test_a_family_trains_as_transformers_computes_it(family, seed, tokens, tmp_path, monkeypatch):
    model = make_model(tmp_path / "model", model_type=family, **SETTINGS[family], **random_shape(seed))
    logits, adapters, losses = {}, {}, {}
    for world in WORLDS:
        shards, folder = shards_of(model, tmp_path / world / "shards", world), tmp_path / world
        logits[world] = train(shards, tokens, folder / "trained", world, monkeypatch)
        exported = export(model, folder / "trained", folder / "exported")
        adapters[world] = load_file(exported / "adapter" / "adapter_model.safetensors")
        losses[world] = json.loads((folder / "trained" / "training.json").read_text())["eval_loss_end"]
    batch = eval_batch(tokens)
    expected = logits_of(model, batch, exported / "adapter")
    loss = torch.nn.functional.cross_entropy(expected[batch.rows], batch.targets).item()
    for world in WORLDS:
        torch.testing.assert_close(logits[world], expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(adapters[world], adapters["tp1"], atol=1e-4, rtol=0)
        assert losses[world] == pytest.approx(loss, abs=1e-4)
    torch.testing.assert_close(logits_of(exported / "merged", batch), expected, atol=1e-4, rtol=1e-4)
    assert (logits_of(model, batch) - expected).abs().max() > 0.1


@pytest.mark.parametrize("world", ["tp4_trn1", "tp4_trn2"])
def test_a_rank_may_have_padding_alone(world, tmp_path, monkeypatch):
    """Nine tokens on four ranks: three on each of the first ones."""
    tokens = make_tokens(tmp_path / "tokens", sequences=4, vocab_size=9)
    model = make_model(tmp_path / "model", **random_shape(1) | {"vocab_size": 9})
    logits = train(shards_of(model, tmp_path / "shards", world), tokens, tmp_path / "trained", world, monkeypatch)
    exported = export(model, tmp_path / "trained", tmp_path / "exported")
    batch, training = eval_batch(tokens), json.loads((tmp_path / "trained" / "training.json").read_text())
    expected = logits_of(model, batch, exported / "adapter")
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
    loss = torch.nn.functional.cross_entropy(expected[batch.rows], batch.targets).item()
    assert training["eval_loss_end"] == pytest.approx(loss, abs=1e-4)


@pytest.mark.parametrize("family", SETTINGS)
def test_a_family_answers_as_transformers_and_peft_do(family, tokens, tmp_path, monkeypatch):
    """As evaluate.py and serve_embedded.py generate: prompts of several lengths, with and without the adapter."""
    model = make_model(tmp_path / "model", model_type=family, **SETTINGS[family], **random_shape(1))
    train(shards_of(model, tmp_path / "shards", "tp2"), tokens, tmp_path / "trained", "tp2", monkeypatch)
    adapter = export(model, tmp_path / "trained", tmp_path / "exported") / "adapter"
    ids = eval_batch(tokens).input_ids.tolist()
    sequences = [Sequence(ids[:length], 12, name) for length in (5, 11, 20) for name in (BASE, "tuned")]
    finished = list(generate(load_model(model, {"tuned": adapter}, "fp32"), sequences, 4, frozenset()))
    assert len(finished) == len(sequences)
    answers = {name: [one.token_ids for one in sequences if one.adapter == name] for name in (BASE, "tuned")}
    prompts = [one.prompt_ids for one in sequences if one.adapter == BASE]
    assert answers == {BASE: greedy(model, prompts), "tuned": greedy(model, prompts, adapter)}
    assert answers[BASE] != answers["tuned"]


def greedy(model: Path, prompts: list[list[int]], adapter: Path | None = None) -> list[list[int]]:
    """The 12 tokens that transformers and PEFT generate after each prompt by itself."""
    loaded, answers = load_reference(model, adapter), []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        options = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 12, "do_sample": False}
        found = loaded.generate(input_ids=ids, eos_token_id=-1, pad_token_id=0, **options)
        answers.append(found[0, len(prompt) :].tolist())
    return answers


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("family", SETTINGS)
def test_a_family_is_the_same_after_conversion_there_and_back(family, world, tmp_path):
    model = make_model(tmp_path / "model", model_type=family, **SETTINGS[family], **random_shape(5))
    shards = shards_of(model, tmp_path / "shards", world)
    tp_size, layout = WORLDS[world]
    flags = ["--input", shards, "--output", tmp_path / "back", "--tp-size", tp_size, "--layout", layout, "--to-hf"]
    convert_checkpoint.run(convert_checkpoint.flags().parse_args([str(flag) for flag in flags]))
    before, after = read_model(model), read_model(tmp_path / "back")
    assert before.keys() == after.keys()
    assert all(same_bits(before[name], after[name]) for name in before)


def test_sequences_longer_than_the_attention_window_are_refused(tokens, tmp_path):
    model = make_model(tmp_path / "model", model_type="mistral", sliding_window=95, **random_shape(1))
    args = train_command(make_shards(model, tmp_path / "shards"), tokens, tmp_path / "out")
    with pytest.raises(BadInput, match=r"config\.json: sliding_window 95 is shorter than the 96 tokens of a sequence"):
        Trainer(train_torch.flags().parse_args(args), Ranks())
