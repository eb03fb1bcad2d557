"""A record is complete before others see it, in a folder whose name no shell can misread."""

from __future__ import annotations

from pathlib import Path

import pytest
from records import a_run

from runner.record import provenance, runs


def test_a_record_is_not_seen_before_it_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(provenance, "uncommitted", lambda _: seen.append(runs.every(tmp_path / "runs")) or b"")
    made = a_run(tmp_path)
    assert seen == [[]]
    assert [run.folder for run in runs.every(tmp_path / "runs")] == [made.folder]


NAMES = {"50%j: my recipe": "50-j-my-recipe", "a/../b": "a-..-b", "레시피": "레시피", "//": "run", "x" * 99: "x" * 48}


@pytest.mark.parametrize(("name", "part"), NAMES.items())
def test_a_run_has_a_folder_that_no_program_reads_another_meaning_into(tmp_path: Path, name: str, part: str) -> None:
    run = a_run(tmp_path, f'name="{name}"')
    assert run.folder.parent == tmp_path / "runs" and run.name.endswith(f"-{part}")
    assert run.recipe["name"] == name
