"""Generation with a K/V cache over an `AdaptedModel` of transformers. Needs torch and transformers.

evaluate.py and serve_embedded.py decode with the same `Batch`, so served answers equal the evaluated ones:

    for sequence in generate(model, sequences, batch_size=16, stop_ids=frozenset({2})):
        print(sequence.token_ids, sequence.finish_reason)

Rows of one batch are padded on the left and masked, so that greedy tokens do not depend on their neighbours;
each row names its own LoRA adapter or `peft_folder.BASE`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import transformers
from torch.nn import functional
from transformers import DynamicCache

from common.formats.peft_folder import BASE
from common.inference.adapted_model import AdaptedModel
from common.inference.sampling import Sampling

NEAR = 1.0  # nats below the likeliest token within which another one is a near tie
_CANDIDATES = 5  # near ties of one position at most, the chosen token included


class NearTie(NamedTuple):
    """A token that greedy decoding nearly chose: rounding may decide otherwise on another device."""

    position: int  # in the answer
    token_id: int
    margin: float  # nats below the chosen token


@dataclass(eq=False)
class Sequence:
    """One prompt and the tokens generated so far, the stop token included.

    `finish_reason` is None while running, then "stop", "length" or "error", with the exception in `error`.
    `near_ties` is a list if near ties are to be recorded, else None.
    """

    prompt_ids: list[int]
    max_new_tokens: int
    adapter: str = BASE
    sampling: Sampling = Sampling()
    generator: torch.Generator | None = None
    token_ids: list[int] = field(default_factory=list)
    finish_reason: str | None = None
    error: Exception | None = None
    near_ties: list[NearTie] | None = None

    def advance(self, logits: torch.Tensor, stop_ids: frozenset[int]) -> None:
        """Choose the next token and detect the end. An error only ends this sequence."""
        try:
            token_id = self.sampling.choose(logits, self.prompt_ids, self.token_ids, stop_ids, self.generator)
        except Exception as error:
            self.fail(error)
            return
        self.token_ids.append(token_id)
        if self.sampling.ends(token_id, stop_ids):
            self.finish_reason = "stop"
        elif len(self.token_ids) >= self.max_new_tokens:
            self.finish_reason = "length"

    def fail(self, error: Exception) -> None:
        """End without an answer."""
        self.error, self.finish_reason = error, "error"


class Batch:
    """Sequences that advance together, one token per step; others may join between two steps.

    The newest token of every row is in the last column of `mask` (rows, columns) and of the cache's keys and values
    (rows, num_key_value_heads, columns, head_dim).
    """

    def __init__(self, model: AdaptedModel, stop_ids: frozenset[int]) -> None:
        self.sequences: list[Sequence] = []
        self._model = model
        self._stop_ids = stop_ids
        self._cache = DynamicCache()
        self._mask = torch.zeros(0, 0, dtype=torch.long)

    @torch.inference_mode()
    def add(self, sequences: list[Sequence]) -> None:
        """Prefill new sequences and choose their first tokens; if it raises, the batch is unchanged."""
        input_ids, mask = _left_padded([sequence.prompt_ids for sequence in sequences])
        cache = DynamicCache()
        logits = self._forward(sequences, input_ids, mask, cache)
        self._cache, self._mask = _joined(self._cache, self._mask, cache, mask) if self.sequences else (cache, mask)
        self.sequences = self.sequences + sequences
        self._choose(sequences, logits)

    @torch.inference_mode()
    def step(self) -> None:
        """Choose the next token of every sequence."""
        input_ids = torch.tensor([[sequence.token_ids[-1]] for sequence in self.sequences])
        self._mask = functional.pad(self._mask, (0, 1), value=1)
        self._choose(self.sequences, self._forward(self.sequences, input_ids, self._mask, self._cache))

    def drop_finished(self) -> list[Sequence]:
        """Remove and return the sequences that have a finish_reason, with the columns that no other one needs."""
        finished = [sequence for sequence in self.sequences if sequence.finish_reason]
        if finished:
            rows = [row for row, sequence in enumerate(self.sequences) if not sequence.finish_reason]
            self.sequences = [self.sequences[row] for row in rows]
            self._cache, self._mask = _selected(self._cache, self._mask, rows) if rows else (DynamicCache(), self._mask)
        return finished

    def _forward(
        self, sequences: list[Sequence], input_ids: torch.Tensor, mask: torch.Tensor, cache: DynamicCache
    ) -> torch.Tensor:
        adapters = [sequence.adapter for sequence in sequences]
        logits = _logits(self._model, adapters, input_ids, mask, columns=1, cache=cache)
        if cache.get_seq_length() != mask.shape[1]:
            raise RuntimeError(
                f"transformers {transformers.__version__}: the K/V cache holds {cache.get_seq_length()} tokens, "
                f"expected {mask.shape[1]}: its answers would be wrong"
            )
        return logits[:, -1]

    def _choose(self, sequences: list[Sequence], logits: torch.Tensor) -> None:
        recorded = any(sequence.near_ties is not None for sequence in sequences)
        near_ties = _near_ties(logits) if recorded else [[]] * len(sequences)
        for sequence, row, ties in zip(sequences, logits, near_ties, strict=True):
            if sequence.near_ties is not None:
                sequence.near_ties += [NearTie(len(sequence.token_ids), *tie) for tie in ties]
            sequence.advance(row, self._stop_ids)


def generate(
    model: AdaptedModel, sequences: Iterable[Sequence], batch_size: int, stop_ids: frozenset[int]
) -> Iterator[Sequence]:
    """Run all sequences to their end, at most `batch_size` at a time; yields each as it finishes.

    Those of one adapter go together, which spares picking its rows; of them long prompts first, neighbours of like
    length together: little padding. Raises the error of a sequence that fails.
    """
    waiting = sorted(sequences, key=lambda sequence: (sequence.adapter, len(sequence.prompt_ids)))
    worth_joining = max(1, batch_size // 4)  # reading one prompt costs about as much as a step of the whole batch
    batch = Batch(model, stop_ids)
    while waiting or batch.sequences:
        free = batch_size - len(batch.sequences)
        if waiting and free >= worth_joining:
            batch.add([waiting.pop() for _ in range(min(free, len(waiting)))])
        else:
            batch.step()
        for sequence in batch.drop_finished():
            if sequence.error:
                raise sequence.error
            yield sequence


@torch.inference_mode()
def response_loss(model: AdaptedModel, pairs: list[tuple[list[int], list[int]]], adapter: str) -> float:
    """Cross-entropy, in nats, summed over the response tokens of (prompt_ids, response_ids) pairs."""
    input_ids, mask = _left_padded([prompt + response for prompt, response in pairs])
    longest = max(len(response) for _, response in pairs)
    logits = _logits(model, [adapter] * len(pairs), input_ids, mask, columns=longest + 1)
    losses = [
        functional.cross_entropy(row[-len(response) - 1 : -1].float(), torch.tensor(response), reduction="sum")
        for row, (_, response) in zip(logits, pairs, strict=True)
    ]
    return float(sum(losses))


def _logits(
    model: AdaptedModel,
    adapters: list[str],
    input_ids: torch.Tensor,
    mask: torch.Tensor,
    columns: int,
    cache: DynamicCache | None = None,
) -> torch.Tensor:
    """The model's logits for the last `columns` of `mask`, each row with its own adapter."""
    position_ids = _positions(mask)[:, -input_ids.shape[1] :]
    inputs = {"input_ids": input_ids, "attention_mask": mask, "position_ids": position_ids}
    return model(adapters=adapters, columns=columns, cache=cache, **inputs)


