"""The Dockerfiles of recipes/images: each profile's are there, say what they have, and install what stages import."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from runner.execute import requirements
from runner.paths import ROOT
from runner.plan import packages
from runner.plan.checks.releases import profiles

FILES = sorted((ROOT / "recipes" / "images").glob("*.Dockerfile"))
PROFILES = {(sdk, what): file for sdk, profile in profiles() for what, file in profile.images.items()}
PROGRAMS = {
    "torch": ("train_torch.py", "evaluate.py", "serve_embedded.py"), "nxd": ("train_nxd.py", "evaluate.py"),
    "optimum": ("train_optimum.py", "evaluate.py"), "vllm": ("serve_vllm.py",),
}  # fmt: skip


def test_every_dockerfile_is_one_that_a_profile_names() -> None:
    assert {ROOT / file for file in PROFILES.values()} == set(FILES)


@pytest.mark.parametrize(("sdk", "what"), sorted(PROFILES))
def test_its_labels_are_those_of_the_profile(sdk: str, what: str) -> None:
    kind = "serves" if what == "vllm" else "trains"
    assert f'LABEL sdk="{sdk}" {kind}="{what}"' in (ROOT / PROFILES[sdk, what]).read_text()


@pytest.mark.parametrize(("sdk", "what"), sorted(PROFILES))
def test_what_it_installs_is_what_the_stages_work_with(sdk: str, what: str) -> None:
    text = (ROOT / PROFILES[sdk, what]).read_text()
    pinned = dict(re.findall(r"([\w-]+)(?:\[[^\]]*\])?==([\w.]+)", text))
    needed = {text for name in PROGRAMS[what] for text in packages.needed(name, packages._FOR)}
    judged = [one for one in needed if requirements.canonical(requirements.parsed(one)[0]) in pinned]
    assert judged or what == "vllm"
    assert list(requirements.unmet(judged, pinned)) == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_it_begins_with_a_pinned_image(file: Path) -> None:
    [image] = re.findall(r"(?m)^FROM (\S+)$", file.read_text())
    assert ":" in image and not image.endswith(":latest")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_the_linter_has_nothing_to_say(file: Path) -> None:
    linter = ROOT / ".venv" / "bin" / "hadolint"
    if not linter.is_file():
        pytest.skip("hadolint is not installed here: make lint does")
    done = subprocess.run([linter, file], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
