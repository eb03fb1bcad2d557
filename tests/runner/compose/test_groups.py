"""Every option of every group can be chosen, and a recipe can bring its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.compose.groups import list_groups
from runner.compose.recipe import compose
from runner.errors import RecipeError

GROUPS = list_groups()


@pytest.mark.parametrize(("group", "option"), [(group, option) for group in GROUPS for option in GROUPS[group]])
def test_every_option_composes(group: str, option: str) -> None:
    assert compose("quickstart", [f"{group}={option}"]).choices[group] == option


def test_a_recipe_brings_options_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.yaml").write_text("defaults: [base, _self_]\n")
    own, shared = tmp_path / "configs" / "train", tmp_path / "team" / "train"
    own.mkdir(parents=True)
    shared.mkdir(parents=True)
    (own / "slow.yaml").write_text("learning_rate: 1.0e-6\n")
    (shared / "slow.yaml").write_text("learning_rate: 1.0e-5\n")
    (shared / "fast.yaml").write_text("learning_rat: 1.0e-2\n")
    monkeypatch.setenv("RUNNER_CONFIGS", str(tmp_path / "team"))
    assert compose(str(tmp_path / "mine.yaml"), ["train=slow"]).recipe.train.learning_rate == 1e-6
    assert compose("quickstart", ["train=slow", "train.learning_rate=1e-3"]).recipe.train.learning_rate == 1e-3
    with pytest.raises(RecipeError, match=r"team/train/fast.yaml: train.learning_rat: .* did you mean learning_rate"):
        compose(str(tmp_path / "mine.yaml"), ["train=fast"])
    with pytest.raises(RecipeError, match="did you mean slow"):
        compose(str(tmp_path / "mine.yaml"), ["train=slo"])
