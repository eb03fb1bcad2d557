"""Records and stores of earlier versions: every command reads them.

data/ has what a version of 22 November 2026 (2ba5e12) recorded and stored of its quickstart; large files are left out.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from runner import cli

_DATA = Path(__file__).parents[2] / "data" / "old"
_READING = {
    "runs": "held-out loss after training 0.6237",
    "status": "No runs are in progress",
    "show last": "state    finished",
    "compare last last": "0.6237",
    "diff last quickstart": "serve.engine",
    "report last": "report.html",
    "logs last": "",
    "cancel last": "finished",
    "gc --gb 1": "0.0 MB freed",
    "gc --unreachable": "0.0 MB freed",
    "gc --verify": "5 artifacts: 0 damaged, 5 of an earlier version without digests",
}
_REFUSING = {
    "rerun last": "config.json: no such file",
    "serve last": "serve=none serves nothing; add serve=embedded or serve=vllm",
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the old record and store."""
    shutil.copytree(_DATA, tmp_path, symlinks=True, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("words", _READING)
def test_commands_read_an_old_record(project: Path, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    status = cli.main(words.split())
    output = capsys.readouterr()
    assert status == 0, output.err
    assert _READING[words] in output.out
    assert "damaged" not in output.err
    assert len(list((project / "store" / "objects").iterdir())) == 5


@pytest.mark.parametrize("words", _REFUSING)
def test_what_an_old_record_cannot_do_is_one_line(
    project: Path, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words.split()) == 2
    assert _REFUSING[words] in capsys.readouterr().err.splitlines()[-1]
