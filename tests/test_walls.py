"""The walls of the house: who may import whom. A breach of each was seen to fail; the last tests do it again."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest
import structure
from structure import Module

HEAVY = {"torch", "transformers", "peft", "vllm"}
CONTROL_PLANE = {"runner", "hydra", "omegaconf"}


def roots(module: Module) -> set[str]:
    """The packages that a module imports."""
    return {name.partition(".")[0] for name, _ in module.imports}


def breaches(found: dict[str, Module], forbidden: set[str]) -> list[str]:
    return [f"{module.path}: imports {name}" for module in found.values() for name in roots(module) & forbidden]


def travelling(found: dict[str, Module]) -> dict[str, Module]:
    """What is carried to other machines and runs there on the system's Python."""
    return {name: module for name, module in found.items() if module.room == "execute"}


def not_standard(found: dict[str, Module]) -> list[str]:
    """Imports of travelling code that its machine may not have."""
    return [
        f"{module.path}: imports {name}"
        for module in travelling(found).values()
        for name, _ in module.imports
        if name.partition(".")[0] not in sys.stdlib_module_names and not name.startswith("runner.execute")
    ]


@pytest.mark.parametrize(("tree", "forbidden"), [("runner", HEAVY | {"scripts", "common"}), ("scripts", CONTROL_PLANE)])
def test_control_plane_and_stage_programs_stay_apart(tree: str, forbidden: set[str]) -> None:
    assert breaches(structure.modules(tree), forbidden) == []


def test_what_travels_needs_the_standard_library_alone() -> None:
    assert not_standard(structure.modules("runner")) == []


def test_what_travels_is_written_for_python_3_9() -> None:
    for module in travelling(structure.modules("runner")).values():
        text = module.path.read_text(encoding="utf-8")
        ast.parse(text, feature_version=(3, 9))


@pytest.mark.parametrize("tree", structure.FLOORS)
def test_imports_run_down_the_floors(tree: str) -> None:
    assert structure.upward(tree, structure.modules(tree)) == []


@pytest.mark.parametrize("tree", structure.FLOORS)
def test_nothing_imports_in_a_circle(tree: str) -> None:
    found = structure.modules(tree)
    assert structure.circles(structure.edges(found)) == []
    assert structure.circles(set(structure.room_edges(found))) == []


def test_the_picture_is_of_this_code() -> None:
    assert structure.drawn() in structure.PAGE.read_text(encoding="utf-8"), "make structure ARGS=--write"


def house(folder: Path, **files: str) -> Path:
    """A small tree of modules: `runner__plan__a="import x"` is runner/plan/a.py."""
    for name, text in files.items():
        path = folder.joinpath(*name.split("__")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_a_breach_of_each_wall_is_found(tmp_path: Path) -> None:
    house(
        tmp_path,
        runner__plan__a="import torch.nn",
        runner__execute__b="def late():\n    import rich",
        runner__compose__c="from runner.plan import a",
        runner__plan__d="from runner.plan.e import x",
        runner__plan__e="from runner.plan import d",
        scripts__train="from omegaconf import OmegaConf",
    )
    runner, scripts = (structure.modules(tree, tmp_path) for tree in structure.FLOORS)
    assert len(breaches(runner, HEAVY)) == 1
    assert len(breaches(scripts, CONTROL_PLANE)) == 1
    assert len(not_standard(runner)) == 1
    assert structure.upward("runner", runner) == ["runner.compose.c imports runner.plan.a"]
    assert structure.circles(structure.edges(runner)) == [["runner.plan.d", "runner.plan.e"]]
