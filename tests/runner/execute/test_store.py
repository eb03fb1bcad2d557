"""The store: complete or not at all, one maker at a time."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.execute.store import Store, names_used


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


def made(tmp_path: Path) -> Store:
    store = Store(tmp_path)
    (store.prepare("train-1", keep=False) / "part").mkdir()
    (store.partial("train-1") / "part" / "weights").write_text("weights")
    store.publish("train-1")
    return store


DAMAGES = {
    "truncated": (lambda file: file.write_text("w"), "weights has 1 bytes, not 7", True),
    "missing": (lambda file: file.unlink(), "weights: No such file or directory", True),
    "flipped": (lambda file: file.write_text("weighty"), "the content of weights has changed", False),
}


@pytest.mark.parametrize(("damage", "problem", "seen_at_once"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_artifact_is_not_taken(tmp_path: Path, damage, problem: str, seen_at_once: bool) -> None:
    store = made(tmp_path)
    damage(store.path("train-1") / "part" / "weights")
    assert store.has("train-1") is not seen_at_once
    assert store.damage("train-1", digests=True) == problem
    moved = store.set_aside("train-1")
    assert moved.parent == tmp_path / "damaged" and (moved / "part").is_dir() and not store.has("train-1")


def test_an_artifact_of_an_earlier_version_is_used_unless_it_is_empty(tmp_path: Path) -> None:
    store = made(tmp_path)
    (tmp_path / "sums" / "train-1.json").unlink()
    assert store.has("train-1") and not store.damage("train-1", digests=True)
    store.path("train-2").mkdir()
    assert not store.has("train-2")


def test_what_a_run_uses_is_known_for_as_long_as_it_lives(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.using(["train-1"]), store.using(["train-2"]), store.freeing() as needed:
        assert needed == {"train-1", "train-2"}
    assert list((tmp_path / "uses").iterdir()) == []
    (tmp_path / "uses" / "of-a-run-that-was-killed").write_text('["train-3"]')
    with store.freeing() as needed:
        assert needed == set()
    assert list((tmp_path / "uses").iterdir()) == []


def test_a_plan_uses_what_it_makes_reads_and_has_compiled() -> None:
    argv = ["program", "base=/s/objects/convert-1/model", "/s/objects/x", "/other/objects/y", "/s/compiled"]
    step = {"key": "train-1", "argv": argv, "env": {"CACHE": "/s/neuron-cache"}}
    assert names_used({"store": "/s", "steps": [step]}) == {"train-1", "convert-1", "x", "compiled", "neuron-cache"}
