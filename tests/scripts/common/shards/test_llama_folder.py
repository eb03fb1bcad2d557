"""The weights of a Hugging Face folder must be those that its config.json describes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from common.program import BadInput
from common.shards.layout import EMBEDDING, LM_HEAD
from common.shards.llama_folder import open_llama
from tests.scripts.llama_files import TINY, random_state, write_model

TIED = replace(TINY, tie_word_embeddings=True)


def test_all_tensors_are_opened_from_one_file_or_several(tmp_path: Path) -> None:
    state = random_state(TINY)
    for files in (1, 3):
        folder = write_model(tmp_path / str(files), TINY, state, files)
        assert open_llama(folder, TINY).keys() == state.keys()


def test_a_tied_output_layer_is_the_embedding(tmp_path: Path) -> None:
    model = open_llama(write_model(tmp_path / "model", TIED, random_state(TIED)), TIED)
    assert model[LM_HEAD] == model[EMBEDDING]


def test_a_copy_of_the_embedding_must_equal_it(tmp_path: Path) -> None:
    state = random_state(TIED)
    state[LM_HEAD] = state[EMBEDDING].clone()
    open_llama(write_model(tmp_path / "same", TIED, state), TIED)
    state[LM_HEAD][-1, -1] += 1
    with pytest.raises(BadInput, match=f"{LM_HEAD} differs from {EMBEDDING}, but config.json ties them"):
        open_llama(write_model(tmp_path / "other", TIED, state), TIED)


def test_rotary_frequencies_of_old_files_are_left_out(tmp_path: Path) -> None:
    state = random_state(TINY)
    folder = write_model(
        tmp_path / "model", TINY, state | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(1)}
    )
    assert open_llama(folder, TINY).keys() == state.keys()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("model.norm.weight"), "model.norm.weight is missing"),
        (lambda state: state.update(extra=torch.ones(1)), "extra is unexpected"),
        (lambda state: state.update({"model.norm.weight": torch.ones(3)}), r"model.norm.weight has shape \[3\]"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(tmp_path: Path, change, message: str) -> None:
    state = random_state(TINY)
    change(state)
    with pytest.raises(BadInput, match=message):
        open_llama(write_model(tmp_path / "model", TINY, state), TINY)
