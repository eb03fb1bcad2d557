"""The model of the CPU trainer against transformers and PEFT: the same logits, losses and gradients."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from common.data.token_dataset import Batch, TokenSet
from common.formats.peft_folder import LoraConfig
from common.program import BadInput
from common.shards.layout import TARGETS, read_layout, read_shape
from common.training.cpu.llama import Dropout, Llama
from common.training.llama import inverse_frequencies
from common.training.lora import Adapter
from common.training.parallel import Ranks
from tests.scripts.training_files import LLAMA3_ROPE, SETTINGS, make_model, make_shards, make_tokens

CONFIG = LoraConfig(rank=4, alpha=8, dropout=0.0, use_rslora=False, targets=TARGETS)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, its shard, and sequences with examples longer than a block of queries."""
    folder = tmp_path_factory.mktemp("llama")
    make_shards(make_model(folder / "model"), folder / "shards")
    make_tokens(folder / "tokens", sequences=4, seq_len=400, longest=300)
    return folder


def load(files: Path, config: LoraConfig = CONFIG, checkpointing: bool = False, dtype: torch.dtype = torch.float32):
    shards = files / "shards"
    adapter = Adapter(read_shape(shards), read_layout(shards), 0, config, seed=0)
    generator = torch.Generator().manual_seed(1)
    adapter.weights += 0.05 * torch.randn(adapter.weights.shape, generator=generator)  # so that lora_B is not zero
    return Llama(shards, dtype, adapter, Ranks(), checkpointing), adapter


def batch_of(files: Path, *sequences: int) -> Batch:
    return TokenSet(files / "tokens", "train").batch(np.array(sequences))


def reference(files: Path):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(files / "model", attn_implementation="eager").eval()


def with_adapter(model, adapter: Adapter, config: LoraConfig):
    """PEFT's model with the adapter's parameters; q/k/v and gate/up get copies of the lora_A they share."""
    import peft

    settings = {"r": config.rank, "lora_alpha": config.alpha, "use_rslora": config.use_rslora}
    wrapped = peft.get_peft_model(model, peft.LoraConfig(target_modules=list(config.targets), **settings))
    for name, lora_a, lora_b in lora_pairs(adapter, config):
        module = wrapped.base_model.model.get_submodule(name)
        module.lora_A.default.weight.data.copy_(lora_a)
        module.lora_B.default.weight.data.copy_(lora_b)
    return wrapped


def lora_pairs(adapter: Adapter, config: LoraConfig):
    """(module name of Hugging Face, lora_A, lora_B) of every targeted projection; the tensors are the leaves."""
    for layer in range(2):
        for module in ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj"):
            lora = adapter.module(layer, module)
            for name, lora_b in lora.parts.items() if lora else ():
                yield f"model.layers.{layer}.{name}", lora.lora_a, lora_b


def examples(batch: Batch) -> list[torch.Tensor]:
    """The input ids of each example of a batch, in its order."""
    starts = [*torch.nonzero(batch.positions == 0).flatten().tolist(), len(batch.positions)]
    return [batch.input_ids[start:stop] for start, stop in zip(starts, starts[1:], strict=False)]


def test_logits_of_packed_examples_equal_transformers_one_by_one(files):
    model, adapter = load(files)
    batch = batch_of(files, 0, 2)
    wrapped = with_adapter(reference(files), adapter, CONFIG)
    with torch.no_grad():
        expected = torch.cat([wrapped(ids.unsqueeze(0)).logits[0] for ids in examples(batch)])
        logits = model.hidden_states(batch, torch.arange(len(batch.input_ids))) @ model.head.T
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
    assert len(batch.groups) < len(examples(batch))
    assert max(len(ids) for ids in examples(batch)) > 128


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_parameters": {"rope_theta": 5e5}},
        {"tie_word_embeddings": True, "rms_norm_eps": 1e-2},
        {"hidden_act": "swish", "num_key_value_heads": None, "head_dim": None},
        {"model_type": "mistral", "sliding_window": None, "rope_parameters": {"rope_theta": 1e6}},
    ],
    ids=str,
)
def test_logits_equal_transformers_for_what_a_config_may_say(files, tmp_path, changes):
    make_shards(make_model(tmp_path / "model", **changes), tmp_path / "shards")
    model, adapter = load(tmp_path)
    batch = batch_of(files, 0)
    wrapped = with_adapter(reference(tmp_path), adapter, CONFIG)
    with torch.no_grad():
        expected = torch.cat([wrapped(ids.unsqueeze(0)).logits[0] for ids in examples(batch)])
        logits = model.hidden_states(batch, torch.arange(len(batch.input_ids))) @ model.head.T
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("targets", [TARGETS, ("q_proj", "v_proj", "up_proj"), ("o_proj", "down_proj")])
@pytest.mark.parametrize("rslora", [False, True])
def test_loss_and_gradients_equal_peft(files, targets, rslora):
    config = LoraConfig(rank=4, alpha=8, dropout=0.0, use_rslora=rslora, targets=targets)
    model, adapter = load(files, config)
    data, rows = TokenSet(files / "tokens", "train"), [0, 1]
    batch = data.batch(np.array(rows))
    loss = model.loss(batch)
    loss.backward()
    wrapped = with_adapter(reference(files), adapter, config)
    expected = sum(peft_loss(wrapped, data.input_ids[row], data.labels[row], data.segment_ids[row]) for row in rows)
    expected.backward()
    torch.testing.assert_close(loss, expected, atol=1e-3, rtol=1e-5)
    assert_same_gradients(adapter, config, wrapped)


