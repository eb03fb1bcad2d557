"""Generation with a K/V cache over a transformers causal language model. Needs torch and transformers.

evaluate.py and serve_embedded.py decode with the same `Batch`, so what was evaluated is what is served:

    for sequence in generate(model, sequences, batch_size=16, stop_ids=frozenset({2})):
        print(sequence.token_ids, sequence.finish_reason)

Rows of one batch are padded on the left and masked, so that greedy tokens do not depend on their neighbours;
each row names its own LoRA adapter (PEFT's mixed-batch inference) or `loading.BASE`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn import functional
from transformers import DynamicCache

from common.loading import BASE


@dataclass(eq=False)
class Sequence:
    """One prompt and the tokens generated so far, the stop token included.

    Temperature 0 is greedy. `finish_reason` is None while running, then "stop" or "length".
    """

    prompt_ids: list[int]
    max_new_tokens: int
    adapter: str = BASE
    temperature: float = 0.0
    top_p: float = 1.0
    generator: torch.Generator | None = None
    top_k: int | None = None
    token_ids: list[int] = field(default_factory=list)
    finish_reason: str | None = None

    def append(self, token_id: int, stop_ids: frozenset[int]) -> None:
        """Take the next token and notice the end."""
        self.token_ids.append(token_id)
        if token_id in stop_ids:
            self.finish_reason = "stop"
        elif len(self.token_ids) >= self.max_new_tokens:
            self.finish_reason = "length"


class Batch:
    """Sequences that advance together, one token a step; others may join between two steps.

    The newest token of every row stands in the last column of `mask` (rows, columns) and of the cache's
    keys and values (rows, num_key_value_heads, columns, head_dim).
    """

    def __init__(self, model: Any, stop_ids: frozenset[int]) -> None:
        self.sequences: list[Sequence] = []
        self._model = model
        self._stop_ids = stop_ids
        self._cache = DynamicCache()
        self._mask = torch.zeros(0, 0, dtype=torch.long)

    @torch.inference_mode()
    def add(self, sequences: list[Sequence]) -> None:
        """Read the prompts of new sequences and choose their first tokens."""
        input_ids, mask = _left_padded([sequence.prompt_ids for sequence in sequences])
        cache = DynamicCache()
        self._advance(sequences, input_ids, mask, cache)
        self._cache, self._mask = _joined(self._cache, self._mask, cache, mask) if self.sequences else (cache, mask)
        self.sequences = self.sequences + sequences

    @torch.inference_mode()
    def step(self) -> None:
        """Choose the next token of every sequence."""
        input_ids = torch.tensor([[sequence.token_ids[-1]] for sequence in self.sequences])
        self._mask = functional.pad(self._mask, (0, 1), value=1)
        self._advance(self.sequences, input_ids, self._mask, self._cache)

    def drop_finished(self) -> list[Sequence]:
        """Take out the sequences that have a finish_reason, and the columns nobody else needs."""
        finished = [sequence for sequence in self.sequences if sequence.finish_reason]
        if finished:
            rows = [row for row, sequence in enumerate(self.sequences) if not sequence.finish_reason]
            self.sequences = [self.sequences[row] for row in rows]
            self._cache, self._mask = _selected(self._cache, self._mask, rows) if rows else (DynamicCache(), self._mask)
        return finished

    def _advance(
        self, sequences: list[Sequence], input_ids: torch.Tensor, mask: torch.Tensor, cache: DynamicCache
    ) -> None:
        adapters = [sequence.adapter for sequence in sequences]
        options = {"past_key_values": cache, "use_cache": True, "logits_to_keep": 1}
        logits = _logits(self._model, adapters, input_ids, mask, **options)
        for sequence, token_id in zip(sequences, _chosen(logits[:, -1], sequences), strict=True):
            sequence.append(token_id, self._stop_ids)


def generate(
    model: Any, sequences: Iterable[Sequence], batch_size: int, stop_ids: frozenset[int]
) -> Iterator[Sequence]:
    """Run all sequences to their end, at most `batch_size` at a time; yields each as it finishes.

    Long prompts go first, neighbours of like length together: little padding, and no long one left for the end.
    """
    waiting = sorted(sequences, key=lambda sequence: len(sequence.prompt_ids))
    worth_joining = max(1, batch_size // 4)  # reading one prompt costs about as much as a step of the whole batch
    batch = Batch(model, stop_ids)
    while waiting or batch.sequences:
        free = batch_size - len(batch.sequences)
        if waiting and free >= worth_joining:
            batch.add([waiting.pop() for _ in range(min(free, len(waiting)))])
        else:
            batch.step()
        yield from batch.drop_finished()


@torch.inference_mode()
def response_loss(model: Any, pairs: list[tuple[list[int], list[int]]], adapter: str) -> float:
    """Cross-entropy, in nats, summed over the response tokens of (prompt_ids, response_ids) pairs."""
    input_ids, mask = _left_padded([prompt + response for prompt, response in pairs])
    longest = max(len(response) for _, response in pairs)
    logits = _logits(model, [adapter] * len(pairs), input_ids, mask, use_cache=False, logits_to_keep=longest + 1)
    losses = [
        functional.cross_entropy(row[-len(response) - 1 : -1].float(), torch.tensor(response), reduction="sum")
        for row, (_, response) in zip(logits, pairs, strict=True)
    ]
    return float(sum(losses))


def _logits(
    model: Any, adapters: list[str], input_ids: torch.Tensor, mask: torch.Tensor, **options: Any
) -> torch.Tensor:
    """The model's logits for the last columns of `mask`, each row with its own adapter."""
    if hasattr(model, "peft_config"):  # a bare transformers model knows no adapter_names
        options["adapter_names"] = adapters
    position_ids = _positions(mask)[:, -input_ids.shape[1] :]
    return model(input_ids=input_ids, attention_mask=mask, position_ids=position_ids, **options).logits


