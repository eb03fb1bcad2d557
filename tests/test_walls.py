"""Which module may import which. The last tests show that a breach of each rule is found."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import structure
from structure import ROOT, Module

from runner.targets import bundle
from tests.ami.environments import python_of

HEAVY = {"torch", "transformers", "peft", "vllm"}
CONTROL_PLANE = {"runner", "hydra", "omegaconf"}
# Modules without a test module of their own, and what tests them.
TESTED_ELSEWHERE = {
    "runner.errors": "tests/runner/test_mistakes.py",  # what users see of it
    # Their libraries are installed for the long tests only, which read back what each tracker received.
    "runner.record.trackers.mlflow": "tests/integration/test_trackers.py",
    "runner.record.trackers.tensorboard": "tests/integration/test_trackers.py",
    "runner.record.trackers.wandb": "tests/integration/test_trackers.py",
    "runner.record.contents": "tests/runner/record/test_damage.py",
    # One stand-in for the API of Kubernetes drives all of them.
    "runner.targets.kubernetes.access": "tests/runner/targets/kubernetes/test_target.py",
    "runner.targets.kubernetes.cluster": "tests/runner/targets/kubernetes/test_target.py",
    "runner.targets.kubernetes.forward": "tests/runner/targets/kubernetes/test_target.py",
    "runner.targets.kubernetes.job_log": "tests/runner/targets/kubernetes/test_target.py",
    "runner.targets.kubernetes.manifests": "tests/runner/targets/kubernetes/test_target.py",
    "runner.targets.kubernetes.pods": "tests/runner/targets/kubernetes/test_target.py",
    "runner.targets.kubernetes.preflight": "tests/runner/targets/kubernetes/test_target.py",
    # They need a real sshd and schedulers.
    "runner.targets.remote": "tests/integration/test_ssh.py",
    "runner.targets.scheduled": "tests/integration/test_slurm.py",
    # They need a real S3 server.
    "runner.commands.bucket": "tests/integration/test_s3.py",
    "runner.plan.object_storage": "tests/integration/test_s3.py",
    # Declarations without behaviour.
    "runner.compose.composed": "tests/runner/compose/test_recipe.py",
    "runner.ui.errors": "tests/runner/ui/test_server.py",
    "runner.ui.live": "tests/runner/ui/test_run_page.py",
    "runner.ui.site": "tests/runner/ui/test_run_page.py",
    "runner.targets.finding": "tests/runner/commands/test_doctor.py",
    "runner.targets.transport.base": "tests/runner/targets/transport/test_local.py",
    # Their results are those of whole programs.
    "common.data.row_checks": "tests/scripts/test_tokenize_dataset.py",
    "common.data.row_writers": "tests/scripts/test_tokenize_dataset.py",
    "common.training.loop": "tests/scripts/test_train_torch.py",
    "common.training.cpu.trainer": "tests/scripts/test_train_torch.py",
    "common.training.neuron.llama": "tests/scripts/common/training/neuron/test_trainer.py",
    # They run with neuronx-distributed, which `make test-nxd` installs.
    "common.training.nxd.model": "tests/nxd/prove.py",
    "common.training.nxd.optimizer": "tests/nxd/prove.py",
    "common.training.nxd.trainer": "tests/nxd/prove.py",
}


def roots(module: Module) -> set[str]:
    """The packages that a module imports."""
    return {name.partition(".")[0] for name, _ in module.imports}


def breaches(found: dict[str, Module], forbidden: set[str]) -> list[str]:
    return [f"{module.path}: imports {name}" for module in found.values() for name in roots(module) & forbidden]


def travelling(found: dict[str, Module]) -> dict[str, Module]:
    """The code that is copied to other machines and runs there on the system's Python."""
    return {name: module for name, module in found.items() if module.room == "execute"}


def not_standard(found: dict[str, Module]) -> list[str]:
    """Imports of that code which its machine may lack."""
    return [
        f"{module.path}: imports {name}"
        for module in travelling(found).values()
        for name, _ in module.imports
        if name.partition(".")[0] not in sys.stdlib_module_names and not name.startswith("runner.execute")
    ]


@pytest.mark.parametrize(("tree", "forbidden"), [("runner", HEAVY | {"scripts", "common"}), ("scripts", CONTROL_PLANE)])
def test_control_plane_and_stage_programs_stay_apart(tree: str, forbidden: set[str]) -> None:
    assert breaches(structure.modules(tree), forbidden) == []


