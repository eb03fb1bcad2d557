from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from common.formats import gguf_model
from common.program import BadInput

HIDDEN, HEADS, KV_HEADS, INTERMEDIATE, LAYERS = 64, 4, 2, 96, 2
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
VOCABULARY = [*SPECIAL, *"Ċ012345abc", "Ġ", "ĠĠ", "ab", "Ġa"]
MERGES = ["Ġ Ġ", "a b", "Ġ a"]
SHAPES = {
    "attn_norm": (HIDDEN,),
    "attn_q": (HIDDEN, HIDDEN),
    "attn_k": (HIDDEN // 2, HIDDEN),
    "attn_v": (HIDDEN // 2, HIDDEN),
    "attn_output": (HIDDEN, HIDDEN),
    "ffn_norm": (HIDDEN,),
    "ffn_gate": (INTERMEDIATE, HIDDEN),
    "ffn_up": (INTERMEDIATE, HIDDEN),
    "ffn_down": (HIDDEN, INTERMEDIATE),
}


def weights(tied: bool = True) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {"token_embd": (len(VOCABULARY), HIDDEN), "output_norm": (HIDDEN,)}
    if not tied:
        shapes["output"] = shapes["token_embd"]
    shapes |= {f"blk.{layer}.{name}": shape for layer in range(LAYERS) for name, shape in SHAPES.items()}
    return {f"{name}.weight": rng.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}


def write_gguf(
    path: Path,
    tensors: dict[str, np.ndarray],
    pre: str = "smollm",
    rope_scaling: str | None = None,
    numbers: dict[str, int | float] | None = None,
) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INTERMEDIATE)
    writer.add_block_count(LAYERS)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_context_length(128)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(100000.0)
    if rope_scaling:
        writer.add_string("llama.rope.scaling.type", rope_scaling)
    for key, value in (numbers or {}).items():
        (writer.add_uint32 if isinstance(value, int) else writer.add_float32)(f"llama.{key}", value)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(VOCABULARY)
    writer.add_token_types([3] * len(SPECIAL) + [1] * (len(VOCABULARY) - len(SPECIAL)))
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template("{{ messages }}")
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_numbers_of_a_plain_llama_pass(tmp_path):
    path = write_gguf(tmp_path / "m.gguf", weights(), numbers={"rope.dimension_count": 16, "logit_scale": 1.0})
    gguf_model.write_folder(path, tmp_path / "out", "bf16")


def converted(folder: Path, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    gguf_model.write_folder(write_gguf(folder / "m.gguf", tensors), folder / "out", "fp32")
    return load_file(folder / "out/model.safetensors")


@pytest.mark.parametrize("tied", [True, False])
def test_weights_and_names(tmp_path, tied):
    tensors = weights(tied)
    found = converted(tmp_path, tensors)
    assert len(found) == len(tensors)
    assert ("lm_head.weight" in found) is not tied
    for name, renamed in {
        "token_embd": "model.embed_tokens",
        "output_norm": "model.norm",
        "blk.1.attn_v": "model.layers.1.self_attn.v_proj",
        "blk.0.ffn_down": "model.layers.0.mlp.down_proj",
    }.items():
        assert np.array_equal(found[f"{renamed}.weight"], tensors[f"{name}.weight"])


@pytest.mark.parametrize(("name", "heads"), [("q", HEADS), ("k", KV_HEADS)])
def test_rotary_pairs_of_each_head_are_set_apart(tmp_path, name, heads):
    tensors = weights()
    weight = converted(tmp_path, tensors)[f"model.layers.1.self_attn.{name}_proj.weight"]
    found = weight.reshape(heads, -1, HIDDEN)
    stored = tensors[f"blk.1.attn_{name}.weight"].reshape(heads, -1, HIDDEN)
    half = stored.shape[1] // 2
    for pair in range(half):
        assert np.array_equal(found[:, pair], stored[:, 2 * pair])
        assert np.array_equal(found[:, half + pair], stored[:, 2 * pair + 1])


def test_config_and_end_token(tmp_path):
    gguf_model.write_folder(write_gguf(tmp_path / "m.gguf", weights()), tmp_path / "out", "bf16")
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert (
        config
        | {
            "rope_theta": 100000.0,
            "rms_norm_eps": 1e-5,
            "head_dim": HIDDEN // HEADS,
            "tie_word_embeddings": True,
            "eos_token_id": 2,
            "torch_dtype": "bfloat16",
        }
        == config
    )
    settings = json.loads((tmp_path / "out/tokenizer_config.json").read_text())
    assert settings["eos_token"] == "<|im_end|>"
    assert settings["chat_template"] == "{{ messages }}"


def test_digits_are_set_apart_before_the_words(tmp_path):
    gguf_model.write_folder(write_gguf(tmp_path / "m.gguf", weights()), tmp_path / "out", "bf16")
    tokenizer = Tokenizer.from_file(str(tmp_path / "out/tokenizer.json"))
    assert tokenizer.encode("ab  12<|im_end|>").tokens == ["ab", "ĠĠ", "1", "2", "<|im_end|>"]
    assert tokenizer.decode(tokenizer.encode("ab  12 a").ids) == "ab  12 a"


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"rope_freqs.weight": np.ones(8, np.float32)}, {}, "scaled rotary embeddings"),
        ({}, {"rope_scaling": "yarn"}, "scaled rotary embeddings"),
        ({}, {"pre": "llama-bpe"}, r"tokenizer \('gpt2', 'llama-bpe'\) cannot be rebuilt"),
        ({}, {"numbers": {"rope.dimension_count": 8}}, "llama.rope.dimension_count 8 is not supported, only 16"),
        ({}, {"numbers": {"expert_count": 8}}, "llama.expert_count 8 is not supported, only 0"),
        ({}, {"numbers": {"logit_scale": 2.0}}, "llama.logit_scale 2.0 is not supported, only 1.0"),
        ({"blk.0.attn_q.bias": np.ones(HIDDEN, np.float32)}, {}, r"tensor blk\.0\.attn_q\.bias"),
        ({"blk.1.ffn_up.weight": None}, {}, r"tensor blk\.1\.ffn_up\.weight is missing"),
    ],
)
def test_what_would_come_out_wrong_is_refused(tmp_path, change, options, message):
    tensors = {name: tensor for name, tensor in (weights() | change).items() if tensor is not None}
    with pytest.raises(BadInput, match=message):
        gguf_model.write_folder(write_gguf(tmp_path / "m.gguf", tensors, **options), tmp_path / "out", "bf16")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kept", [0.0, 0.001, 0.01, 0.3, 0.99])
def test_a_truncated_file_is_named(tmp_path, kept):
    path = write_gguf(tmp_path / "m.gguf", weights())
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(BadInput, match=r"m\.gguf: damaged, truncated or not GGUF"):
        gguf_model.write_folder(path, tmp_path / "out", "bf16")
