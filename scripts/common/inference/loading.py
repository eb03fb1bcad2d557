"""Checks and loads a Hugging Face model folder and its LoRA adapters. Loading needs torch and transformers."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from common.data.special_tokens import special_tokens
from common.data.tokenizer import end_of_turn_id
from common.files import read_json
from common.formats import model_config
from common.formats.dtypes import DTYPES
from common.formats.peft_folder import check_adapter
from common.formats.safetensors_file import open_model
from common.program import BadInput

if TYPE_CHECKING:
    from common.inference.adapted_model import AdaptedModel


def check_model(model: Path, adapters: Iterable[Path]) -> None:
    """Read the headers of all weight files. Raises BadInput for a damaged one or an adapter that does not fit."""
    open_model(model)
    for adapter in adapters:
        check_adapter(adapter, model)


class Limits(NamedTuple):
    """The limits of a model: tokens of prompt plus answer, and the exclusive upper bound of token ids."""

    max_position_embeddings: int
    vocab_size: int


def limits(model: Path) -> Limits:
    """The limits in the model's config.json. Raises BadInput if one is missing."""
    config = read_json(model / "config.json")
    for key in Limits._fields:
        if not isinstance(config.get(key), int):
            raise BadInput(f"{model / 'config.json'}: {key} is missing")
    return Limits(config["max_position_embeddings"], config["vocab_size"])


def check_context(flag: str, new_tokens: int, prompts: Iterable[list[int]], positions: int) -> None:
    """Raise BadInput, naming `flag`, unless `new_tokens` after the longest prompt fit a context of `positions`."""
    longest = max(map(len, prompts))
    if longest + new_tokens > positions:
        raise BadInput(
            f"{flag} {new_tokens}: the longest prompt has {longest} tokens and the model's context is {positions}; "
            f"use at most {positions - longest}"
        )


def stop_token_ids(model: Path, tokenizer: Any) -> frozenset[int]:
    """The tokens that end an answer: eos of config.json, generation_config.json and the tokenizer, and end of turn.

    They may differ (a base model with the tokenizer of its instruct version), so any of them ends an answer, as in
    vLLM. `tokenizer` is a tokenizers.Tokenizer. Raises BadInput if there are none.
    """
    files = (model / name for name in ("config.json", "generation_config.json"))
    settings = [read_json(path) for path in files if path.is_file()]
    text = special_tokens(model).get("eos_token")
    ids = {tokenizer.token_to_id(text)} if text else set()
    ids.add(end_of_turn_id(model, tokenizer))
    for values in settings:
        eos = values.get("eos_token_id")
        ids.update(eos if isinstance(eos, list) else [eos])
    ids.discard(None)
    if not ids:
        raise BadInput(f"{model}: no end token: set eos_token in tokenizer_config.json to a token of the vocabulary")
    return frozenset(ids)


def load_model(model: Path, adapters: dict[str, Path], dtype: str) -> AdaptedModel:
    """Load the causal language model in evaluation mode, with its adapters under the given names.

    Raises BadInput for missing or unexpected weights, and for an adapter that does not fit.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils import logging

    from common.inference.adapted_model import AdaptedModel

    logging.disable_progress_bar()
    torch_dtype = getattr(torch, DTYPES[dtype].torch)
    config = AutoConfig.for_model(**model_config.with_old_names(read_json(model / "config.json")))
    options: Any = {"config": config, "local_files_only": True, "output_loading_info": True}
    default = torch.get_default_dtype()
    try:
        # Set as default: the argument's name differs between releases. Older ones build the model in this dtype.
        torch.set_default_dtype(torch_dtype)
        loaded, info = cast("tuple[Any, Any]", AutoModelForCausalLM.from_pretrained(model, **options))
    finally:
        torch.set_default_dtype(default)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info[kind]:
            raise BadInput(f"{model}: {kind.replace('_', ' ')} in its weights: {sorted(map(str, info[kind]))[:5]}")
    for parameter in loaded.parameters():  # newer ones keep the dtype of the weights; buffers keep rotary angles exact
        parameter.data = parameter.data.to(torch_dtype)
    adapted = AdaptedModel(loaded.eval())
    for name, folder in adapters.items():
        check_adapter(folder, model)
        adapted.add(name, folder)
    return adapted