def test_what_travels_needs_the_standard_library_alone() -> None:
    assert not_standard(structure.modules("runner")) == []


def test_what_travels_is_written_for_python_3_9() -> None:
    for module in travelling(structure.modules("runner")).values():
        assert_python_3_9(module.path.read_text(encoding="utf-8"))


def assert_python_3_9(text: str) -> None:
    ast.parse(text, feature_version=(3, 9))


def test_what_travels_runs_on_a_real_python_3_9(tmp_path: Path) -> None:
    python = python_of(("3.9",))
    if not python:
        pytest.skip("there is no Python 3.9 on this machine")
    code = tmp_path / "code"
    for path, file in bundle.code_files().items():
        if path.startswith("runner/"):
            copy = code / path
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, copy)
    names = [name for name in travelling(structure.modules("runner")) if not name.endswith("__main__")]
    program = f"import importlib; [importlib.import_module(name) for name in {names!r}]"
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(code)}
    done = subprocess.run([python, "-W", "error", "-c", program], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    step = {
        "stage": "train", "title": "write", "key": "train-1", "env": {}, "cached": True, "resumable": False,
        "argv": [python, "-c", f"open({str(tmp_path / 'store/partial/train-1/made')!r}, 'w').write('x')"],
    }  # fmt: skip
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "plan.json").write_text(json.dumps({"store": str(tmp_path / "store"), "steps": [step]}))
    command = [python, "-m", "runner.execute", tmp_path / "run" / "plan.json", "--run", tmp_path / "run"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "store" / "objects" / "train-1" / "made").read_text() == "x"


@pytest.mark.parametrize("tree", structure.FLOORS)
def test_imports_run_down_the_floors(tree: str) -> None:
    assert structure.upward(tree, structure.modules(tree)) == []


@pytest.mark.parametrize("tree", structure.FLOORS)
def test_nothing_imports_in_a_circle(tree: str) -> None:
    found = structure.modules(tree)
    assert structure.circles(structure.edges(found)) == []
    assert structure.circles(set(structure.room_edges(found))) == []


@pytest.mark.parametrize("tree", structure.FLOORS)
def test_every_module_has_a_test_module_in_the_same_place(tree: str) -> None:
    missing = set(structure.untested(tree, structure.modules(tree))) - set(TESTED_ELSEWHERE)
    assert not missing, "tests/runner/plan/test_build.py tests runner/plan/build.py; TESTED_ELSEWHERE has the rest"


def test_what_tests_the_others_exists() -> None:
    assert [path for path in TESTED_ELSEWHERE.values() if not (ROOT / path).is_file()] == []


def test_the_picture_is_of_this_code() -> None:
    assert structure.drawn() in structure.PAGE.read_text(encoding="utf-8"), "`make golden` draws it again"


def house(folder: Path, **files: str) -> Path:
    """A small tree of modules: `runner__plan__a="import x"` is runner/plan/a.py."""
    for name, text in files.items():
        path = folder.joinpath(*name.split("__")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_a_breach_of_each_wall_is_found(tmp_path: Path) -> None:
    house(
        tmp_path,
        runner__plan__a="import torch.nn",
        runner__execute__b="def late():\n    import rich",
        runner__compose__c="from runner.plan import a",
        runner__plan__d="from runner.plan.e import x",
        runner__plan__e="from runner.plan import d",
        scripts__train="from omegaconf import OmegaConf",
    )
    runner, scripts = (structure.modules(tree, tmp_path) for tree in structure.FLOORS)
    assert len(breaches(runner, HEAVY)) == 1
    assert len(breaches(scripts, CONTROL_PLANE)) == 1
    assert len(not_standard(runner)) == 1
    assert structure.upward("runner", runner) == ["runner.compose.c imports runner.plan.a"]
    assert structure.circles(structure.edges(runner)) == [["runner.plan.d", "runner.plan.e"]]


def test_a_module_without_a_test_module_is_found(tmp_path: Path) -> None:
    house(
        tmp_path,
        runner__plan__a="def f(): ...",
        runner__plan__b="def f(): ...",
        runner__plan__constants="X = 1",
        tests__runner__plan__test_b="",
    )
    assert structure.untested("runner", structure.modules("runner", tmp_path), tmp_path) == ["runner.plan.a"]


def test_syntax_of_a_newer_python_is_found() -> None:
    with pytest.raises(SyntaxError):
        assert_python_3_9("match 1:\n    case 1: pass\n")
