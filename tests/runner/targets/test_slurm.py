"""What Slurm is asked for, and which recipes are refused."""

from __future__ import annotations

import pytest

from runner import targets
from runner.compose.recipe import compose
from runner.errors import RecipeError
from runner.plan.model import Plan


def planned(*words: str) -> Plan:
    recipe = compose("quickstart", words).recipe
    return targets.of(recipe.target).plan(recipe)


def parts(*words: str) -> list[dict]:
    job = planned("target=slurm", *words).job
    assert job
    return job["parts"]


def test_where_nothing_is_said_one_job_does_it_all() -> None:
    [part] = parts()
    assert part["steps"] == ["fetch", "tokenize", "convert", "train", "export", "evaluate", "serve"]
    assert part["options"] == {}


def test_neighbours_that_are_asked_for_alike_share_a_job() -> None:
    cpu = "target.slurm.stages={fetch: {partition: cpu}, tokenize: {partition: cpu}, convert: {partition: cpu}}"
    first, second = parts(cpu, "target.slurm.partition=trn", "target.slurm.options.mem=64G")
    assert first == {"steps": ["fetch", "tokenize", "convert"], "options": {"partition": "cpu", "mem": "64G"}}
    assert second["options"] == {"partition": "trn", "mem": "64G"}


def test_several_nodes_are_for_the_training_alone() -> None:
    before, training, after = parts("parallel.nodes=2")
    assert training == {"steps": ["train"], "options": {"nodes": "2"}}
    assert "nodes" not in {**before["options"], **after["options"]}


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["target=slurm", "target.slurm.stages.trian.partition=cpu"], "did you mean train?"),
        (["target=slurm", "parallel.nodes=3"], "cannot share the 2 ranks"),
        (["target=slurm", "serve.mode=foreground"], "say serve.host=0.0.0.0"),
        (["target=slurm", "target.host=login"], "sdk.train_python"),
    ],
)
def test_what_cannot_be_is_refused(words: list[str], problem: str) -> None:
    with pytest.raises(RecipeError) as error:
        planned(*words)
    assert problem in str(error.value)


@pytest.mark.parametrize("time", ["04:00:00", "60", "1-0"])
def test_a_time_limit_is_taken_as_it_is_written(time: str) -> None:
    [part] = parts(f"target.slurm.time={time}")
    assert part["options"] == {"time": time}


def test_a_later_server_keeps_the_options_of_its_own_stage_alone() -> None:
    options = "target.slurm.stages={serve: {mem: 8G}, train: {mem: 64G}}"
    recipe = compose("quickstart", ["target=slurm", options]).recipe
    later = targets.of(recipe.target).settings_of_step("serve", with_vllm=False)
    assert later.slurm.stages == {"serve": {"mem": "8G"}}
