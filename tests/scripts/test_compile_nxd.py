"""Compiling a training ahead, with a stand-in for the compiler of the SDK."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import compile_nxd
from common import program
from runner.execute import attempts

COMPILER = """#!{python}
import os, subprocess, sys
print("cache", os.environ["NEURON_COMPILE_CACHE_URL"])
status = subprocess.run(sys.argv[1:], env={{**os.environ, "NEURON_EXTRACT_GRAPHS_ONLY": "1"}}).returncode
print("Total failed compilations: {failed}")
sys.exit(status)
"""


def compiled(tmp_path: Path, monkeypatch, failed: int, command: str) -> int:
    """Run compile_nxd.py with a stand-in for the SDK's neuron_parallel_compile."""
    compiler = tmp_path / "bin" / compile_nxd.COMPILER
    compiler.parent.mkdir()
    compiler.write_text(COMPILER.format(python=sys.executable, failed=failed))
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", str(compiler.parent), prepend=":")
    args = ["--cache", "s3://bucket/cache", "--output", str(tmp_path / "out"), "--", sys.executable, "-c", command]
    return program.main(compile_nxd.run, compile_nxd.flags(), args)


def test_compilation_runs_the_command_and_names_its_cache(tmp_path, monkeypatch):
    command = "import os; assert os.environ['NEURON_EXTRACT_GRAPHS_ONLY'] == '1'; print('traced')"
    assert compiled(tmp_path, monkeypatch, 0, command) == 0
    assert json.loads((tmp_path / "out" / "compile.json").read_text())["cache"] == "s3://bucket/cache"
    assert "traced" in (tmp_path / "out" / "compile.log").read_text()


def test_every_compiled_program_is_progress_that_an_interruption_keeps(tmp_path, monkeypatch):
    stream = tmp_path / "events.jsonl"
    monkeypatch.setenv("RUNNER_EVENTS", str(stream))
    monkeypatch.setenv("RUNNER_STAGE", "compile")
    assert compiled(tmp_path, monkeypatch, 0, r"print('.....\nCompiler status PASS\n..Compiler status PASS')") == 0
    events = [json.loads(line) for line in stream.read_text().splitlines()]
    assert [event["at"] for event in events if event["event"] == "checkpoint"] == [1, 2]
    assert "2 program(s) compiled" in [event.get("message") for event in events]
    start, interrupted = {"event": "run", "state": "started"}, {"event": "run", "state": "interrupted"}
    assert not attempts.stalled([start, *events, interrupted, start])
    assert attempts.stalled([start, interrupted, start])


@pytest.mark.parametrize(("failed", "command"), [(2, "pass"), (0, "raise SystemExit(3)")])
def test_a_failed_compilation_or_command_fails(tmp_path, monkeypatch, capsys, failed, command):
    assert compiled(tmp_path, monkeypatch, failed, command) == 1
    assert "compile.log" in capsys.readouterr().err
    assert not (tmp_path / "out" / "compile.json").exists()


def test_without_the_compiler_the_right_python_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    args = ["--cache", "cache", "--output", str(tmp_path / "out"), "--", "true"]
    assert program.main(compile_nxd.run, compile_nxd.flags(), args) == 2
    assert "training environment" in capsys.readouterr().err
