"""What all targets have in common; and no other code asks which target a recipe has chosen."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from runner import targets
from runner.compose.recipe import compose
from runner.errors import RecipeError
from runner.paths import ROOT

KINDS = set(targets.TARGETS)


def kind_questions(text: str) -> Iterator[int]:
    """Lines of a program where a kind of target is compared, is a key of a table, or where a constant lists several."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Compare):
            parts = [part for side in (node.left, *node.comparators) for part in ast.walk(side)]
        elif isinstance(node, ast.Dict):
            parts = [key for key in node.keys if key]
        elif isinstance(node, ast.MatchValue):
            parts = [node.value]
        elif isinstance(node, ast.Assign):
            parts = list(ast.walk(node.value))
        else:
            continue
        kinds = [part for part in parts if isinstance(part, ast.Constant) and part.value in KINDS]
        if len(kinds) > isinstance(node, ast.Assign):
            yield node.lineno if isinstance(node, ast.stmt | ast.expr) else node.value.lineno


def test_only_targets_ask_for_the_kind_of_a_target() -> None:
    allowed = (ROOT / "runner" / "targets", ROOT / "runner" / "record" / "old_keys.py")  # which reads old records
    files = [path for path in (ROOT / "runner").rglob("*.py") if not any(map(path.is_relative_to, allowed))]
    found = {str(path.relative_to(ROOT)): list(kind_questions(path.read_text(encoding="utf-8"))) for path in files}
    assert {path: lines for path, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    "text",
    [
        'if target.kind == "ssh": pass',
        'if kind in ("slurm", "ray"): pass',
        'look = {"kubernetes": f}.get(kind)',
        'QUEUES = ("slurm", "ray")',
        'match kind:\n    case "local": pass',
    ],
)
def test_such_a_question_is_found(text: str) -> None:
    assert list(kind_questions(text))


def test_several_machines_are_refused_where_a_run_has_one() -> None:
    recipe = compose("quickstart", ["parallel.nodes=2"]).recipe
    with pytest.raises(RecipeError, match="a run on target=local uses one machine, not 2; try target=slurm"):
        targets.of(recipe.target).plan(recipe)


@pytest.mark.parametrize(
    ("words", "address"),
    [
        (["target=local"], ("node7", 8000)),
        (["target=ssh", "target.host=a"], ("127.0.0.1", 8001)),
        (["target=kubernetes"], ("127.0.0.1", 8001)),
        (["target=slurm", "target.host=login"], ("127.0.0.1", 8001)),
        (["target=slurm"], ("node7", 8000)),
        (["target=ray"], ("node7", 8000)),
    ],
)
def test_a_server_is_reached_where_its_target_forwards_it(words: list[str], address: tuple[str, int]) -> None:
    target = targets.of(compose("quickstart", [*words, "target.forward=8001"]).recipe.target)
    assert target.server_address("node7", 8000) == address


@pytest.mark.parametrize("words", [["target=local"], ["target=ssh", "target.host=a", "sdk.train_python=/python"]])
def test_a_target_without_scheduler_has_no_manifests(words: list[str]) -> None:
    recipe = compose("quickstart", words).recipe
    target = targets.of(recipe.target)
    with pytest.raises(RecipeError, match="has no scheduler; try target=slurm"):
        target.manifests(target.plan(recipe))
