"""Completion as a real bash asks for it, after the one command that installs it."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ASK = """
source {startup}
COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); COMP_LINE={line}; COMP_POINT=${{#COMP_LINE}}; COMP_TYPE=9
COMP_WORDBREAKS=$' \\t\\n"\\'><=;|&(:'
_python_argcomplete runner "${{COMP_WORDS[-1]}}"
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    (home / ".bashrc").write_text("# mine")
    for _ in range(2):
        done = run(home, [sys.executable, "-m", "runner", "completion"])
        assert ".bashrc" in done.stdout
    command = home / "bin" / "runner"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m runner "$@"\n')
    command.chmod(0o755)
    return home


def run(home: Path, command: list[str], **more: str) -> subprocess.CompletedProcess[str]:
    path = f"{home}/bin:{os.environ['PATH']}"
    env = {**os.environ, "HOME": str(home), "SHELL": "/bin/bash", "PATH": path, **more}
    return subprocess.run(command, env=env, cwd=home, capture_output=True, text=True, check=True)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("runner ru", {"run ", "runs "}),
        ("runner run quick", {"quickstart "}),
        ("runner run quickstart tp_s", {"tp_size="}),
        ("runner run quickstart train.lora.al", {"train.lora.alpha="}),
        ("runner plan quickstart hardware=trn1", {"trn1", "trn1_2xlarge", "trn1n"}),
        ("runner show la", {"last "}),
    ],
)
def test_bash_completes(home: Path, line: str, expected: set[str]) -> None:
    ask = ASK.format(startup=home / ".bashrc", words=" ".join(map(shlex.quote, line.split())), line=shlex.quote(line))
    offered = {word.rstrip() for word in run(home, ["bash", "--norc", "-c", ask]).stdout.splitlines()}
    assert {word.rstrip() for word in expected} <= offered


def test_installing_twice_adds_one_line(home: Path) -> None:
    assert (home / ".bashrc").read_text().startswith("# mine\nsource ")
    assert (home / ".bashrc").read_text().count("completion.sh") == 1
