"""One machine that cannot be reached, or does not answer, costs its own rows alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from records import a_run, away

from runner.cli import main
from runner.commands import questions


def test_what_cannot_be_asked_says_so_in_its_row(
    tmp_path: Path, silent: int, closed: int, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr(questions, "_PATIENCE", 3.0)
    ports = {"silent": silent, "closed": closed, "closed-2": closed}
    asked = {name: away(tmp_path, port, name) for name, port in ports.items()}
    states = questions.states([*asked.values(), a_run(tmp_path, "name=here", key="here")])
    assert list(states.values())[-1] == "finished"
    assert states[asked["silent"]] == "no answer within 3 s"
    assert all(states[asked[name]].startswith("cannot be asked: target.host") for name in ("closed", "closed-2"))
    assert main(["status", "--in", str(tmp_path / "runs")]) == 0
    shown = capsys.readouterr().out
    assert all(f"127.0.0.1:{port}" in shown for port in (silent, closed))
