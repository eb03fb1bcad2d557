from __future__ import annotations

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from common.shards.layout import ModelShape, ShardLayout  # noqa: E402
from common.training.llama import Heads, layer_weights, padding_bias  # noqa: E402
from common.training.masks import MASKED_SCORE  # noqa: E402

SHAPE = ModelShape(64, 32, 48, 1, 8, 2, 4, tie_word_embeddings=False)


@pytest.mark.parametrize(
    ("tp_size", "copies", "kv", "per_kv"), [(1, 1, 2, 4), (2, 1, 1, 4), (4, 2, 1, 2), (8, 4, 1, 1)]
)
def test_heads_of_a_rank(tp_size: int, copies: int, kv: int, per_kv: int) -> None:
    heads = Heads.on_rank(SHAPE, ShardLayout(tp_size, copies, "trn2"))
    assert heads == Heads(kv, per_kv, 4)
    assert heads.query * tp_size == SHAPE.num_attention_heads


def test_the_bias_of_the_output_layer_masks_the_padding_of_the_vocabulary() -> None:
    shape, layout = replace(SHAPE, vocab_size=9), ShardLayout(4, 2, "trn2")
    biases = [padding_bias(shape, layout, rank, "cpu") for rank in range(4)]
    assert torch.cat([bias for bias in biases if bias is not None]).tolist() == [0.0] * 9 + [MASKED_SCORE] * 3
    assert padding_bias(replace(SHAPE, vocab_size=8), layout, 3, "cpu") is None


def test_q_k_and_v_of_a_layer_are_fused_in_order() -> None:
    prefix = "model.layers.3."
    weights = {f"{prefix}self_attn.qkv_proj.weight_{part}": torch.full((1, 2), n) for n, part in enumerate("qkv")}
    for n, module in enumerate(["self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj"], start=3):
        weights[f"{prefix}{module}.weight"] = torch.full((1, 2), n)
    weights |= {f"{prefix}{name}_layernorm.weight": torch.ones(2) for name in ("input", "post_attention")}
    linears = layer_weights(weights, 3, SHAPE, Heads(2, 4, 4)).linears
    assert linears[0][:, 0].tolist() == [0, 1, 2]
    assert [int(weight[0, 0]) for weight in linears[1:]] == [3, 4, 5]
