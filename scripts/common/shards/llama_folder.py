"""The weights of a Hugging Face Llama folder, compared with its config.json."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from common.formats import streaming
from common.formats.safetensors_file import open_model
from common.formats.tensor_file import StoredTensor
from common.program import BadInput
from common.shards import layout
from common.shards.layout import EMBEDDING, LM_HEAD, ModelShape


def open_llama(folder: Path, shape: ModelShape) -> dict[str, StoredTensor]:
    """All tensors that `shape` requires, by name; a tied output layer may be the embedding.

    Raises:
        BadInput: a file is damaged, or a tensor is missing, unexpected or misshapen. Rotary frequencies,
            which old files carry, are left out: they follow from the config.
    """
    model = {name: tensor for name, tensor in open_model(folder).items() if not name.endswith("rotary_emb.inv_freq")}
    if shape.tie_word_embeddings and EMBEDDING in model:
        model.setdefault(LM_HEAD, model[EMBEDDING])
    layout.check_tensors(folder, {name: tensor.spec for name, tensor in model.items()}, shape.tensors())
    if shape.tie_word_embeddings:
        check_tied(model[LM_HEAD], model[EMBEDDING])
    return model


def check_tied(head: StoredTensor, embedding: StoredTensor) -> None:
    """Raise BadInput unless the output layer equals the embedding, bit for bit."""
    if head == embedding:
        return
    ours, theirs = head.bits(), embedding.bits()
    for start, stop in streaming.row_ranges(len(ours), ours[0].nbytes):
        if not np.array_equal(ours[start:stop], theirs[start:stop]):
            raise BadInput(f"{head.file.path}: {head.name} differs from {embedding.name}, but config.json ties them")
        head.file.release()
        embedding.file.release()
