"""How long commands take before they do anything: beside Python, bare Hydra, its multirun, and DVC."""

from __future__ import annotations

import dataclasses
import itertools
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from measure import ROOT, RUNNER, Case, Comparison, Way, command, newest_run, way

SCRIPTS = ROOT / "scripts"
QUICK = ["quickstart", "serve=none", "train.max_steps=2", "dataset.train_rows=60", "evaluate.examples=2", "tp_size=1"]
COUNT = 8
TRIALS = "name=" + ",".join(f"trial{number}" for number in range(COUNT))
WITHOUT_TORCH = ("convert_checkpoint", "export_adapter", "tokenize_dataset")
SEVEN = ("fetch_model", *WITHOUT_TORCH, "train_torch", "evaluate", "smoke_test")
BARE_HYDRA = """
import hydra
from omegaconf import OmegaConf
OmegaConf.register_new_resolver("assets", lambda path: path)
OmegaConf.register_new_resolver("by_lnc", lambda lnc, one, two: one)
@hydra.main(version_base="1.3", config_path="configs", config_name="quickstart")
def main(config):
    print(OmegaConf.to_yaml(config, resolve=True))
main()
"""


def cases(scratch: Path, dvc: Path | None, records: int) -> Iterator[Case]:
    """Start-up of commands, of a cached run and of a sweep, and of the stage programs."""
    bare = _bare_hydra(scratch / "hydra")
    asking = {"_ARGCOMPLETE": "1", "COMP_LINE": "runner run qu", "COMP_POINT": "13"}
    yield Case(
        "start-up",
        {
            "python -c pass": way([sys.executable, "-c", "pass"]),
            "help": way([*RUNNER, "--help"]),
            "completion": way(["sh", "-c", 'exec "$@" 8>/dev/null', "sh", *RUNNER], env=asking),
            "plan": way([*RUNNER, "plan", "quickstart"]),
            "bare Hydra": way(bare),
        },
        [
            Comparison("`runner --help`", "help", None, 0.15),
            Comparison("completion of a recipe", "completion", None, 0.15),
            Comparison("`runner plan quickstart`", "plan", "bare Hydra", 1.3),
        ],
    )
    yield _cached(scratch, dvc)
    yield _cached_trials(scratch, dvc, bare)
    _multiply_record(scratch, records)
    listing = way([*RUNNER, "runs", "--in", scratch / "many"])
    yield Case("records", {"runs": listing}, [Comparison(f"`runner runs` of {records} runs", "runs", None, 0.3)])
    yield Case(
        "stage programs",
        {name: way([sys.executable, "-c", f"import {name}"], SCRIPTS) for name in dict.fromkeys(SEVEN)}
        | {
            "all": lambda: {
                "seconds": sum(command([sys.executable, "-c", f"import {name}"], SCRIPTS)["seconds"] for name in SEVEN)
            }
        },
        [
            *(Comparison(f"import of {name}.py", name, None, 0.3) for name in WITHOUT_TORCH),
            Comparison("import of the quickstart's seven programs", "all", None, 8.0),
        ],
    )


def _folders(scratch: Path) -> list[str]:
    return [f"paths.store={scratch}/store", f"paths.runs={scratch}/runs"]


def _bare_hydra(folder: Path) -> list[str]:
    """The command of an application that composes the groups of the quickstart and does nothing else."""
    from omegaconf import OmegaConf

    from runner.compose.schema import Recipe

    shutil.copytree(ROOT / "configs", folder / "configs")
    shutil.copy(ROOT / "recipes" / "quickstart.yaml", folder / "configs")
    schema = OmegaConf.to_yaml(OmegaConf.create(dataclasses.asdict(Recipe())))
    (folder / "configs" / "schema.yaml").write_text(schema, encoding="utf-8")
    (folder / "app.py").write_text(BARE_HYDRA, encoding="utf-8")
    return [sys.executable, str(folder / "app.py"), f"hydra.sweep.dir={folder}", "hydra/job_logging=none"]


