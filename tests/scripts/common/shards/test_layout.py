from __future__ import annotations

import dataclasses
import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.program import BadInput
from common.shards import layout
from common.shards.layout import ModelShape, ShardLayout
from tests.scripts.llama_files import TINY


@st.composite
def cuts(draw: st.DrawFn) -> tuple[ModelShape, ShardLayout]:
    """A shape and a layout that fit: tp_size divides the K/V heads, or gives each copy of one a rank."""
    heads, copies, group = draw(st.integers(1, 6)), draw(st.integers(1, 4)), draw(st.integers(1, 3))
    divisors = [number for number in range(1, heads + 1) if heads % number == 0]
    tp_size = heads * copies if copies > 1 else draw(st.sampled_from(divisors))
    shape = ModelShape(
        vocab_size=draw(st.integers(1, 4 * tp_size)),
        hidden_size=heads * copies * group * draw(st.integers(1, 4)),
        intermediate_size=tp_size * draw(st.integers(1, 4)),
        num_hidden_layers=draw(st.integers(1, 2)),
        num_attention_heads=heads * copies * group,
        num_key_value_heads=heads,
        head_dim=draw(st.sampled_from([2, 4, 6])),
        tie_word_embeddings=draw(st.booleans()),
    )
    return shape, ShardLayout(tp_size, copies, draw(st.sampled_from(layout.LAYOUTS)))


def test_head_orders_of_the_two_accelerators() -> None:
    shape = replace(TINY, num_attention_heads=8)
    trn1, trn2 = ShardLayout(4, 2, "trn1"), ShardLayout(4, 2, "trn2")
    assert layout.query_heads(shape, trn1).tolist() == [[0, 1], [4, 5], [2, 3], [6, 7]]
    assert layout.key_value_heads(shape, trn1).tolist() == [[0], [1], [0], [1]]
    assert layout.query_heads(shape, trn2).tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert layout.key_value_heads(shape, trn2).tolist() == [[0], [0], [1], [1]]


@given(cuts())
def test_a_fitting_layout_is_accepted_and_is_the_default(cut: tuple[ModelShape, ShardLayout]) -> None:
    shape, shards = cut
    layout.check_divisible(shape, shards)
    assert layout.fewest_copies(shape, shards.tp_size) == shards.kv_size_multiplier


