"""`runner run` with Hydra's own flags."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import runner

from runner.commands import hydra_app
from runner.errors import RecipeError


@pytest.mark.parametrize("flags", [["--cfg", "job"], ["--info", "defaults"], ["--help"]])
def test_hydras_own_flags_work(tmp_path: Path, flags: list[str]) -> None:
    done = runner(tmp_path, "run", "quickstart", "tp_size=4", *flags)
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir())


def test_the_config_is_that_of_the_overrides_wherever_the_flag_is(tmp_path: Path) -> None:
    done = runner(tmp_path, "run", "quickstart", "--cfg", "job", "tp_size=4", "-p", "parallel")
    assert done.returncode == 0, done.stderr
    assert "tp_size: 4\n" in done.stdout and "train" not in done.stdout


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--multi", "train.seed=1,2"], "--multi: no such flag; did you mean --multirun"),
        (["--config-dir=here"], "--config-dir: no such flag"),
        (["-m", "--cfg", "job"], "--cfg job: cannot be combined with -m"),
        (["--cfg", "job", "tp_sise=2"], "did you mean tp_size"),
    ],
)
def test_a_flag_or_override_that_cannot_work_is_refused(args: list[str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        hydra_app.main("quickstart", args)
