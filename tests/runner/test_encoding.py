"""Text is UTF-8, whatever the locale: each place that opens a file or reads a program's output says so."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner.paths import ROOT

FILES = sorted([*(ROOT / "runner").rglob("*.py"), *(ROOT / "scripts").rglob("*.py")])
METHODS = {"read_text": -1, "write_text": -1, "open": 0, "fdopen": 1}  # the place of a mode among the arguments


def by_locale(tree: ast.AST) -> Iterator[int]:
    """Lines of calls that leave the encoding to the locale."""
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        given = {word.arg: word.value for word in call.keywords}
        if "encoding" in given or None in given:
            continue
        if getattr(given.get("text"), "value", False):
            yield call.lineno
        name = getattr(call.func, "attr", getattr(call.func, "id", ""))
        if name in METHODS and not is_other(call, name) and not is_binary(call, METHODS[name], given):
            yield call.lineno


def is_other(call: ast.Call, name: str) -> bool:
    """os.open, tarfile.open and safe_open are no text; nor is the open() of a connection or a browser."""
    owner = ast.unparse(call.func.value) if isinstance(call.func, ast.Attribute) else ""
    takes_words = "tar" in owner or owner in ("os", "connection", "Image", "webbrowser")
    return name == "open" and (takes_words or "build_opener" in owner)


def is_binary(call: ast.Call, place: int, given: dict[str | None, ast.expr]) -> bool:
    """Whether a call has a binary mode; the builtin, and the open() of a file system, take the file first."""
    if place < 0:
        return False
    modes = [given["mode"]] if "mode" in given else call.args[place : place + 2]
    values = [str(mode.value) for mode in modes if isinstance(mode, ast.Constant)]
    return any("b" in value and set(value) <= set("rwxab+") for value in values)


@pytest.mark.parametrize("file", FILES, ids=[str(file.relative_to(ROOT)) for file in FILES])
def test_no_text_is_read_or_written_as_the_locale_says(file: Path) -> None:
    assert list(by_locale(ast.parse(file.read_text(encoding="utf-8")))) == []


def test_another_locale_gives_the_same_plan(tmp_path: Path) -> None:
    (tmp_path / "레시피.yaml").write_text(
        'defaults: [base, _self_]\ndataset: {template: {sections: ["### 질문\\n{question}"]}}\n', encoding="utf-8"
    )
    plans = []
    for locale in ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"LC_ALL": "C.UTF-8"}):
        words = [sys.executable, "-m", "runner", "plan", "레시피.yaml", "train.seed=3", "name='한글'", "--json"]
        done = subprocess.run(words, cwd=tmp_path, env={**os.environ, **locale}, capture_output=True)
        assert done.returncode == 0, done.stderr.decode()
        plans.append(json.loads(done.stdout))
    assert plans[0] == plans[1]
    assert plans[0]["recipe"] == "한글" and json.dumps("질문")[1:-1] in "".join(plans[0]["steps"][1]["argv"])
