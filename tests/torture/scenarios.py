"""The commands that are disturbed."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path

from runner import cli, targets
from runner.compose.composed import Composed
from runner.compose.recipe import compose
from runner.execute import executor, probe
from runner.plan.model import Plan
from runner.record import create
from runner.record.runs import Run, recorded
from tests.integration.ssh_host import SSHD, Host, quoted, ssh_host
from tests.torture.trial import Scenario, Trials, digests

_FAKE = Path(__file__).with_name("fake_stages.py")
_STEPS = 6  # of the training that writes checkpoints


class Scenarios:
    """Makes the scenarios; what they begin with is in folders below `scratch`. `closing` ends what they start."""

    def __init__(self, trials: Trials, scratch: Path, closing: ExitStack) -> None:
        self._trials, self._scratch, self.closing = trials, scratch, closing
        self._empty = scratch / "empty"
        self._empty.mkdir()
        self.words = ["quickstart", "serve=none", f"sdk.train_python={_fake_python(scratch)}"]
        _import_all()
        self._plan()  # imports the rest

    def all(self) -> Iterator[Scenario]:
        """Each is prepared when it is its turn."""
        planned = self._after("planned", self.record)
        yield Scenario("executor", "runner", planned, self._execute, _made)
        yield self.of_run("runner")
        yield self.of_run("executor")
        yield self.of_run("stage")
        yield self.sweep
        ran = self._after("ran", self.run)
        yield Scenario("export", "runner", ran, _export, lambda folder: digests(folder / "out"), done=(0, 2))
        unused = self._after("unused", self._run_twice_and_forget)
        yield Scenario("gc", "runner", unused, _gc, lambda folder: digests(folder / "store" / "objects"))
        yield Scenario("checkpoint", "runner", self._empty, _train, digests, has_records=False)
        yield from self._over_ssh()

    def _over_ssh(self) -> Iterator[Scenario]:
        if not Path(SSHD).exists():
            print("over SSH: left out, there is no sshd", flush=True)
            return
        host = self._host()

        def run() -> int:
            os.environ["HOME"] = str(host.home)
            far = quoted(Path("far").absolute())
            return cli.main(["run", *self.words, "target=ssh", f"target.host={host.name}", f"target.folder={far}"])

        delivered = self._after("delivered", run)
        for folder in ("runs", "far/runs", "far/store"):  # the code, a thousand calls, stays
            shutil.rmtree(delivered / folder)
        for role in ("runner", "receiver", "agent", "executor"):
            yield Scenario(f"over SSH, its {role}", role, delivered, run, _made_far, place="far")
        yield Scenario("over SSH, the code's receiver", "receiver", self._empty, run, _made_far, place="far")

    def _host(self) -> Host:
        """A machine that is this one; the commands there have the shim."""
        shim = ("LD_PRELOAD", "TORTURE_STATE")
        environment = " ".join(f"{name}={os.environ[name]}" for name in shim)
        with without(*shim):
            return self.closing.enter_context(
                ssh_host(self._scratch / "host", self._scratch / "home", environment=environment)
            )

    def of_run(self, role: str) -> Scenario:
        """A run, in which the processes of a role are disturbed."""
        return Scenario(f"run, its {role}", role, self._empty, self.run, _made)

    @property
    def sweep(self) -> Scenario:
        """A sweep of two trials."""
        return Scenario("sweep", "runner", self._empty, self._sweep, _made)

    def run(self) -> int:
        """`runner run`."""
        return cli.main(["run", *self.words])

    def record(self) -> int:
        """Record a run, and do not start it."""
        composed, plan = self._plan()
        create.prepare_folders(composed.recipe, with_store=True)
        create.create(composed, plan)
        return 0

    def _plan(self) -> tuple[Composed, Plan]:
        composed = compose(self.words[0], self.words[1:])
        return composed, targets.of(composed.recipe.target).plan(composed.recipe)

    def _run_twice_and_forget(self) -> int:
        """Leave in the store what one run needs, and what no recorded run does."""
        self.run()
        shutil.rmtree(next(Path("runs").glob("*-quickstart")))
        return cli.main(["run", *self.words, "train.lora.rank=4"])

    def _execute(self) -> int:
        [run] = recorded(Path("runs"))
        return executor.main([str(run.folder / "plan.json"), "--run", str(run.folder)])

    def _sweep(self) -> int:
        return cli.main(["run", *self.words, "evaluate=none", "-m", "train.lora.rank=4,8"])

    def _after(self, name: str, command: Callable[[], int]) -> Path:
        """A folder as it is after a command."""
        shutil.rmtree(self._trials.folder, ignore_errors=True)
        self._trials.folder.mkdir()
        status, output = self._trials.ended(command)
        assert status == 0, output
        return Path(shutil.copytree(self._trials.folder, self._scratch / name, symlinks=True))


def _import_all() -> None:
    """Otherwise each command, which is forked from this process, would import its modules again."""
    for module in (
        "common.training.checkpoint",
        "runner.targets.transport.ssh",
        *(module for module, _ in cli.COMMANDS.values()),
    ):
        import_module(module)


def _fake_python(scratch: Path) -> Path:
    """A program that is called as the Python of the stages; it has the packages of this one."""
    program = scratch / "fake_python"
    (scratch / "packages.json").write_text(json.dumps(probe.environment(sys.executable)))
    program.write_text(f"#!{sys.executable} -IS\n{_FAKE.read_text()}")
    program.chmod(0o755)
    return program


@contextmanager
def without(*names: str) -> Iterator[None]:
    """What is started meanwhile lacks these environment variables."""
    taken = {name: os.environ.pop(name) for name in names}
    try:
        yield
    finally:
        os.environ.update(taken)


def _export() -> int:
    return cli.main(["export", "last", "out"])


def _gc() -> int:
    return cli.main(["gc", "--unreachable"])


def _made_far(folder: Path) -> Mapping[str, str]:
    return {**_made(folder), **digests(folder / "far" / "store" / "objects")}


def _made(folder: Path) -> Mapping[str, str]:
    """The artifacts, and the results and the state that the last record of each folder has."""
    last: dict[Path, Run] = {}
    for run in sorted(recorded(folder / "runs"), key=lambda run: run.started):
        last[run.folder if run.sweep else run.folder.parent] = run
    results = {f"{place.name}/{name}": value for place, run in last.items() for name, value in _recorded(run).items()}
    return {**digests(folder / "store" / "objects"), **results}


def _recorded(run: Run) -> Mapping[str, str]:
    adapter = digests((run.folder / "artifacts" / "export").resolve())
    return {"state": run.state, **digests(run.folder / "results"), **adapter}


def _train() -> int:
    from common import program

    try:
        return program.main(lambda _: _save_checkpoints(), program.parser(None), [])
    except KeyboardInterrupt:  # a training has a handler of its own
        return 130


def _save_checkpoints() -> None:
    """A training of a few steps that saves each, with the real checkpoints."""
    import torch

    from common.training.checkpoint import Checkpoints
    from common.training.parallel import Ranks

    checkpoints = Checkpoints(Path(), Ranks(), "settings")
    state = checkpoints.latest() or {"step": 0, "weights": torch.arange(64.0)}
    while state["step"] < _STEPS:
        state = {"step": state["step"] + 1, "weights": state["weights"] * 1.5}
        checkpoints.save(state["step"], state)
    Path("weights").write_text(str(state["weights"].tolist()))
    checkpoints.remove()