def _cached(scratch: Path, dvc: Path | None) -> Case:
    run = [*RUNNER, "run", *QUICK, *_folders(scratch)]
    command(run)
    ways = {"run": way(run)}
    if dvc:
        ways["dvc repro"] = way([dvc, "repro", "--quiet"], _dvc_project(scratch, dvc))
    return Case("cached run", ways, [Comparison("a run with nothing to do", "run", "dvc repro", 0.65)] if dvc else [])


def _cached_trials(scratch: Path, dvc: Path | None, bare: list[str]) -> Case:
    run = [*RUNNER, "run", *QUICK, *_folders(scratch), "-m", TRIALS]
    ways = {
        "sweep": _a_trial(way(run), COUNT),
        "Hydra's multirun": _a_trial(way([*bare[:2], "-m", *bare[2:], TRIALS]), COUNT),
    }
    if dvc:
        project, numbers = _dvc_experiments(scratch / "dvc", dvc), itertools.count(1)
        experiment = [dvc, "exp", "run", "--quiet", "--set-param"]
        ways["dvc exp run"] = _a_trial(lambda: command([*experiment, f"trial={next(numbers)}"], project), 1)
    what = "a cached trial of a sweep"
    return Case("sweep", ways, [Comparison(what, "sweep", peer, 1.2, "a_trial") for peer in list(ways)[1:]])


def _a_trial(sweep: Way, trials: int) -> Way:
    """A way with the seconds of each of its trials."""
    return lambda: {"a_trial": sweep()["seconds"] / trials}


def _dvc_project(scratch: Path, dvc: Path) -> Path:
    """A DVC pipeline over copies of the artifacts of the newest run, already reproduced."""
    project = scratch / "dvc"
    project.mkdir()
    artifacts = newest_run(scratch / "runs") / "artifacts"
    stages, before = [], "source"
    (project / before).write_text("source", encoding="utf-8")
    for stage in ("fetch", "tokenize", "convert", "train", "export", "evaluate"):
        copy = f"cp -rL {artifacts.resolve() / stage} {stage}"
        stages.append(f"  {stage}:\n    cmd: {copy}\n    deps: [{before}]\n    outs: [{stage}]\n")
        before = stage
    (project / "dvc.yaml").write_text("stages:\n" + "".join(stages), encoding="utf-8")
    for arguments in (["init", "--no-scm", "--quiet"], ["config", "core.analytics", "false"], ["repro", "--quiet"]):
        command([dvc, *arguments], project)
    return project


def _dvc_experiments(project: Path, dvc: Path) -> Path:
    """The same pipeline in a Git repository, as experiments need it; a stage that does nothing depends on `trial`."""
    experiments = project.with_name("experiments")
    shutil.copytree(project, experiments, ignore=shutil.ignore_patterns(".dvc"))
    (experiments / "params.yaml").write_text("trial: 0\n", encoding="utf-8")
    with (experiments / "dvc.yaml").open("a", encoding="utf-8") as pipeline:
        pipeline.write("  nothing: {cmd: 'true', params: [trial]}\n")
    git = ["git", "-c", "user.name=bench", "-c", "user.email=bench"]
    for arguments in (
        [*git, "init", "--quiet"],
        [dvc, "init", "--quiet"],
        [dvc, "config", "core.analytics", "false"],
        [dvc, "repro", "--quiet"],
        [*git, "add", "."],
        [*git, "commit", "--quiet", "--message", "pipeline"],
    ):
        command(arguments, experiments)
    return experiments


def _multiply_record(scratch: Path, records: int) -> None:
    """Copies of one record, each a run of its own."""
    record = newest_run(scratch / "runs")
    for number in range(records):
        shutil.copytree(record, scratch / "many" / f"{record.name}-{number:04}", symlinks=True)
