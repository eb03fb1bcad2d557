"""A plan is written as JSON, from which its steps can be made again."""

from __future__ import annotations

import json

from runner.plan.model import Plan, Step


def test_a_plan_is_read_back_from_its_json_as_it_was() -> None:
    step = Step(
        "train", "train it", "train-1", ("python", "train.py"), {"A": "1"}, True, True,
        nodes=2, processes=32, cores={"count": 32}, packages={"python": ["torch>=2"]}, ports=(44000,),
    )  # fmt: skip
    plan = Plan("mine", "/store", (step,), {"/inputs/rows": "rows"}, {"time": "1:00"}, "cluster")
    written = json.loads(json.dumps(plan.as_json()))
    assert written.pop("version") == 1
    [read] = (Step(**values) for values in written.pop("steps"))
    assert json.loads(json.dumps(Plan(steps=(read,), **written).as_json())) == json.loads(json.dumps(plan.as_json()))
    assert (read.key, read.nodes, read.ports) == ("train-1", 2, [44000])


def test_a_plan_is_for_this_machine_unless_it_says_otherwise() -> None:
    assert Plan("mine", "/store", ()).where == "here"
