"""A Llama in a GGUF file, rewritten as a Hugging Face folder. NumPy and `gguf`, no torch.

transformers can load GGUF too, but drops what it does not know: the pre-tokenizer that splits digits
(other token ids) and scaled rotary frequencies (a wrong model). Here such a file is refused.
Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common import events
from common.formats import dtypes
from common.formats.dtypes import DTYPES
from common.formats.safetensors_file import SINGLE, SafetensorsWriter
from common.program import BadInput

if TYPE_CHECKING:
    import gguf

_CONFIG = {
    "hidden_size": "llama.embedding_length",
    "intermediate_size": "llama.feed_forward_length",
    "num_hidden_layers": "llama.block_count",
    "num_attention_heads": "llama.attention.head_count",
    "num_key_value_heads": "llama.attention.head_count_kv",
    "max_position_embeddings": "llama.context_length",
    "rms_norm_eps": "llama.attention.layer_norm_rms_epsilon",
    "rope_theta": "llama.rope.freq_base",
    "bos_token_id": "tokenizer.ggml.bos_token_id",
    "eos_token_id": "tokenizer.ggml.eos_token_id",
}
_HEAD_WIDTHS = ("rope.dimension_count", "attention.key_length", "attention.value_length")
_OTHER_ARITHMETIC = {  # keys of models that call themselves llama and are more, with the values of one that is not
    "expert_count": 0,
    "attention.sliding_window": 0,
    "attention.scale": 0.0,
    "attention.clamp_kqv": 0.0,
    "embedding_scale": 1.0,
    "residual_scale": 1.0,
    "logit_scale": 1.0,
}
_OUTER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_INNER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_SPECIAL = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
_CONTROL = 3  # tokenizer.ggml.token_type of a special token


def write_folder(path: Path, output: Path, dtype: str) -> None:
    """Write config.json, generation_config.json, model.safetensors and the tokenizer; `dtype` is a key of DTYPES.

    Raises BadInput for a damaged file, and for a model that would not come out exactly.
    """
    with _damage_reported(path):
        reader = _open(path)
        config = _config(path, reader)
        tokenizer = _tokenizer(path, reader)
        names = _names(path, reader, config)
        output.mkdir(parents=True, exist_ok=True)
        _write_weights(reader, names, config, output / SINGLE, DTYPES[dtype].stored)
    ids = {key: config[key] for key in ("bos_token_id", "eos_token_id")}
    _write_json(output / "config.json", {**config, "torch_dtype": DTYPES[dtype].torch})
    _write_json(output / "generation_config.json", ids)
    _write_json(output / "tokenizer.json", tokenizer)
    _write_json(output / "tokenizer_config.json", _tokenizer_config(reader, config))


@contextlib.contextmanager
def _damage_reported(path: Path) -> Iterator[None]:
    """Raise BadInput for what the package gguf, NumPy and the tokenizer raise for a file with impossible values."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError, TypeError, ValueError) as error:
        raise BadInput(f"{path}: damaged, truncated or not GGUF ({type(error).__name__}: {error})") from error


def _open(path: Path) -> gguf.GGUFReader:
    import gguf

    reader = gguf.GGUFReader(path)
    architecture = _get(reader, "general.architecture")
    if architecture != "llama":
        raise BadInput(f"{path}: holds a {architecture} model; the stages know llama")
    return reader


def _get(reader: gguf.GGUFReader, key: str) -> Any:
    field = reader.get_field(key)
    return None if field is None else field.contents()


def _config(path: Path, reader: gguf.GGUFReader) -> dict[str, Any]:
    """The Hugging Face config, with rope_theta at the top level, which every transformers version reads."""
    values = {name: _get(reader, key) for name, key in _CONFIG.items()}
    for name, value in values.items():
        if value is None:
            raise BadInput(f"{path}: no {_CONFIG[name]} in its metadata")
    scaling = _get(reader, "llama.rope.scaling.type")
    if scaling not in (None, "none") or any(tensor.name.startswith("rope_freqs") for tensor in reader.tensors):
        raise BadInput(f"{path}: scaled rotary embeddings are not read back exactly; take it with --hub or --folder")
    head_dim = values["hidden_size"] // values["num_attention_heads"]
    for key, plain in {**dict.fromkeys(_HEAD_WIDTHS, head_dim), **_OTHER_ARITHMETIC}.items():
        value = _get(reader, f"llama.{key}")
        if value not in (None, plain):
            raise BadInput(f"{path}: llama.{key} {value} is not supported, only {plain}: choose another model")
    for name in ("rms_norm_eps", "rope_theta"):
        values[name] = float(str(np.float32(values[name])))  # 1e-05, not float32's 9.999999747378752e-06
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "head_dim": head_dim,
        "vocab_size": len(_get(reader, "tokenizer.ggml.tokens")),
        "tie_word_embeddings": all(tensor.name != "output.weight" for tensor in reader.tensors),
        **values,
    }


