"""A training that continues a PEFT adapter, compared with PEFT's own continuation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import export_adapter
import train_torch
from common.data.token_dataset import TokenSet
from common.formats.peft_folder import CONFIG, WEIGHTS
from common.program import BadInput
from common.shards.layout import write_layout
from common.training.cpu.trainer import Trainer
from common.training.parallel import Ranks
from tests.scripts.thread_ranks import run_on_ranks
from tests.scripts.training_files import make_model, make_shards, make_tokens, train_command

WORLDS = {"tp1": (1, 1, "trn2"), "tp2": (2, 1, "trn2"), "tp4_trn1": (4, 2, "trn1")}
TARGETS = {
    "all": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    "some": ["q_proj", "v_proj", "up_proj", "down_proj"],
}
FLAGS = ("--rank", 4, "--alpha", 8, "--max-grad-norm", 0, "--batch-size", 3, "--max-steps", 2)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    make_model(folder / "model", model_type="qwen2", use_sliding_window=False)
    for name, (tp_size, multiplier, layout) in WORLDS.items():
        make_shards(folder / "model", folder / name, tp_size, multiplier, layout)
    make_tokens(folder / "tokens")
    for name, targets in TARGETS.items():
        save_adapter(folder / "model", folder / name, targets)
    return folder


def save_adapter(model: Path, folder: Path, targets: list[str]) -> None:
    """A random adapter, saved by PEFT, as after a training: every lora_A and lora_B has other values."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    config = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules=targets)
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(model), config)
    for name, parameter in adapted.named_parameters():
        if ".lora_" in name:
            parameter.data.normal_(0, 0.2)
    adapted.save_pretrained(str(folder))


def share_lora_a(source: Path, folder: Path) -> Path:
    """A copy of an adapter whose fused projections have the same lora_A, as those that are exported here."""
    folder.mkdir()
    (folder / CONFIG).write_bytes((source / CONFIG).read_bytes())
    tensors = load_file(source / WEIGHTS)
    for name in tensors:
        for one, first in (("k_proj", "q_proj"), ("v_proj", "q_proj"), ("up_proj", "gate_proj")):
            if f"{one}.lora_A" in name:
                tensors[name] = tensors[name.replace(one, first)].clone()
    save_file(tensors, folder / WEIGHTS)
    return folder


