"""Arguments of command lines."""

from __future__ import annotations

from runner.plan.command import flags


def test_options_are_flags() -> None:
    assert flags(seq_len=256, pack=False, merge=True, metrics=["a", "b"], none=None, empty=[], rate=2e-4) == [
        "--seq-len", "256", "--no-pack", "--merge", "--metrics", "a", "b", "--rate", "0.0002",
    ]  # fmt: skip
