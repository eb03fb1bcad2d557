"""Images that do not have what a recipe needs are named, with the file that builds one."""

from __future__ import annotations

import pytest
from planned import NXD, recipe_of

from runner.targets.kubernetes import images

IMAGE = ["target.kubernetes.image=mine", "target.kubernetes.image_trains=[nxd]"]
VLLM = ["serve=vllm", "target.kubernetes.image_sdk=neuron_2_29"]


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        ([], "target.kubernetes.image: not set; build recipes/images/nxd_2_29.Dockerfile (docker build -f"),
        (IMAGE, "target.kubernetes.image_sdk: mine contains an unknown Neuron release, the recipe needs neuron_2_29"),
        ([*IMAGE, "target.kubernetes.image_sdk=neuron_2_26"], "mine contains neuron_2_26, the recipe needs"),
        (
            [*IMAGE, "target.kubernetes.image_sdk=neuron_2_29", "target.kubernetes.image_trains=[]"],
            "target.kubernetes.image_trains: mine has no trainer, not nxd",
        ),
        ([*IMAGE, *VLLM], "target.kubernetes.serve_image: serve=vllm needs an image with vLLM"),
        ([*IMAGE, *VLLM, "target.kubernetes.serve_image=other"], "serve.mode: the smoke test would run in"),
    ],
)
def test_a_problem_says_what_to_build_or_to_set(overrides: list[str], problem: str) -> None:
    [found] = images.problems(recipe_of(*NXD, *overrides))
    assert problem in found and "\n" not in found


def test_an_image_that_has_everything_is_no_problem() -> None:
    recipe = recipe_of(*NXD, *IMAGE, *VLLM, "target.kubernetes.serve_image=mine")
    assert list(images.problems(recipe)) == []


def test_on_a_cpu_any_image_will_do() -> None:
    assert list(images.problems(recipe_of("target.kubernetes.image=mine"))) == []
