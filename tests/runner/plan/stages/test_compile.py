from __future__ import annotations

from planned import NXD, artifacts, command, recipe_of

from runner.plan.stages import compile, train

BEFORE = "modelling fetch tokenize convert"


def test_a_trainer_of_neuronx_distributed_is_compiled_ahead() -> None:
    compiled, trained = (command(stage.command, *NXD, after=BEFORE) for stage in (compile, train))
    assert compiled.program == "compile_nxd.py"
    assert compiled.env == trained.env, "or the training would not find what was compiled"


def test_a_trainer_that_compiles_as_it_goes_has_no_such_stage() -> None:
    assert compile.command(recipe_of(), artifacts(*BEFORE.split())) is None