@given(cuts())
def test_query_heads_lie_beside_their_key_value_heads(cut: tuple[ModelShape, ShardLayout]) -> None:
    shape, shards = cut
    queries, keys = layout.query_heads(shape, shards), layout.key_value_heads(shape, shards)
    assert sorted(queries.ravel()) == list(range(shape.num_attention_heads))
    needed = queries // (shape.num_attention_heads // shape.num_key_value_heads)
    assert np.array_equal(needed, np.repeat(keys, queries.shape[1] // keys.shape[1], axis=1))


@given(cuts())
def test_copies_lie_on_the_ranks_that_sum_their_gradients(cut: tuple[ModelShape, ShardLayout]) -> None:
    shape, shards = cut
    copies, tp_size = shards.kv_size_multiplier, shards.tp_size
    keys = layout.key_value_heads(shape, shards)
    if shards.layout == "trn1":
        groups = [range(first, tp_size, tp_size // copies) for first in range(tp_size // copies)]
    else:
        groups = [range(first, first + copies) for first in range(0, tp_size, copies)]
    assert all(np.array_equal(keys[rank], keys[group[0]]) for group in groups if copies > 1 for rank in group)


@given(cuts())
def test_without_copies_the_layouts_are_one(cut: tuple[ModelShape, ShardLayout]) -> None:
    shape, shards = cut
    if shards.kv_size_multiplier == 1:
        both = [layout.placements(shape, replace(shards, layout=name)) for name in layout.LAYOUTS]
        assert both[0] == both[1]


@given(cuts())
def test_first_copies_make_every_tensor_once(cut: tuple[ModelShape, ShardLayout]) -> None:
    shape, shards = cut
    sizes = shape.tensors()
    for name, place in layout.placements(shape, shards).items():
        spans = [(segment.start, segment.length) for segment in place.first_copies()]
        ends = np.cumsum([0] + [length for _, length in spans])
        assert [start for start, _ in spans] == ends[:-1].tolist()
        assert ends[-1] == sizes[name][place.axis]


@given(cuts())
def test_segments_fill_every_shard_and_do_not_overlap(cut: tuple[ModelShape, ShardLayout]) -> None:
    shape, shards = cut
    expected = layout.shard_shapes(shape, shards)
    filled = {(rank, key): np.zeros(size, int) for rank in range(shards.tp_size) for key, size in expected.items()}
    for place in layout.placements(shape, shards).values():
        for segment in place.segments:
            counts = np.moveaxis(filled[segment.rank, place.key], place.axis, 0)
            counts[segment.shard_start : segment.shard_start + segment.length] += 1
    for rank, name in itertools.product(range(shards.tp_size), (layout.EMBEDDING, layout.LM_HEAD)):
        rows = filled[rank, name]
        rows[max(0, shape.vocab_size - rank * len(rows)) :] += 1  # what is beyond the vocabulary is padding
    assert all((counts == 1).all() for counts in filled.values())


def test_the_last_ranks_have_the_padding_of_the_vocabulary() -> None:
    shape, shards = replace(TINY, vocab_size=9), ShardLayout(4, 2, "trn2")
    assert layout.shard_shapes(shape, shards)[layout.EMBEDDING] == (3, 8)
    tokens = layout.placements(shape, shards)[layout.EMBEDDING].segments
    assert [(segment.rank, segment.start, segment.length) for segment in tokens] == [(0, 0, 3), (1, 3, 3), (2, 6, 3)]
    assert layout.shard_shapes(replace(shape, vocab_size=10), shards)[layout.EMBEDDING] == (3, 8)


@pytest.mark.parametrize(
    ("tp_size", "copies", "changes", "message"),
    [
        (3, 1, {}, "--tp-size 3 does not divide num_attention_heads 4"),
        (2, 1, {"intermediate_size": 15}, "--tp-size 2 does not divide intermediate_size 15"),
        (4, 1, {}, "--kv-size-multiplier 1 does not fit --tp-size 4 and num_key_value_heads 2: try 2"),
        (2, 2, {}, "--kv-size-multiplier 2 does not fit --tp-size 2 and num_key_value_heads 2: try 1"),
        (4, 4, {"num_attention_heads": 8}, "--kv-size-multiplier 4 does not fit --tp-size 4"),
        (4, 2, {"num_attention_heads": 12, "num_key_value_heads": 6}, "try a divisor or a multiple of it"),
    ],
)
@pytest.mark.parametrize("name", layout.LAYOUTS)
def test_cuts_that_would_split_or_mix_heads(
    tp_size: int, copies: int, changes: dict[str, int], message: str, name: str
) -> None:
    with pytest.raises(BadInput, match=message):
        layout.check_divisible(replace(TINY, **changes), ShardLayout(tp_size, copies, name))


CONFIG = {
    "model_type": "llama", "vocab_size": 16, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2,
    "num_attention_heads": 4,
}  # fmt: skip


def write_config(folder: Path, **changes: object) -> Path:
    (folder / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    return folder


def test_absent_sizes_follow_from_the_others(tmp_path: Path) -> None:
    shape = layout.read_shape(write_config(tmp_path, head_dim=None))
    assert (shape.num_key_value_heads, shape.head_dim, shape.tie_word_embeddings) == (4, 2, False)
    mistral = write_config(tmp_path, model_type="mistral", sliding_window=None, num_key_value_heads=None)
    assert layout.read_shape(mistral) == dataclasses.replace(shape, model_type="mistral")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gpt2"}, "model_type 'gpt2' is not supported"),
        ({"model_type": None}, "model_type None is not supported"),
        ({"attention_bias": True}, "attention_bias True is not supported"),
        ({"mlp_bias": True}, "mlp_bias True is not supported"),
        ({"model_type": "mistral", "sliding_window": 0}, "sliding_window must be a number above 0, it is 0"),
        ({"model_type": "qwen2", "use_sliding_window": True}, "use_sliding_window True is not supported"),
        ({"hidden_size": None}, "hidden_size must be a whole number from 1, it is None"),
        ({"vocab_size": "16"}, "vocab_size must be a whole number from 1, it is '16'"),
        ({"num_hidden_layers": True}, "num_hidden_layers must be"),
        ({"num_attention_heads": 0}, "num_attention_heads must be"),
        ({"num_key_value_heads": 3}, "num_key_value_heads 3 does not divide num_attention_heads 4"),
        ({"head_dim": 3}, "head_dim 3 is odd"),
    ],
)
def test_configs_of_other_models(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(BadInput, match=f"config.json: .*{message}"):
        layout.read_shape(write_config(tmp_path, **changes))


def test_layout_json_comes_back_as_written(tmp_path: Path) -> None:
    layout.write_layout(tmp_path, ShardLayout(8, 2, "trn1"))
    assert json.loads((tmp_path / "layout.json").read_text()) == {
        "tp_size": 8, "kv_size_multiplier": 2, "layout": "trn1",
    }  # fmt: skip
    assert layout.read_layout(tmp_path) == ShardLayout(8, 2, "trn1")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"layout": "trn3"}', '{"layout": "trn1", "tp_size": 0}'])
def test_damaged_layout_json(tmp_path: Path, content: str) -> None:
    (tmp_path / "layout.json").write_text(content)
    with pytest.raises(BadInput, match="layout.json"):
        layout.read_layout(tmp_path)