def _left_padded(rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and mask (1 = token), both (rows, longest row); the padding is token 0, before the tokens."""
    longest = max(map(len, rows))
    input_ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    return input_ids, mask


def _positions(mask: torch.Tensor) -> torch.Tensor:
    """Position ids of a left-padded mask: 0 at each row's first token."""
    return (mask.cumsum(dim=1) - 1).clamp(min=0)


def _chosen(logits: torch.Tensor, sequences: list[Sequence]) -> list[int]:
    if not torch.isfinite(logits).all():
        raise RuntimeError("the model's logits are not finite; try --dtype fp32")
    token_ids = logits.argmax(dim=-1).tolist()
    for row, sequence in enumerate(sequences):
        if sequence.temperature > 0:
            token_ids[row] = _sampled(logits[row].float() / sequence.temperature, sequence)
    return token_ids


def _sampled(logits: torch.Tensor, sequence: Sequence) -> int:
    """Draw from the top_k most likely tokens, of these from the fewest whose probability reaches top_p (nucleus)."""
    likeliest, token_ids = logits.sort(descending=True)
    probabilities = torch.softmax(likeliest[: sequence.top_k], dim=-1)
    before = probabilities.cumsum(dim=-1) - probabilities
    nucleus = probabilities.masked_fill(before >= sequence.top_p, 0.0)
    return int(token_ids[torch.multinomial(nucleus, 1, generator=sequence.generator)])


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
    return DynamicCache(layers), stacked(mask[..., None], other_mask[..., None])[..., 0]


def _selected(cache: DynamicCache, mask: torch.Tensor, rows: list[int]) -> tuple[DynamicCache, torch.Tensor]:
    mask = mask[rows]
    start = int(mask.any(dim=0).long().argmax())
    layers = [(keys[rows, :, start:], values[rows, :, start:]) for keys, values in _layers(cache)]
    return DynamicCache(layers), mask[:, start:]


def _layers(cache: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Keys and values of every layer, each (rows, num_key_value_heads, columns, head_dim)."""
    return [(keys, values) for keys, values, *_ in cache]
