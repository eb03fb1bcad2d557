from __future__ import annotations

import random
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import LlamaForCausalLM

from common.formats.peft_folder import BASE
from common.inference.generation import Batch, Sequence, generate, response_loss
from common.inference.loading import load_model
from common.inference.sampling import Sampling

EOS = frozenset({1})


@pytest.fixture(scope="module")
def model(tiny_model: Path, tiny_adapter: Path):
    return load_model(tiny_model, {"tuned": tiny_adapter}, "fp32")


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    chance = random.Random(0)
    return [[chance.randrange(2, 384) for _ in range(chance.randrange(1, 60))] for _ in range(12)]


@pytest.fixture(scope="module")
def judge(tiny_model: Path, tiny_adapter: Path):
    """The same base and adapter in transformers and PEFT."""
    return PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained(tiny_model), tiny_adapter).eval()


def expected(judge, prompt: list[int], adapter: str, max_new_tokens: int = 24) -> list[int]:
    """What generate of transformers and PEFT gives for one prompt."""
    ids = torch.tensor([prompt])
    options = {"attention_mask": torch.ones_like(ids), "max_new_tokens": max_new_tokens}
    options |= {"do_sample": False, "pad_token_id": 1}
    if adapter != BASE:
        return judge.generate(input_ids=ids, **options)[0, len(prompt) :].tolist()
    with judge.disable_adapter():
        return judge.generate(input_ids=ids, **options)[0, len(prompt) :].tolist()


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_greedy_tokens_of_any_batch_are_those_of_transformers(model, judge, prompts, batch_size):
    sequences = [Sequence(prompt, 24, adapter) for prompt in prompts for adapter in (BASE, "tuned")]
    finished = list(generate(model, sequences, batch_size, EOS))
    assert set(finished) == set(sequences)
    for sequence in sequences:
        assert sequence.token_ids == expected(judge, sequence.prompt_ids, sequence.adapter)
    assert {sequence.finish_reason for sequence in sequences} == {"stop", "length"}


def test_near_ties_are_the_likeliest_other_tokens_of_each_position_once(model, judge, prompts):
    recorded = [Sequence(prompt, 4, "tuned", near_ties=[]) for prompt in prompts[:3]]
    others = [Sequence(prompt, 4, "tuned") for prompt in prompts[3:5]]
    list(generate(model, [*recorded, *others], 5, EOS))
    for sequence in recorded:
        ids = torch.tensor([sequence.prompt_ids + sequence.token_ids[:-1]])
        logits = judge(input_ids=ids).logits[0, len(sequence.prompt_ids) - 1 :]
        ties = []
        for position, row in enumerate(logits):
            values, token_ids = row.topk(5)
            margins = (values[0] - values).tolist()
            ties += [(position, token_ids[i].item(), margins[i]) for i in range(1, 5) if margins[i] <= 1]
        assert ties and [tie[:2] for tie in sequence.near_ties] == [tie[:2] for tie in ties]
        assert [tie.margin for tie in sequence.near_ties] == pytest.approx([tie[2] for tie in ties], abs=2e-4)
    assert all(sequence.near_ties is None for sequence in others)


def test_late_and_longer_sequences_join_without_changing_the_others(model, judge, prompts):
    batch = Batch(model, EOS)
    sequences = [Sequence(prompt, 24, "tuned") for prompt in prompts]
    for sequence in sequences:
        batch.add([sequence])
        batch.drop_finished()
        if batch.sequences:
            batch.step()
    while batch.sequences:
        batch.drop_finished()
        if batch.sequences:
            batch.step()
    assert [s.token_ids for s in sequences] == [expected(judge, s.prompt_ids, "tuned") for s in sequences]


def test_a_model_without_adapters_generates(tiny_model, prompts):
    bare = load_model(tiny_model, {}, "fp32")
    (sequence,) = generate(bare, [Sequence(prompts[0], 5)], 1, EOS)
    assert sequence.token_ids == bare.model.generate(
        torch.tensor([prompts[0]]), max_new_tokens=5, do_sample=False, pad_token_id=1
    )[0, len(prompts[0]) :].tolist()  # fmt: skip


def test_sampling_depends_on_its_seed_alone(model, prompts):
    def sampled(neighbours: int, seed: int) -> list[int]:
        generator = torch.Generator().manual_seed(seed)
        drawn = Sequence(prompts[0], 20, BASE, Sampling(1.0, top_p=0.9), generator)
        list(generate(model, [drawn, *(Sequence(prompt, 9) for prompt in prompts[:neighbours])], 8, frozenset()))
        return drawn.token_ids

    assert sampled(0, seed=1) == sampled(5, seed=1)
    assert sampled(0, seed=1) != sampled(0, seed=2)


def test_top_p_keeps_only_the_most_likely(model, prompts):
    narrow = Sequence(prompts[1], 12, BASE, Sampling(1.5, top_p=1e-6), torch.Generator())
    greedy = Sequence(prompts[1], 12, BASE)
    list(generate(model, [narrow, greedy], 2, EOS))
    assert narrow.token_ids == greedy.token_ids


@pytest.mark.parametrize("adapter", [BASE, "tuned"])
def test_response_loss_is_that_of_transformers(model, judge, prompts, adapter):
    pairs = [(prompt, prompts[-index][:9]) for index, prompt in enumerate(prompts, start=1)]
    total = response_loss(model, pairs, adapter)
    reference = 0.0
    for prompt, response in pairs:
        labels = torch.tensor([[-100] * len(prompt) + response])
        with torch.no_grad(), nullcontext() if adapter == "tuned" else judge.disable_adapter():
            output = judge(torch.tensor([prompt + response]), labels=labels)
        reference += float(output.loss) * len(response)
    assert total == pytest.approx(reference, rel=1e-5)


def test_logits_that_are_not_finite_stop_the_generation(tiny_model, prompts):
    broken = load_model(tiny_model, {}, "fp32")
    broken.model.model.norm.weight.data.fill_(float("nan"))
    with pytest.raises(RuntimeError, match="not finite"):
        list(generate(broken, [Sequence(prompts[0], 3)], 1, EOS))
