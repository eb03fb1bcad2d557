"""Every command line of the reviewed plans is one that its stage program accepts."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from runner.compose.recipe import compose
from runner.plan.build import build
from runner.plan.command import Place
from runner.plan.model import Step
from tests.data.plans.make import PLANS

pytest.importorskip("torch", reason="no torch, which some programs import at once")


@pytest.mark.parametrize("args", PLANS.values(), ids=PLANS)
def test_programs_have_the_flags_that_stages_give_them(args: list[str], tmp_path: Path) -> None:
    place = Place(Path("/code"), tmp_path, "/venv/bin/python")
    for step in build(compose(args[0], args[1:]).recipe, place).steps:
        _make_inputs(step)
        program = next(arg for arg in step.argv if arg.startswith("/code/scripts/"))
        flags = importlib.import_module(Path(program).stem).flags()
        flags.parse_args(step.argv[step.argv.index(program) + 1 :])


def _make_inputs(step: Step) -> None:
    """Programs refuse a folder that does not exist before they look at the next flag."""
    for arg in step.argv:
        if "/objects/" in arg:
            Path(arg).mkdir(parents=True, exist_ok=True)
