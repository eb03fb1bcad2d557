"""Every example says what it shows and how it is run, and can be planned; those for any computer are run."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.cli import main
from runner.paths import RECIPES

EXAMPLES = sorted(path.stem for path in (RECIPES / "examples").glob("*.yaml"))
SHORT = ["dataset.train_rows=40", "train.max_steps=1", "train.warmup_ratio=0", "evaluate=none", "serve=none"]


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_opens_with_its_command_and_can_be_planned(name: str, tmp_path: Path, monkeypatch, capsys) -> None:
    opening = (RECIPES / "examples" / f"{name}.yaml").read_text().partition("defaults:")[0]
    assert f"#   runner run examples/{name}" in opening
    monkeypatch.chdir(tmp_path)
    form = ["--manifests"] if "--manifests" in opening else []
    assert main(["plan", f"examples/{name}", *form]) == 0
    assert capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [["01_own_csv", "dataset.eval_rows=5"], ["03_sweep", "-m", "train.lora.rank=4,8"], ["07_several_adapters"]],
    ids=lambda words: words[0],
)
def test_an_example_for_any_computer_runs(words: list[str], tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    name, *rest = words
    assert main(["run", f"examples/{name}", *rest, *SHORT]) == 0
    assert list((tmp_path / "runs").iterdir())
