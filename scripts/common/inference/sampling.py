"""How the next token is chosen: vLLM's sampling parameters, with its meanings, defaults and order. Needs torch.

    sampling = Sampling(temperature=0.7, top_p=0.9)
    token_id = sampling.choose(logits, prompt_ids, token_ids, stop_ids, generator)

Reference: https://docs.vllm.ai/en/stable/api/vllm/sampling_params/
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch

_ALL = (0, -1)  # of top_k: every token is considered
_LOWEST_TEMPERATURE = 0.01  # vLLM's: logits over less overflow


@dataclass(frozen=True)
class Sampling:
    """Temperature 0 is greedy: then top_k, top_p and min_p have no effect, but the penalties do.

    The model's end tokens and `stop_token_ids` end an answer, but not before it has `min_tokens` tokens.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    min_tokens: int = 0
    stop_token_ids: frozenset[int] = frozenset()
    ignore_eos: bool = False

    def ends(self, token_id: int, stop_ids: frozenset[int]) -> bool:
        """Whether a token ends the answer; `stop_ids` are the model's end tokens."""
        return token_id in self.stop_token_ids or (token_id in stop_ids and not self.ignore_eos)

    def choose(
        self,
        logits: torch.Tensor,
        prompt_ids: list[int],
        token_ids: list[int],
        stop_ids: frozenset[int],
        generator: torch.Generator | None,
    ) -> int:
        """Choose the token after prompt and `token_ids`; `logits` (vocab_size,) is not modified."""
        logits = logits.float()
        if not logits.sum().isfinite():  # one sum is faster than a question for each
            raise RuntimeError("the model's logits are not finite; try --dtype fp32")
        if len(token_ids) < self.min_tokens:
            logits = logits.index_fill(0, _index(stop_ids | self.stop_token_ids), -torch.inf)
        logits = self._penalized(logits, prompt_ids, token_ids)
        if not self.temperature:
            return int(logits.argmax())
        return int(torch.multinomial(self.probabilities(logits), 1, generator=generator))

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """The probability of every token; 0 for those excluded by min_p, top_k and top_p (nucleus sampling)."""
        logits = logits / max(self.temperature, _LOWEST_TEMPERATURE)
        shares, token_ids = torch.softmax(logits, dim=-1).sort(descending=True)
        kept = shares >= self.min_p * shares[0]
        if self.top_k not in _ALL:
            kept &= shares >= shares[min(self.top_k, len(shares)) - 1]
        shares = shares * kept / (shares * kept).sum()
        nucleus = shares.cumsum(dim=-1) - shares < self.top_p
        return torch.zeros_like(shares).index_copy(0, token_ids, shares * nucleus / (shares * nucleus).sum())

    def _penalized(self, logits: torch.Tensor, prompt_ids: list[int], token_ids: list[int]) -> torch.Tensor:
        """repetition_penalty counts the prompt as well, the two others the answer alone."""
        if self.repetition_penalty != 1:
            seen = _index({*prompt_ids, *token_ids})
            weakened = torch.where(
                logits[seen] > 0, logits[seen] / self.repetition_penalty, logits[seen] * self.repetition_penalty
            )
            logits = logits.index_copy(0, seen, weakened)
        if self.frequency_penalty or self.presence_penalty:
            counts = torch.bincount(_index(token_ids), minlength=len(logits))
            logits = logits - self.frequency_penalty * counts - self.presence_penalty * (counts > 0)
        return logits


def _index(token_ids: Collection[int]) -> torch.Tensor:
    return torch.tensor(list(token_ids), dtype=torch.long)
