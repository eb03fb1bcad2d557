"""Sweeps before their first trial. Those with real trials are in tests/integration/test_sweep.py."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
from command_line import runner

from runner.commands.sweep import sweep
from runner.compose.recipe import compose
from runner.paths import ROOT
from runner.plan.build import build
from runner.plan.command import Place


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["train.lora.rank=4,8,0"], "trial 2 (train.lora.rank=0): "),
        (["train.seed=1,2", "parallel.tp_size=1,3"], "trial 1 (train.seed=1 parallel.tp_size=3): "),
        (["train.lora={rank:4,alpha:8},{rnak:8,alpha:16}"], "did you mean train.lora.rank?"),
        (["train.seed=1,2", "evaluate=none", "serve=none", "sweep.objective=adapter.loss"], "sweep.objective"),
        (["train.learning_rate=interval(1e-4,1e-2)"], "hydra/sweeper=optuna"),
        (["hydra/sweeper=optuna", "train.lora.rank=choice(4,8,0)"], "(train.lora.rank=0): "),
        (["hydra/sweeper=optuna", "train.seed=choice(1,2)", "hydra.sweeper.direction=maximize"], "sweep.direction"),
        (["hydra/launcher=jobli", "train.seed=1,2"], "jobli"),
        (["model=glob(x*)"], "no trials"),
        (["train.seed=1,2", "--cfg", "job"], "--cfg job"),
    ],
)
def test_a_mistake_in_any_trial_is_found_before_the_first(tmp_path: Path, args: list[str], message: str) -> None:
    done = runner(tmp_path, "run", "quickstart", "-m", *args)
    assert done.returncode == 2
    assert done.stderr.startswith("runner: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_sweep_over_learning_rate_and_alpha_compiles_once() -> None:
    plans = [
        build(compose("llama3_8b_dolly_trn2", overrides).recipe, Place(ROOT, Path("/store"), "python"))
        for overrides in product(
            [f"train.learning_rate={rate}" for rate in ("1e-4", "2e-4", "4e-4")],
            [f"train.lora.alpha={alpha}" for alpha in (8, 16, 32)],
        )
    ]
    steps = sweep._steps(plans)
    assert "1 x convert, 1 x compile, 9 x train, 9 x export" in steps
