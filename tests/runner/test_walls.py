"""Who may import whom: the control plane, the stage programs, and what travels to other machines."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from runner.compose import ROOT
from runner.delivery import code_files

HEAVY = {"torch", "transformers", "peft", "vllm", "scripts", "common"}
CONTROL_PLANE = {"runner", "hydra", "omegaconf"}


def imported(file: Path) -> Iterator[str]:
    """Names of the modules that a file imports, inside functions too; of `from a import b` also a.b."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def breaches(files: Iterable[Path], forbidden: set[str]) -> list[str]:
    return [f"{file}: {name}" for file in files for name in imported(file) if name.partition(".")[0] in forbidden]


def not_standard(files: Iterable[Path], own: set[str]) -> list[str]:
    """Imports that are neither of the standard library nor of the modules `own`."""

    def is_own(name: str) -> bool:
        return any(name == module or name.startswith(f"{module}.") for module in own) or name in packages

    packages = {module.rpartition(".")[0] for module in own}
    return [
        f"{file}: {name}"
        for file in files
        for name in imported(file)
        if name.partition(".")[0] not in sys.stdlib_module_names and not is_own(name)
    ]


def travelling() -> list[Path]:
    return [file for file in code_files() if file.suffix == ".py" and file.is_relative_to(ROOT / "runner")]


def module(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize(("tree", "forbidden"), [("runner", HEAVY), ("scripts", CONTROL_PLANE)])
def test_control_plane_and_stage_programs_stay_apart(tree: str, forbidden: set[str]) -> None:
    assert breaches(sorted((ROOT / tree).rglob("*.py")), forbidden) == []


def test_what_travels_needs_what_travels_and_the_standard_library_alone() -> None:
    files = travelling()
    own = {module(file) for file in files} - {"runner"}
    assert len(files) > 5
    assert not_standard(files, own) == []


def test_what_travels_is_written_for_python_3_9() -> None:
    for file in travelling():
        text = file.read_text(encoding="utf-8")
        ast.parse(text, feature_version=(3, 9))
        has_code = bool(ast.parse(text).body[1:])
        assert "from __future__ import annotations" in text or not has_code, f"{file}: X | Y in annotations is 3.10's"


def test_a_breach_is_found(tmp_path: Path) -> None:
    file = tmp_path / "late.py"
    file.write_text("def late():\n    from torch.nn import Linear\n    import runner.schema\n    import os.path\n")
    assert breaches([file], HEAVY) == [f"{file}: torch.nn.Linear"]
    assert breaches([file], CONTROL_PLANE) == [f"{file}: runner.schema"]
    assert not_standard([file], {"runner.store"}) == [f"{file}: torch.nn.Linear", f"{file}: runner.schema"]
