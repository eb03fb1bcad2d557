"""`runner gc`: what it refuses. What it removes is tested with `runner.execute.gc`, elsewhere in test_ssh.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.cli import main


@pytest.mark.parametrize("where", [[], ["--host", "trn-a"]])
def test_without_a_rule_nothing_goes(where: list[str], capsys) -> None:
    assert main(["gc", *where]) == 2
    assert "choose what to remove" in capsys.readouterr().err


def test_a_store_that_does_not_exist_is_named(tmp_path: Path, capsys) -> None:
    assert main(["gc", "--verify", "--store", str(tmp_path / "stor")]) == 2
    assert f"{tmp_path}/stor: no such store; set it with --store" in capsys.readouterr().err
