"""The plan as a picture."""

from __future__ import annotations

from runner.compose.recipe import compose
from runner.plan.model import Step
from runner.targets import of
from runner.ui import picture


def step(stage: str, *needs: str) -> Step:
    return Step(
        stage, f"do {stage}", f"{stage}-1", tuple(f"store/objects/{need}-1" for need in needs), {}, False, False
    )


def test_a_step_stands_right_of_what_it_reads() -> None:
    drawn = str(picture.draw([step("fetch"), step("tokenize"), step("train", "fetch", "tokenize")], {}))
    assert drawn.count('class="arrow"') == 2
    assert drawn.count('x="1" y="1"') == drawn.count('x="1" y="73"') == drawn.count('x="163" y="1"') == 1


def test_each_box_tells_its_state() -> None:
    events = {"fetch": {"state": "finished", "seconds": 61.0}, "train": {"state": "begun"}}
    drawn = str(picture.draw([step("fetch"), step("train", "fetch"), step("export", "train")], events))
    assert "finished, 1:01" in drawn and 'class="step running"' in drawn and 'class="step not-begun"' in drawn
    assert 'aria-label="Plan: fetch: finished; train: running; export: not begun"' in drawn


def test_the_steps_of_a_real_plan_are_joined() -> None:
    recipe = compose("quickstart", []).recipe
    steps = of(recipe.target).plan(recipe).steps
    assert str(picture.draw(steps, {})).count('class="arrow"') >= len(steps) - 1


def test_a_title_is_escaped() -> None:
    assert "<b>" not in str(picture.draw([step("<b>")], {}))
