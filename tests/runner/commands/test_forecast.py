"""What is known of a training before it runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runner.commands import forecast
from runner.compose.recipe import compose


@pytest.mark.parametrize(
    ("overrides", "steps"), [(["train.max_steps=7"], 7), (["epochs=3"], 33), (["epochs=2", "train.batch_size=5"], 18)]
)
def test_the_number_of_training_steps_follows_from_the_packed_sequences(
    tmp_path: Path, overrides: list[str], steps: int
) -> None:
    statistics = tmp_path / "statistics.json"
    statistics.write_text(json.dumps({"train": {"sequences": 88}}))
    batch = ["train.batch_size=4", "train.accumulate=2"]
    recipe = compose("quickstart", [*batch, *overrides]).recipe
    assert forecast.training_steps(recipe, statistics)[0] == steps


def test_the_number_of_training_steps_is_unknown_until_the_rows_are_tokenized(tmp_path: Path) -> None:
    recipe = compose("quickstart", ["epochs=3", "train.max_steps=0"]).recipe
    steps, reason = forecast.training_steps(recipe, tmp_path / "statistics.json")
    assert steps is None and "when the rows are tokenized" in reason
