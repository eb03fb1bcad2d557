"""`runner --version` names what a report of a problem needs."""

from __future__ import annotations

import platform

import pytest

from runner.cli import main
from runner.paths import ROOT
from runner.record import provenance


def test_it_names_the_commit_python_and_packages(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    first, second = capsys.readouterr().out.splitlines()
    assert ended.value.code == 0
    state = provenance.git_state(ROOT)
    assert state and state["commit"][:12] in first and str(ROOT) in first
    assert second.startswith(f"Python {platform.python_version()}, hydra-core 1.3") and "torch " in second
