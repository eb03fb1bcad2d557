"""convert → train → export: what was trained is what Hugging Face + PEFT computes from the exported folder."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import export_adapter
from common.data.token_dataset import Batch, TokenSet
from tests.scripts.training_files import (
    PROGRAM,
    finish,
    make_model,
    make_shards,
    make_tokens,
    start_ranks,
    train_command,
)

FLAGS = ("--batch-size", 2, "--epochs", 3, "--learning-rate", 0.02, "--rank", 4, "--alpha", 8, "--warmup-ratio", 0)
CASES = {
    "tp1": (1, 1, "trn2", ()),
    "tp2": (2, 1, "trn2", ()),
    "tp4_trn1": (4, 2, "trn1", ()),
    "tp4_trn2_subset": (4, 2, "trn2", ("--rslora", "--targets", "q_proj", "v_proj", "up_proj", "down_proj")),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pipeline")
    make_model(folder / "model")
    make_tokens(folder / "tokens")
    return folder


@pytest.mark.parametrize("case", CASES)
def test_exported_adapter_gives_the_logits_of_the_trained_ranks(files, tmp_path, case):
    tp_size, multiplier, layout, flags = CASES[case]
    make_shards(files / "model", tmp_path / "shards", tp_size, multiplier, layout)
    command = train_command(tmp_path / "shards", files / "tokens", tmp_path / "trained", *FLAGS, *flags)
    statuses, said = finish(start_ranks(tp_size, command, Path(__file__).with_name("train_and_save_logits.py")))
    assert statuses == [0] * tp_size, said
    assert_served_as_trained(files, tmp_path)


def test_torchrun_trains_two_ranks(files, tmp_path):
    make_shards(files / "model", tmp_path / "shards", 2)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", PROGRAM]
    command = train_command(tmp_path / "shards", files / "tokens", tmp_path / "trained", *FLAGS)
    subprocess.run([*launcher, *command], check=True, capture_output=True, timeout=120)
    training = json.loads((tmp_path / "trained/training.json").read_text())
    batch = eval_batch(files)
    logits = peft_logits(files / "model", export(files, tmp_path), batch)[batch.rows]
    loss = torch.nn.functional.cross_entropy(logits, batch.targets).item()
    assert loss == pytest.approx(training["eval_loss_end"], abs=1e-5)
    assert loss != pytest.approx(training["eval_loss_start"], abs=1e-2)


def assert_served_as_trained(files: Path, folder: Path) -> None:
    trained = torch.load(folder / "trained/logits.pt", weights_only=True)
    batch = eval_batch(files)
    torch.testing.assert_close(peft_logits(files / "model", export(files, folder), batch), trained, atol=1e-4, rtol=0)
    assert (peft_logits(files / "model", None, batch) - trained).abs().max() > 0.1


def eval_batch(files: Path) -> Batch:
    data = TokenSet(files / "tokens", "eval")
    return data.batch(np.arange(len(data)))


def export(files: Path, folder: Path) -> Path:
    flags = ["--model", files / "model", "--adapter", folder / "trained", "--output", folder / "exported"]
    export_adapter.run(export_adapter.flags().parse_args([str(flag) for flag in flags]))
    return folder / "exported/adapter"


def peft_logits(model: Path, adapter: Path | None, batch: Batch) -> torch.Tensor:
    """The logits of each example run by itself, (tokens of the batch, vocabulary)."""
    from peft import PeftModel
    from transformers import LlamaForCausalLM

    loaded = LlamaForCausalLM.from_pretrained(model)
    if adapter is not None:
        loaded = PeftModel.from_pretrained(loaded, str(adapter))
    starts = torch.nonzero(batch.positions == 0).flatten().tolist()
    with torch.no_grad():
        examples = batch.input_ids.tensor_split(starts[1:])
        return torch.cat([loaded.eval()(ids.unsqueeze(0)).logits[0] for ids in examples])
