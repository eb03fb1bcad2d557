"""The sections that one run and several have in common."""

from __future__ import annotations

import json
from pathlib import Path

from runner.record.report import parts
from runner.record.runs import Run
from tests.runner.trained_run import trained_run


def test_a_key_shows_its_default_and_whether_it_was_overridden(tmp_path: Path) -> None:
    configuration = parts.configuration(trained_run(tmp_path, "train.lora.rank=8", "train.seed=42"))
    rows = {row["key"]: row for row in configuration["rows"]}
    assert rows["train.lora.rank"] == {
        "key": "train.lora.rank", "value": "8", "default": "16", "is_default": False, "is_override": True,
    }  # fmt: skip
    assert rows["train.seed"]["is_default"] and rows["train.seed"]["is_override"]
    assert "train.lora.rank=8" in configuration["overrides"]
    assert not any(choice.startswith("hydra/") for choice in configuration["choices"])


def test_the_loss_alone_has_held_out_marks(tmp_path: Path) -> None:
    history = parts.history(trained_run(tmp_path), "a run", "run0")
    loss, rate, *_ = parts.curves([history], [(0, 1.5)])
    assert (loss["note"], rate["note"]) == ("circles: held-out", "")
    assert loss["svg"].count("mark") == 1
    assert "a run from 1 at step 1 to 0.08333 at step 12" in loss["svg"]


def test_held_out_losses_of_several_runs_have_a_chart_of_their_own(tmp_path: Path) -> None:
    run = trained_run(tmp_path, evaluations=((4, 0.6), (8, 0.35)))
    headings = [curve["heading"] for curve in parts.curves([parts.history(run, "a run", "run0")])]
    assert headings == ["Loss", "Learning rate", "Gradient norm", "Throughput", "Held-out loss"]


def test_the_manifest_leaves_out_what_the_configuration_shows(tmp_path: Path) -> None:
    run = trained_run(tmp_path)
    content = {**run.manifest, "command": ["runner", "run"], "note": "two\nlines"}
    (run.folder / "manifest.json").write_text(json.dumps(content))
    manifest = parts.manifest(Run(run.folder))
    assert manifest["command"] == "runner run"
    facts = dict(manifest["facts"])
    assert facts["note"] == "two\nlines" and "machine.host" in facts
    assert not any(name.startswith(("overrides", "choices")) for name in facts)


def test_only_the_first_letter_is_capitalized() -> None:
    assert [parts.capitalized(text) for text in ("ROUGE-L", "exact match", "")] == ["ROUGE-L", "Exact match", ""]
