"""The optimizer against torch.optim, the schedule against transformers, and the plan of steps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from common.program import BadInput
from common.training.optimizer import AdamW, Plan, Schedule, adamw, clip_factor, step_values


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_adamw_equals_torch(weight_decay):
    torch.manual_seed(0)
    ours = torch.randn(50)
    theirs = torch.nn.Parameter(ours.clone())
    reference = torch.optim.AdamW([theirs], weight_decay=weight_decay)
    optimizer = AdamW(ours, weight_decay)
    for number in range(1, 6):
        theirs.grad = torch.randn(50)
        reference.param_groups[0]["lr"] = 0.1 / number
        reference.step()
        optimizer.step(theirs.grad, 0.1 / number, number)
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("kind", "name"), [("linear",) * 2, ("cosine",) * 2, ("constant", "constant_with_warmup")])
@pytest.mark.parametrize("warmup_ratio", [0.0, 0.3])
def test_schedule_equals_transformers(kind, name, warmup_ratio):
    from transformers import get_scheduler

    schedule = Schedule(kind, 0.5, warmup_ratio, steps=10)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    reference = get_scheduler(name, optimizer, schedule.warmup_steps, 10)
    for step in range(10):
        assert schedule.learning_rate(step) == pytest.approx(reference.get_last_lr()[0])
        optimizer.step()
        reference.step()


@pytest.mark.parametrize(("ratio", "steps"), [(0.0, 10), (0.05, 326), (0.03, 2), (0.1, 5), (0.1, 30), (0.25, 4)])
def test_warm_up_rounds_up_as_transformers_does(tmp_path, ratio, steps):
    from transformers import TrainingArguments

    reference = TrainingArguments(tmp_path, warmup_steps=ratio, use_cpu=True).get_warmup_steps(steps)
    assert Schedule("linear", 1.0, ratio, steps).warmup_steps == reference


@pytest.mark.parametrize(("ratio", "steps"), [(0.05, 1), (0.6, 2), (1.0, 7)])
def test_a_training_that_only_warms_up_is_refused(ratio, steps):
    with pytest.raises(BadInput, match=f"--warmup-ratio {ratio:g}: warm-up would take all of the {steps} step"):
        Schedule("linear", 1.0, ratio, steps)


def test_plan_takes_every_sequence_once_an_epoch_in_another_order():
    plan = Plan(sequences=11, batch_size=2, accumulate=2, epochs=2, max_steps=0, seed=3)
    assert (plan.steps_per_epoch, plan.steps) == (3, 6)
    epochs = [np.concatenate(sum((plan.batches(step) for step in steps), [])) for steps in (range(3), range(3, 6))]
    assert [sorted(epoch) for epoch in epochs] == [list(range(11))] * 2
    assert not np.array_equal(*epochs)
    assert [len(batch) for batch in plan.batches(2)] == [2, 1]
    assert Plan(11, 2, 2, epochs=1, max_steps=8, seed=3).steps == 8


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_the_update_of_tensors_is_that_in_place(weight_decay):
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(50, generator=generator)
    optimizer = AdamW(weights.clone(), weight_decay)
    first, second = torch.zeros(50), torch.zeros(50)
    for number, rate in enumerate((0.0, 0.1, 0.05), 1):
        gradient = torch.randn(50, generator=generator)
        optimizer.step(gradient, rate, number)
        weights, first, second = adamw(weights, gradient, first, second, step_values(rate, weight_decay, 1.0, number))
    torch.testing.assert_close(weights, optimizer.weights, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("limit", "norm", "factor"), [(1.0, 4.0, 0.25), (1.0, 0.5, 1.0), (1.0, 0.0, 1.0), (0, 1e9, 1.0)]
)
def test_only_a_longer_gradient_is_clipped(limit, norm, factor):
    assert clip_factor(torch.tensor(norm), step_values(0.1, 0.0, limit, 1)).item() == factor
