"""The table of targets, and how one is chosen."""

from __future__ import annotations

import dataclasses
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
from records import a_run

from runner import targets
from runner.compose import schema
from runner.paths import CONFIGS
from runner.targets.local import LocalTarget
from runner.targets.ssh import SSHTarget

KINDS = set(targets.TARGETS)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_target_implements_the_abstract_class(kind: str) -> None:
    assert issubclass(targets.class_of(kind), targets.Target)
    assert not inspect.isabstract(targets.class_of(kind))
    assert (CONFIGS / "target" / f"{kind}.yaml").is_file()


def test_every_kind_of_the_schema_has_a_target() -> None:
    [kind] = [field for field in dataclasses.fields(schema.Target) if field.name == "kind"]
    assert set(kind.metadata["choices"]) == KINDS


def test_only_the_target_that_is_chosen_is_imported() -> None:
    code = "import sys; from runner import targets; targets.class_of('local'); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name for name in done.stdout.split() if name.startswith("runner.targets.")}
    assert "runner.targets.local" in loaded
    assert not {"runner.targets.ssh", "runner.targets.slurm", "runner.targets.kubernetes"} & loaded


def test_a_recorded_run_is_reached_through_the_target_of_its_recipe(tmp_path: Path) -> None:
    assert isinstance(targets.of_run(a_run(tmp_path)), LocalTarget)
    remote = targets.of_run(a_run(tmp_path, "target=ssh", "target.host=me@there", key="train-2"))
    assert isinstance(remote, SSHTarget) and "me@there" in remote.where


@pytest.mark.parametrize(("host", "folder"), [("me@there", "trainium-recipes"), ("me@there:work", "work")])
def test_a_host_may_be_given_with_its_folder(host: str, folder: str) -> None:
    settings = targets.on_host(host)._settings
    assert (settings.kind, settings.host, settings.folder) == ("ssh", "me@there", folder)
