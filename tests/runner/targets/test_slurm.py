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
    assert (part["options"], part["memory"]) == ({"cpus-per-task": "2"}, "4099M")


def test_neuron_cores_come_with_their_share_of_the_host_or_with_all_of_it() -> None:
    words = ("hardware=trn2", "sdk=neuron_2_29", "train=nxd_lora", "tp_size=32", "serve=none")
    recipe = compose("llama3_8b_dolly_trn2", ["target=slurm", "target.slurm.gres=neuron", *words])
    job = targets.of(recipe.recipe.target).plan(recipe.recipe).job
    assert job
    [part] = job["parts"]
    assert part["options"] == {"gres": "neuron:32", "cpus-per-task": "32"}
    assert part["memory"] == f"{-(-2048 * 1024 * 9 // 20)}M"  # half of 2 TiB, and a tenth less
    recipe = compose("llama3_8b_dolly_trn2", ["target=slurm", *words])
    job = targets.of(recipe.recipe.target).plan(recipe.recipe).job
    assert job
    assert (job["parts"][0]["options"], job["parts"][0]["memory"]) == ({"exclusive": "true"}, "0")


def test_neighbours_that_are_asked_for_alike_share_a_job() -> None:
    cpu = "target.slurm.stages={fetch: {partition: cpu}, tokenize: {partition: cpu}, convert: {partition: cpu}}"
    first, second = parts(cpu, "target.slurm.partition=trn", "target.slurm.options.mem=64G")
    assert first["steps"] == ["fetch", "tokenize", "convert"]
    assert first["options"] == {"partition": "cpu", "mem": "64G"}
    assert second["options"] == {"partition": "trn", "mem": "64G", "cpus-per-task": "2"}


def test_several_nodes_are_for_the_training_alone() -> None:
    before, training, after = parts("parallel.nodes=2")
    assert (training["steps"], training["options"]) == (["train"], {"nodes": "2"})
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
    assert part["options"]["time"] == time


def test_a_later_server_keeps_the_options_of_its_own_stage_alone() -> None:
    options = "target.slurm.stages={serve: {mem: 8G}, train: {mem: 64G}}"
    recipe = compose("quickstart", ["target=slurm", options]).recipe
    later = targets.of(recipe.target).settings_of_step("serve", with_vllm=False)
    assert later.slurm.stages == {"serve": {"mem": "8G"}}
