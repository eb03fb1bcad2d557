"""Checkpoints: two are kept, the newest whole one is continued from, the others are named and removed."""

from __future__ import annotations

import pytest
import torch

from common.program import BadInput
from common.training.checkpoint import Checkpoints
from common.training.parallel import Ranks


@pytest.fixture
def checkpoints(tmp_path) -> Checkpoints:
    """Three saved steps, of which the last two are kept."""
    saved = Checkpoints(tmp_path, Ranks(), "settings")
    for step in (8, 9, 10):
        saved.save(step, {"step": step, "weights": torch.full((100,), float(step))})
    return saved


def step_names(folder) -> set[str]:
    return {path.name for path in (folder / "checkpoints").iterdir()}


def test_last_two_are_kept_and_the_newest_is_read(checkpoints, tmp_path):
    assert step_names(tmp_path) == {"step_9", "step_10"}
    state = checkpoints.latest()
    assert state is not None
    assert state["step"] == 10
    assert torch.equal(state["weights"], torch.full((100,), 10.0))


def truncate(folder) -> None:
    path = folder / "rank_0.pt"
    path.write_bytes(path.read_bytes()[:-200])


def flip_a_bit(folder) -> None:
    path = folder / "rank_0.pt"
    content = bytearray(path.read_bytes())
    content[content.index(torch.full((2,), 10.0).numpy().tobytes())] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (truncate, "not a zip file"),
        (flip_a_bit, "damaged"),
        (lambda folder: (folder / "complete").unlink(), "incomplete"),
        (lambda folder: (folder / "rank_0.pt").unlink(), "No such file"),
    ],
)
def test_unusable_checkpoint_is_skipped_with_a_reason(checkpoints, tmp_path, capsys, damage, reason):
    damage(tmp_path / "checkpoints/step_10")
    state = checkpoints.latest()
    assert state is not None
    assert state["step"] == 9
    said = capsys.readouterr().err
    assert "ignoring checkpoint" in said and "step_10: " in said
    assert reason in said
    assert step_names(tmp_path) == {"step_9"}


def test_checkpoint_of_other_settings_is_not_continued(checkpoints, tmp_path):
    assert Checkpoints(tmp_path, Ranks(), "others").latest() is None


def test_finished_training_leaves_no_checkpoints(checkpoints, tmp_path):
    checkpoints.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_of_an_earlier_version_is_refused_and_kept(checkpoints, tmp_path):
    (tmp_path / "checkpoints" / "step_10" / "complete").write_text("0" * 64)
    with pytest.raises(BadInput, match="step_10: an earlier version of this program made this checkpoint"):
        checkpoints.latest()
    assert step_names(tmp_path) == {"step_9", "step_10"}
