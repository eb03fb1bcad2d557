"""The store: complete or not at all, one maker at a time."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.execute.store import Store


def test_an_artifact_is_there_only_after_publish(tmp_path: Path) -> None:
    store = Store(tmp_path)
    (store.prepare("convert-1", keep=False) / "shard").write_text("bytes")
    assert not store.has("convert-1")
    assert (store.publish("convert-1") / "shard").read_text() == "bytes"
    assert store.has("convert-1")
    assert not store.partial("convert-1").exists()


@pytest.mark.parametrize("keep", [True, False])
def test_prepare_keeps_what_was_left_only_when_asked(tmp_path: Path, keep: bool) -> None:
    store = Store(tmp_path)
    (store.prepare("train-1", keep=False) / "checkpoint").touch()
    assert (store.prepare("train-1", keep=keep) / "checkpoint").exists() is keep


def test_who_waits_learns_who_holds_the_lock(tmp_path: Path) -> None:
    store = Store(tmp_path)
    told: list[str] = []

    def stop_waiting(holder: str) -> None:
        told.append(holder)
        raise InterruptedError

    with (
        store.lock("train-1", told.append, holder="first run"),
        pytest.raises(InterruptedError),
        store.lock("train-1", stop_waiting, holder="second run"),
    ):
        pass
    assert told == ["first run"]
    with store.lock("train-1", told.append, holder="third run"):
        assert told == ["first run"]