def peft_gradients(model: Path, adapter: Path, tokens: Path) -> tuple[float, dict[str, torch.Tensor]]:
    """PEFT's loss and gradients of the first three sequences, each example by itself."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), str(adapter), is_trainable=True)
    batch = TokenSet(tokens, "train").batch(np.arange(3))
    starts = torch.nonzero(batch.positions == 0).flatten().tolist()
    logits = torch.cat([adapted(ids.unsqueeze(0)).logits[0] for ids in batch.input_ids.tensor_split(starts[1:])])
    loss = torch.nn.functional.cross_entropy(logits[batch.rows], batch.targets)
    loss.backward()
    gradients = {
        name.replace(".default", ""): parameter.grad
        for name, parameter in adapted.named_parameters()
        if parameter.grad is not None
    }
    return loss.item(), gradients


def our_gradients(
    files: Path, adapter: Path, world: str, output: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[float, dict[str, torch.Tensor]]:
    """The same of our ranks, gathered by the export of the gradients in place of the adapter."""
    targets = json.loads((adapter / CONFIG).read_text())["target_modules"]
    args = parsed(files, world, output, "--init-adapter", adapter, "--targets", *targets)

    def program(ranks: Ranks) -> float:
        trainer = Trainer(args, ranks)
        loss = trainer.accumulate([trainer.train_set.batch(np.arange(3))], 0)
        trainer._reduce_gradient()
        trainer.adapter.weights.copy_(trainer.adapter.gradient)
        trainer.adapter.save(output)
        ranks.barrier()
        if ranks.rank == 0:
            trainer.adapter.save_config(output)
            write_layout(output, trainer.layout)
        return loss

    loss = run_on_ranks(WORLDS[world][0], program, monkeypatch)[0]
    return loss, exported(files, output)


def parsed(files: Path, world: str, output: Path, *flags: object):
    return train_torch.flags().parse_args(train_command(files / world, files / "tokens", output, *FLAGS, *flags))


def exported(files: Path, trained: Path) -> dict[str, torch.Tensor]:
    flags = ["--model", files / "model", "--adapter", trained, "--output", trained / "exported"]
    export_adapter.run(export_adapter.flags().parse_args([str(flag) for flag in flags]))
    return load_file(trained / "exported" / "adapter" / WEIGHTS)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("targets", TARGETS)
def test_loss_and_gradients_are_those_of_pefts_own_continuation(files, targets, world, tmp_path, monkeypatch):
    expected_loss, expected = peft_gradients(files / "model", files / targets, files / "tokens")
    loss, gradients = our_gradients(files, files / targets, world, tmp_path / "out", monkeypatch)
    assert loss == pytest.approx(expected_loss, abs=1e-4)
    assert gradients.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, atol=1e-4, rtol=1e-4)
    assert all(gradient.abs().max() > 1e-3 for gradient in expected.values())


@pytest.mark.parametrize("world", WORLDS)
def test_a_shared_lora_a_stays_shared_and_has_the_sum_of_the_gradients(files, world, tmp_path, monkeypatch):
    shared = share_lora_a(files / "all", tmp_path / "shared")
    expected_loss, expected = peft_gradients(files / "model", shared, files / "tokens")
    loss, gradients = our_gradients(files, shared, world, tmp_path / "out", monkeypatch)
    assert loss == pytest.approx(expected_loss, abs=1e-4)
    for names in (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"), ("o_proj",), ("down_proj",)):
        for name in (name for name in expected if f"{names[0]}.lora_A" in name):
            total = torch.stack([expected[name.replace(names[0], one)] for one in names]).sum(0)
            for one in names:
                torch.testing.assert_close(gradients[name.replace(names[0], one)], total, atol=1e-4, rtol=1e-4)


def test_a_training_of_no_steps_that_matter_gives_the_adapter_back(files, tmp_path):
    args = parsed(files, "tp1", tmp_path / "out", "--init-adapter", files / "all", "--learning-rate", 0)
    Trainer(args, Ranks()).run()
    before, after = load_file(files / "all" / WEIGHTS), exported(files, tmp_path / "out")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--rank", 8], "--rank 8: the adapter to continue has 4"),
        (["--alpha", 16], "--alpha 16.0: the adapter to continue has 8.0"),
        (["--rslora"], "--rslora True: the adapter to continue has False"),
        (["--targets", "q_proj"], "--targets q_proj: the adapter to continue has down_proj gate_proj k_proj"),
    ],
)
def test_other_settings_than_the_adapters_are_refused(files, tmp_path, flags, message):
    with pytest.raises(BadInput, match=message):
        Trainer(parsed(files, "tp1", tmp_path / "out", "--init-adapter", files / "all", *flags), Ranks())


def test_an_adapter_of_another_model_is_refused(files, tmp_path):
    other = make_model(tmp_path / "other", num_hidden_layers=1)
    save_adapter(other, tmp_path / "adapter", TARGETS["all"])
    with pytest.raises(BadInput, match=r"layers\.1\..* is missing"):
        Trainer(parsed(files, "tp1", tmp_path / "out", "--init-adapter", tmp_path / "adapter"), Ranks())


def test_a_checkpoint_of_another_initial_adapter_is_not_resumed(files, tmp_path):
    def settings(adapter: Path) -> str:
        args = parsed(files, "tp1", tmp_path / "out", "--init-adapter", adapter)
        return Trainer(args, Ranks())._settings()

    same = tmp_path / "copy"
    same.mkdir()
    for name in (CONFIG, WEIGHTS):
        (same / name).write_bytes((files / "all" / name).read_bytes())
    assert settings(same) == settings(files / "all") != settings(share_lora_a(files / "all", tmp_path / "shared"))
