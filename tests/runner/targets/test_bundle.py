"""What is copied to another machine."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
from records import a_run

from runner.execute.run_folder import SECRETS
from runner.targets import bundle


def contents(write) -> dict[str, tarfile.TarInfo]:
    """The entries of a tar that `write` fills, by name."""
    buffer = io.BytesIO()
    with bundle.archive(buffer) as archive:
        write(archive)
    buffer.seek(0)
    with tarfile.open(fileobj=buffer) as archive:
        return {entry.name: entry for entry in archive}


def test_the_executor_and_the_stage_programs_are_copied_and_the_control_plane_is_not() -> None:
    files = bundle.code_files()
    assert {"runner/__init__.py", "runner/execute/executor.py", "scripts/train_torch.py"} <= set(files)
    assert "scripts/common/formats/model_config.json" in files
    assert not [file for file in files if file.startswith("runner/plan")]


def test_code_is_below_the_digest_of_its_content() -> None:
    names = contents(bundle.write_code)
    assert all(name.startswith(f"{bundle.code_name()}/") for name in names)
    assert len(names) == len(list(bundle.code_files()))


def test_files_that_a_recipe_names_are_copied_without_hidden_ones(tmp_path: Path) -> None:
    model = tmp_path / "model"
    (model / ".cache").mkdir(parents=True)
    (model / "weights").write_text("12345")
    (model / ".cache" / "x").write_text("1")
    (model / "link").symlink_to(model / "weights")
    carried = {"inputs/abc/model": str(model)}
    names = contents(lambda archive: bundle.write_carried(archive, carried))
    assert set(names) == {"inputs/abc/model", "inputs/abc/model/weights", "inputs/abc/model/link"}
    assert not names["inputs/abc/model/link"].issym(), "a link becomes the file that it shows"
    assert bundle.entry("inputs/abc/model/weights") == "inputs/abc"


def test_the_size_of_carried_files_is_known_before_they_are_sent(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for name, content in (("folder/a", "123"), ("b", "4567")):
        (tmp_path / name).write_text(content)
    assert bundle.size({"x": str(tmp_path / "folder"), "y": str(tmp_path / "b")}) == 7


@pytest.mark.parametrize("asks_hub", [True, False])
def test_a_token_is_sent_only_with_a_plan_that_reads_from_the_hub(tmp_path, monkeypatch, asks_hub: bool) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    run = a_run(tmp_path)
    if asks_hub:
        plan = run.plan
        plan["steps"][0]["argv"] += ["--hub", "me/llama"]
        (run.folder / "plan.json").write_text(json.dumps(plan))
    entries = contents(lambda archive: bundle.write_run(archive, run, "runs/mine"))
    assert {"runs/mine/recipe.yaml", "runs/mine/plan.json", "runs/mine/events.jsonl"} <= set(entries)
    assert entries["runs/mine/events.jsonl"].size == 0, "it has not begun there"
    assert (f"runs/mine/{SECRETS}" in entries) == asks_hub
    if asks_hub:
        assert entries[f"runs/mine/{SECRETS}"].mode == 0o600