def _left_padded(rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and mask (1 = token), both (rows, longest row); the padding is token 0, before the tokens."""
    longest = max(map(len, rows))
    input_ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    return input_ids, mask


def _positions(mask: torch.Tensor) -> torch.Tensor:
    """Position ids of a left-padded mask: 0 at each row's first token."""
    return (mask.cumsum(dim=1) - 1).clamp(min=0)


def _near_ties(logits: torch.Tensor) -> list[list[tuple[int, float]]]:
    """For each row the likeliest tokens beside the first, and how far they are below it."""
    values, token_ids = logits.float().topk(min(_CANDIDATES, logits.shape[-1]))
    margins = (values[:, :1] - values).tolist()
    return [
        [(token_id, round(margin, 4)) for token_id, margin in [*zip(*row, strict=True)][1:] if margin <= NEAR]
        for row in zip(token_ids.tolist(), margins, strict=True)
    ]


def _joined(
    cache: DynamicCache, mask: torch.Tensor, other: DynamicCache, other_mask: torch.Tensor
) -> tuple[DynamicCache, torch.Tensor]:
    columns = max(mask.shape[1], other_mask.shape[1])

    def stacked(upper: torch.Tensor, lower: torch.Tensor) -> torch.Tensor:
        return torch.cat([functional.pad(part, (0, 0, columns - part.shape[-2], 0)) for part in (upper, lower)])

    pairs = zip(_layers(cache), _layers(other), strict=True)
    layers = [
        (stacked(keys, more_keys), stacked(values, more_values)) for (keys, values), (more_keys, more_values) in pairs
    ]
    return _cache_of(layers), stacked(mask[..., None], other_mask[..., None])[..., 0]


def _selected(cache: DynamicCache, mask: torch.Tensor, rows: list[int]) -> tuple[DynamicCache, torch.Tensor]:
    mask = mask[rows]
    start = int(mask.any(dim=0).long().argmax())
    layers = [(keys[rows, :, start:], values[rows, :, start:]) for keys, values in _layers(cache)]
    return _cache_of(layers), mask[:, start:]


def _cache_of(layers: list[tuple[torch.Tensor, torch.Tensor]]) -> DynamicCache:
    """Filled by `update`: what else the constructor takes differs between releases, and 4.48 ignores it."""
    cache = DynamicCache()
    for index, (keys, values) in enumerate(layers):
        cache.update(keys, values, index)
    return cache


def _layers(cache: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Keys and values of every layer, each (rows, num_key_value_heads, columns, head_dim)."""
    return [(keys, values) for keys, values, *_ in cache]