@pytest.mark.parametrize("family", ["mistral", "qwen2", "qwen3", "granite"])
def test_loss_and_gradients_of_a_family_equal_peft(files, tmp_path, family):
    make_shards(make_model(tmp_path / "model", model_type=family, **SETTINGS[family]), tmp_path / "shards")
    model, adapter = load(tmp_path)
    data = TokenSet(files / "tokens", "train")
    loss = model.loss(data.batch(np.array([1])))
    loss.backward()
    wrapped = with_adapter(reference(tmp_path), adapter, CONFIG)
    expected = peft_loss(wrapped, data.input_ids[1], data.labels[1], data.segment_ids[1])
    expected.backward()
    torch.testing.assert_close(loss, expected, atol=1e-3, rtol=1e-5)
    assert_same_gradients(adapter, CONFIG, wrapped)


def peft_loss(wrapped, input_ids, labels, segments) -> torch.Tensor:
    """Sum of the labelled losses of one packed sequence, its examples run one by one."""
    total = torch.zeros(())
    for segment in range(1, segments.max() + 1):
        ids, targets = (torch.from_numpy(array[segments == segment].astype(np.int64)) for array in (input_ids, labels))
        logits = wrapped(ids.unsqueeze(0)).logits[0]
        total = total + torch.nn.functional.cross_entropy(logits[:-1], targets[1:], reduction="sum")
    return total


def assert_same_gradients(adapter: Adapter, config: LoraConfig, wrapped) -> None:
    """lora_B one to one; a shared lora_A has the sum of the gradients of PEFT's copies."""
    sums: dict[int, list[torch.Tensor]] = {}
    for name, lora_a, lora_b in lora_pairs(adapter, config):
        module = wrapped.base_model.model.get_submodule(name)
        torch.testing.assert_close(lora_b.grad, module.lora_B.default.weight.grad, atol=1e-3, rtol=1e-3)
        sums.setdefault(id(lora_a), [lora_a.grad]).append(module.lora_A.default.weight.grad)
    assert sums
    for ours, *theirs in sums.values():
        torch.testing.assert_close(ours, torch.stack(theirs).sum(0), atol=1e-3, rtol=1e-3)


def test_checkpointing_does_not_change_the_gradient_even_with_dropout(files):
    config = LoraConfig(rank=4, alpha=8, dropout=0.3, use_rslora=False, targets=TARGETS)
    gradients = []
    for checkpointing in (False, True):
        model, adapter = load(files, config, checkpointing)
        model.loss(batch_of(files, 1), Dropout(0.3, (5, 0, 0))).backward()
        gradients.append(adapter.gradient)
    assert gradients[0].abs().max() > 0
    torch.testing.assert_close(*gradients, rtol=0, atol=0)


def test_bf16_is_near_fp32_and_keeps_fp32_parameters(files):
    losses = []
    for dtype in (torch.float32, torch.bfloat16):
        model, adapter = load(files, dtype=dtype)
        loss = model.loss(batch_of(files, 0))
        loss.backward()
        losses.append(loss.item())
        assert adapter.gradient.dtype == adapter.weights.dtype == torch.float32
    assert losses[1] == pytest.approx(losses[0], rel=0.01)


def test_dropout_drops_its_share_and_repeats_itself():
    dropout = Dropout(0.25, (1, 2))
    keep = dropout.keep(torch.Size([1000, 100]), (0, 1, 0))
    assert keep is not None
    assert keep.float().mean().item() == pytest.approx(0.75, abs=0.01)
    assert torch.equal(keep, dropout.keep(keep.shape, (0, 1, 0)))
    assert not torch.equal(keep, dropout.keep(keep.shape, (0, 1, 1)))
    assert Dropout().keep(keep.shape, (0,)) is None


@pytest.mark.parametrize("rope", [LLAMA3_ROPE, {"rope_type": "default", "rope_theta": 5e5}])
def test_rotary_frequencies_equal_transformers_from_old_and_new_keys(rope):
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    expected = LlamaRotaryEmbedding(LlamaConfig(head_dim=64, rope_parameters=rope)).inv_freq
    old = {"rope_theta": rope["rope_theta"], "rope_scaling": {k: v for k, v in rope.items() if k != "rope_theta"}}
    for config in ({"rope_parameters": rope}, old):
        torch.testing.assert_close(inverse_frequencies(config, 64), expected)


def test_shard_that_does_not_fit_config_is_refused(files, tmp_path):
    for number, (change, complaint) in enumerate(
        [
            (lambda tensors: tensors.pop("model.norm.weight"), "model.norm.weight is missing"),
            (lambda tensors: tensors.update(extra=torch.zeros(1)), "extra is unexpected"),
            (lambda tensors: tensors.update({"lm_head.weight": torch.zeros(3, 64)}), r"has shape \[3, 64\]"),
        ]
    ):
        shards = copy_shards(files / "shards", tmp_path / str(number))
        path = shards / "model" / "dp_rank_00_tp_rank_00_pp_rank_00.pt"
        tensors = torch.load(path, weights_only=True)
        change(tensors)
        torch.save(tensors, path)
        with pytest.raises(BadInput, match=complaint):
            load(tmp_path / str(number))


def test_truncated_shard_is_refused(files, tmp_path):
    path = copy_shards(files / "shards", tmp_path) / "model" / "dp_rank_00_tp_rank_00_pp_rank_00.pt"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(BadInput, match=path.name):
        load(tmp_path)


def copy_shards(source: Path, folder: Path) -> Path:
    import shutil

    return shutil.copytree(source, folder / "shards")
