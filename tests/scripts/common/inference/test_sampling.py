"""The distribution that a token is drawn from, beside transformers' own processors of logits."""

from __future__ import annotations

from functools import reduce

import pytest
import torch
from transformers import (
    LogitsProcessor,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from common.inference.sampling import Sampling

VOCABULARY, PROMPT, ANSWER = 64, [3, 5, 5, 9], [7, 9, 7]
NO_STOP: frozenset[int] = frozenset()


@pytest.fixture
def logits() -> torch.Tensor:
    return 3 * torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(0))


def by_transformers(logits: torch.Tensor, *processors: LogitsProcessor) -> torch.Tensor:
    ids = torch.tensor([PROMPT + ANSWER])
    return torch.softmax(reduce(lambda scores, process: process(ids, scores), processors, logits[None]), dim=-1)[0]


@pytest.mark.parametrize(
    ("sampling", "processors"),
    [
        (Sampling(1.0), []),
        (Sampling(0.7), [TemperatureLogitsWarper(0.7)]),
        (Sampling(1.0, top_k=5), [TopKLogitsWarper(5)]),
        (Sampling(1.0, top_k=1000), []),
        (Sampling(1.0, top_k=-1), []),
        (Sampling(1.0, top_p=0.6), [TopPLogitsWarper(0.6)]),
        (Sampling(1.0, min_p=0.05), [MinPLogitsWarper(0.05)]),
        (Sampling(2.0, min_p=0.05), [TemperatureLogitsWarper(2.0), MinPLogitsWarper(0.05)]),
        (Sampling(1.0, top_k=9, top_p=0.7), [TopKLogitsWarper(9), TopPLogitsWarper(0.7)]),
        (Sampling(1.0, 9, 0.7, 0.01), [MinPLogitsWarper(0.01), TopKLogitsWarper(9), TopPLogitsWarper(0.7)]),
    ],
)  # fmt: skip
def test_probabilities_are_those_of_transformers(logits, sampling, processors):
    torch.testing.assert_close(sampling.probabilities(logits), by_transformers(logits, *processors))


def chosen(logits: torch.Tensor, sampling: Sampling, stop_ids=NO_STOP, answer=ANSWER) -> int:
    return sampling.choose(logits, PROMPT, answer, stop_ids, None)


def with_best(logits: torch.Tensor, **tokens: float) -> torch.Tensor:
    """Logits in which `t9=20` makes 20 the logit of token 9."""
    logits = logits.clone()
    for name, value in tokens.items():
        logits[int(name[1:])] = value
    return logits


def test_repetition_penalty_is_that_of_transformers_and_counts_the_prompt(logits):
    logits = with_best(logits, t5=20.0, t7=-1.0)
    [expected] = RepetitionPenaltyLogitsProcessor(3.0)(torch.tensor([PROMPT + ANSWER]), logits[None])
    penalized = Sampling(repetition_penalty=3.0)._penalized(logits, PROMPT, ANSWER)
    torch.testing.assert_close(penalized, expected)
    assert chosen(with_best(logits, t8=19.0), Sampling(repetition_penalty=3.0)) == 8  # greedy, too


def test_frequency_and_presence_count_the_answer_alone(logits):
    penalized = Sampling(frequency_penalty=0.5, presence_penalty=1.0)._penalized(logits, PROMPT, ANSWER)
    expected = torch.zeros(VOCABULARY)
    expected[7], expected[9] = 2 * 0.5 + 1.0, 0.5 + 1.0
    torch.testing.assert_close(logits - penalized, expected)


def test_no_end_token_before_min_tokens(logits):
    stops = Sampling(min_tokens=4, stop_token_ids=frozenset({12}))
    logits = with_best(logits, t11=30.0, t12=29.0, t13=28.0)
    assert chosen(logits, stops, frozenset({11})) == 13
    assert chosen(logits, stops, frozenset({11}), [*ANSWER, 1]) == 11


def test_end_tokens():
    ends = [Sampling(), Sampling(ignore_eos=True), Sampling(stop_token_ids=frozenset({5}), ignore_eos=True)]
    assert [sampling.ends(2, frozenset({2})) for sampling in ends] == [True, False, False]
    assert [sampling.ends(5, frozenset({2})) for sampling in ends] == [False, False, True]


def test_a_temperature_next_to_zero_is_greedy_and_draws(logits):
    assert chosen(logits, Sampling(1e-300)) == int(logits.argmax())


def test_choosing_leaves_the_logits_alone(logits):
    before = logits.clone()
    chosen(logits, Sampling(1.0, 3, 0.5, 0.1, 2.0, 1.0, 1.0, 9, frozenset({1})), frozenset({2}))
    assert torch.equal(logits, before)
