"""Which launcher runs the trials of a sweep."""

from __future__ import annotations

import pytest
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher

from runner.commands.sweep import launcher
from runner.compose.recipe import compose

SLURM = ["target=slurm", "target.host=me@cluster"]


@pytest.mark.parametrize(
    ("target", "overrides", "expected"),
    [
        ([], ["train.seed=1,2"], []),
        (SLURM, ["train.seed=1,2"], ["hydra/launcher=queue"]),
        (SLURM, ["train.seed=1,2", "hydra/launcher=joblib"], []),
    ],
)
def test_a_target_with_a_queue_gets_all_trials_at_once_unless_the_user_chose_a_launcher(
    target: list[str], overrides: list[str], expected: list[str]
) -> None:
    assert launcher.chosen(compose("quickstart", target).recipe.target, overrides) == expected


def test_hydra_knows_the_launcher_however_often_it_is_prepared() -> None:
    launcher.prepare()
    launcher.prepare()
    assert [plugin.__name__ for plugin in Plugins.instance().discover(Launcher)].count("QueueLauncher") == 1