def _names(path: Path, reader: gguf.GGUFReader, config: dict[str, Any]) -> dict[str, str]:
    """GGUF tensor name -> Hugging Face name. Raises BadInput unless the file holds just these."""
    if config["num_hidden_layers"] > len(reader.tensors):
        raise BadInput(
            f"{path}: {_CONFIG['num_hidden_layers']} is {config['num_hidden_layers']}, but it has fewer tensors"
        )
    names = {f"{old}.weight": f"{new}.weight" for old, new in _OUTER.items()}
    for layer in range(config["num_hidden_layers"]):
        names |= {f"blk.{layer}.{old}.weight": f"model.layers.{layer}.{new}.weight" for old, new in _INNER.items()}
    if config["tie_word_embeddings"]:
        del names["output.weight"]
    different = names.keys() ^ {tensor.name for tensor in reader.tensors}
    if different:
        raise BadInput(f"{path}: the tensor {min(different)} is missing or not part of a plain Llama")
    return names


def _write_weights(
    reader: gguf.GGUFReader, names: dict[str, str], config: dict[str, Any], path: Path, dtype: str
) -> None:
    specs = {names[tensor.name]: dtypes.TensorSpec(dtype, _shape(tensor)) for tensor in reader.tensors}
    writer = SafetensorsWriter(path, specs)
    for done, tensor in enumerate(reader.tensors, 1):
        values = np.ascontiguousarray(_values(tensor, config))
        writer.write(names[tensor.name], 0, dtypes.from_float32(values, dtype))
        events.progress(done, len(reader.tensors), "tensor")
    writer.close()


def _shape(tensor: gguf.ReaderTensor) -> tuple[int, ...]:
    return tuple(int(size) for size in reversed(tensor.shape))  # GGUF counts the dimensions from the fastest


def _values(tensor: gguf.ReaderTensor, config: dict[str, Any]) -> np.ndarray:
    """The weights in float32, in Hugging Face's order of rows."""
    from gguf.quants import dequantize

    values = dequantize(tensor.data, tensor.tensor_type).reshape(_shape(tensor))
    if ".attn_q." in tensor.name:
        return _split_halves(values, config["num_attention_heads"])
    if ".attn_k." in tensor.name:
        return _split_halves(values, config["num_key_value_heads"])
    return values


def _split_halves(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rotary pairs of a head, from neighbours (0,1), (2,3), ... in GGUF to (0,d/2), (1,d/2+1), ... in Hugging Face."""
    pairs = weight.reshape(heads, -1, 2, weight.shape[1])
    return pairs.swapaxes(1, 2).reshape(weight.shape)


def _tokenizer(path: Path, reader: gguf.GGUFReader) -> dict[str, Any]:
    """The content of tokenizer.json: byte-level BPE after each digit is set apart (SmolLM and SmolLM2)."""
    kind = (_get(reader, "tokenizer.ggml.model"), _get(reader, "tokenizer.ggml.pre"))
    if kind != ("gpt2", "smollm"):
        raise BadInput(f"{path}: its tokenizer {kind} cannot be rebuilt exactly; take it with --hub or --folder")
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens, types = _get(reader, "tokenizer.ggml.tokens"), _get(reader, "tokenizer.ggml.token_type")
    merges = [tuple(merge.split(" ")) for merge in _get(reader, "tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [token for token, kind in zip(tokens, types, strict=True) if kind == _CONTROL]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return json.loads(tokenizer.to_str())


def _tokenizer_config(reader: gguf.GGUFReader, config: dict[str, Any]) -> dict[str, Any]:
    tokens = _get(reader, "tokenizer.ggml.tokens")
    ids = {name: _get(reader, f"tokenizer.ggml.{key}_token_id") for name, key in _SPECIAL.items()}
    template = _get(reader, "tokenizer.chat_template")
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": config["max_position_embeddings"],
        **{name: tokens[index] for name, index in ids.items() if index is not None},
        **({"chat_template": template} if template else {}),
    }


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
