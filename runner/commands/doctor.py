"""`runner doctor`: what a machine has (runner/execute/probe.py), what a recipe needs, and how to mend it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from runner import targets
from runner.commands.tables import terminal
from runner.compose.recipe import compose, groups
from runner.compose.schema import Recipe, Sdk
from runner.errors import RecipeError
from runner.execute import probe as machine_probe
from runner.execute import requirements
from runner.plan import build as plan
from runner.plan.checks import feasibility, memory
from runner.plan.checks.feasibility import gib
from runner.plan.command import Place
from runner.plan.model import Plan
from runner.targets.finding import Finding

_PROBE = Path(machine_probe.__file__)
_OLDEST_PYTHON = (3, 10)
_COLOURS = {"ok": "green", "warning": "yellow", "error": "red"}

Report = Mapping[str, Any]  # what runner/execute/probe.py printed


@dataclass(frozen=True)
class Patient:
    """A recipe, the place where it would run, and what is known of it: its plan and its needs, if they can be told."""

    recipe: Recipe
    place: Place
    plan: Plan | None = None
    needs: memory.Estimate | None = None

    @property
    def port(self) -> int | None:
        """The port that the server of the plan listens on, if it has one."""
        words = next((step.argv for step in self.plan.steps if step.stage == "serve"), ()) if self.plan else ()
        return int(words[words.index("--port") + 1]) if "--port" in words else self.recipe.serve.port


def examine(recipe: Recipe) -> list[Finding]:
    """Everything that is, or is not, in the way of the recipe on the machine where it would run."""
    target = targets.of(recipe.target)
    patient, findings = ask(recipe, target.place(recipe))
    if patient.plan:
        findings += target.findings(patient.plan)
    report = target.probe(_PROBE, probe_flags(patient))
    return [*findings, *(compare(patient, json.loads(report)) if report else [])]


def ask(recipe: Recipe, place: Place) -> tuple[Patient, list[Finding]]:
    """What can be said before any machine is looked at."""
    target = targets.of(recipe.target)
    try:
        architecture = feasibility.architecture_of(recipe)
        problems = [*target.problems(recipe), *feasibility.problems(recipe)]
    except RecipeError as error:
        return Patient(recipe, place), [Finding("error", "recipe", str(error))]
    if problems:
        return Patient(recipe, place), [Finding("error", "recipe", problem) for problem in problems]
    needs = feasibility.estimate(recipe, architecture) if architecture else None
    try:
        return Patient(recipe, place, target.assign(plan.build(recipe, place)), needs), list(_recipe(recipe, needs))
    except RecipeError as error:
        return Patient(recipe, place, None, needs), [Finding("error", "recipe", str(error))]


def probe_flags(patient: Patient) -> list[str]:
    """The flags of runner/execute/probe.py that ask a machine for what the recipe needs."""
    words = ["--store", str(patient.place.store), "--host", patient.recipe.serve.host]
    words += [word for python in _pythons(patient) for word in ("--python", python)]
    words += [word for port in _meeting_ports(patient) for word in ("--any-port", str(port))]
    words += ["--port", str(patient.port)] if patient.port else []
    return words + (["--model", patient.recipe.model.path] if patient.recipe.model.source == "hub" else [])


def compare(patient: Patient, report: Report) -> list[Finding]:
    """What a machine's report says about a recipe."""
    return [finding for look in _LOOKS for finding in look(patient, report)]


def show(findings: list[Finding], console: Console) -> None:
    """Print a line for each finding."""
    for finding in findings:
        words = finding.says + (f"; {finding.todo}" if finding.todo else "")
        line = Text.assemble((f"{finding.level:8}", _COLOURS[finding.level]), f"{finding.about:12}", words)
        console.print(line, soft_wrap=True, highlight=False)


def as_json(findings: list[Finding]) -> str:
    return json.dumps([asdict(finding) for finding in findings], indent=2)


def status(findings: list[Finding]) -> int:
    """The exit status: 0 when nothing is in the way."""
    return int(any(finding.level == "error" for finding in findings))


def _recipe(recipe: Recipe, needs: memory.Estimate | None) -> Iterator[Finding]:
    where = "rank" if recipe.hardware.device == "cpu" else "core"
    says = f"training needs about {gib(needs.core)} of memory a {where}" if needs else "its needs are not known"
    yield Finding("ok", "recipe", says)


def _pythons(patient: Patient) -> dict[str, list[str]]:
    """The environments that the plan's steps run in, with what each must hold."""
    found: dict[str, list[str]] = {}
    for step in patient.plan.steps if patient.plan else ():
        for python, texts in step.packages.items():
            found.setdefault(python, []).extend(texts)
    return found


def _python(patient: Patient, report: Report) -> Iterator[Finding]:
    version = tuple(int(part) for part in report["python"].split(".")[:2])
    if version < _OLDEST_PYTHON:
        yield Finding("error", "python", f"{report['python']} is too old", "have Python 3.10 or newer on the PATH")
    else:
        yield Finding("ok", "python", report["python"])


def _neuron(patient: Patient, report: Report) -> Iterator[Finding]:
    recipe, found = patient.recipe, report["neuron"]
    hardware, processes = recipe.hardware, recipe.parallel.tp_size * recipe.parallel.dp_size
    if hardware.device == "cpu":
        return
    if "error" in found:
        yield Finding(
            "error", "neuron", found["error"],
            f"run on {hardware.name} with the Neuron AMI, or rehearse with hardware=cpu",
        )  # fmt: skip
        return
    cores, about = found["cores"], f"{found['cores']} cores, driver {found['driver'] or 'of unknown version'}"
    if cores < processes:
        yield Finding("error", "neuron", f"{about}; the recipe trains on {processes}", "take a smaller tp_size")
    elif hardware.cores and cores != hardware.cores:
        yield Finding("warning", "neuron", f"{about}; {hardware.name} has {hardware.cores}", "check hardware=")
    else:
        yield Finding("ok", "neuron", about)
    yield from _hbm(hardware.core_memory_gb, found["memory"] / cores if cores else 0)
    for pid, command in found["processes"].items():
        yield Finding("warning", "neuron", f"process {pid} holds cores: {command}", f"end it: kill {pid}")


def _hbm(expected: float | None, there: float) -> Iterator[Finding]:
    if expected and there < 0.95 * expected * memory.GIB:
        yield Finding("error", "neuron", f"a core has {gib(there)}, not {expected:g} GiB",
                      f"check hardware=, or set hardware.core_memory_gb={there / memory.GIB:g}")  # fmt: skip


def _environments(patient: Patient, report: Report) -> Iterator[Finding]:
    for python, needed in _pythons(patient).items():
        found = report["environments"][python]
        if "error" in found:
            there = ", ".join(report["installed"]) or "none"
            yield Finding("error", "environment", f"{python}: {found['error']}",
                          f"choose the sdk of this machine (it has {there}), or set sdk.train_python")  # fmt: skip
            continue
        packages = {**found["packages"], requirements.PYTHON: found["version"]}
        wrong = list(requirements.unmet(needed, packages))
        for requirement, said in wrong:
            yield Finding("error", "packages", f"{python}: {said}", _install(patient.recipe.sdk, python, requirement))
        if not wrong:
            names = {requirements.parsed(text)[0] for text in needed} - {requirements.PYTHON}
            says = f"{python}: Python {found['version']}, {len(names)} packages as needed"
            yield Finding("ok", "environment", says)
        if python == patient.place.python:
            yield from _unexpected(patient.recipe.sdk, python, packages)


def _unexpected(sdk: Sdk, python: str, packages: Mapping[str, str]) -> Iterator[Finding]:
    """What the release notes say otherwise; their pages disagree, so the machine is right."""
    for _, said in requirements.unmet(sdk.train_packages_expected, packages):
        yield Finding(
            "warning", "packages", f"{python}: {said}, as the notes of Neuron {sdk.name} say",
            "with another neuronx-distributed, train.nxd.release=RELEASE takes its modelling code",
        )  # fmt: skip


def _install(sdk: Sdk, python: str, requirement: str) -> str:
    """Packages of the SDK come with its AMI; the others are pip's."""
    name, _ = requirements.parsed(requirement)
    if name == requirements.PYTHON:
        return "set sdk.train_python to another Python"
    if sdk.vllm_install and name == "vllm":
        return sdk.vllm_install
    if name in {requirements.parsed(text)[0] for text in (*sdk.train_packages, *sdk.serve_packages)}:
        return f"choose the sdk that this machine has, or start the AMI of Neuron {sdk.name}"
    return f"run: {python} -m pip install '{requirement}'"


def _disk(patient: Patient, report: Report) -> Iterator[Finding]:
    there = report["store"]
    if not there["writable"]:
        yield Finding("error", "disk", f"{there['path']}: not writable", "set paths.store to a folder of yours")
    if not patient.needs:
        return
    keys = {step.stage: step.key for step in patient.plan.steps} if patient.plan else {}
    need = sum(size for stage, size in patient.needs.disk.items() if keys.get(stage) not in there["objects"])
    says = f"{there['path']}: about {gib(need)} needed, {gib(there['free'])} free"
    if need > there["free"]:
        yield Finding("error", "disk", says, "set paths.store to a larger disk, or free it: runner gc --days 30")
    else:
        yield Finding("ok", "disk", says)


def _memory(patient: Patient, report: Report) -> Iterator[Finding]:
    needs, there = patient.needs, report["memory"]
    if not needs or not there:
        return
    stage, need = needs.peak_stage, needs.host[needs.peak_stage]
    says = f"{stage} needs about {gib(need)}, {gib(there['available'])} of {gib(there['total'])} are free"
    if need > there["total"]:
        yield Finding("error", "memory", says, feasibility.HOST_ADVICE[stage])
    elif need > there["available"]:
        yield Finding("warning", "memory", says, "end other programs")
    else:
        yield Finding("ok", "memory", says)


def _ports(patient: Patient, report: Report) -> Iterator[Finding]:
    for port, free in report["ports"].items():
        if free:
            yield Finding("ok", "port", f"{port} is free")
        else:
            yield Finding("error", "port", f"{port} is taken", f"end what listens there (ss -ltnp 'sport = :{port}'), "
                          "or set serve.port")  # fmt: skip


def _meeting_ports(patient: Patient) -> list[int]:
    """Fixed ports that the training listens on."""
    return sorted({port for step in patient.plan.steps for port in step.ports}) if patient.plan else []


def _meeting(patient: Patient, report: Report) -> Iterator[Finding]:
    """Whether the training finds its ports: free now, and not handed out to any connection meanwhile."""
    wanted = _meeting_ports(patient)
    if not wanted:
        return
    for port in wanted:
        if not report["any_ports"][str(port)]:
            yield Finding("error", "port", f"{port}: in use, and the training listens there",
                          f"end what has it: ss -anp 'sport = :{port}'")  # fmt: skip
    loose = [port for port in wanted if _handed_out(port, report["handed_out"])]
    if loose:
        every = ",".join(map(str, loose))
        yield Finding("warning", "port", f"{every}: may be handed out to any connection before the training listens",
                      f"run: sudo sysctl -w net.ipv4.ip_local_reserved_ports={every}")  # fmt: skip
    else:
        yield Finding("ok", "port", f"{', '.join(map(str, wanted))}: kept for the training")


def _handed_out(port: int, handed_out: Mapping[str, Any] | None) -> bool:
    if not handed_out:
        return False
    first, last = handed_out["range"]
    return first <= port <= last and not any(low <= port <= high for low, high in handed_out["reserved"])


def _hub(patient: Patient, report: Report) -> Iterator[Finding]:
    found, model = report.get("hub"), patient.recipe.model.path
    if not found:
        return
    where = f"{found['endpoint']}/{model}"
    if found["token"] and found.get("user"):
        yield Finding("ok", "token", f"{found['token']}: {found['user']}")
    elif found["token"] and "user" in found:
        yield Finding("error", "token", f"{found['token']}: the hub does not accept it",
                      f"make a new one at {found['endpoint']}/settings/tokens")  # fmt: skip
    elif not found["token"]:
        yield Finding("warning", "token", "none: HF_TOKEN is not set", "set it where the model is gated or private")
    if "error" in found:
        yield Finding(
            "warning",
            "hub",
            f"{where}: not reached: {found['error']}",
            "check the network or HF_ENDPOINT, or use a local copy: model.source=folder model.path=FOLDER",
        )
    elif found["status"] == 200:
        yield Finding("ok", "hub", f"{where}: readable")
    elif found["code"] == "GatedRepo":
        yield Finding("error", "hub", f"{where}: its licence is not accepted", f"accept it at {where} and set HF_TOKEN")
    elif found["status"] in (401, 403, 404):
        yield Finding("error", "hub", f"{where}: no such model, or private", "check model.path, and set HF_TOKEN")
    else:
        yield Finding("warning", "hub", f"{where}: the hub answered {found['status']}", "try again later")


_LOOKS = (_python, _neuron, _environments, _disk, _memory, _ports, _meeting, _hub)


def add_doctor(parser: argparse.ArgumentParser) -> None:
    """A recipe, by default quickstart, and where it would run."""
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.add_argument("--target", choices=groups()["target"], help="check where this target would run it")
    parser.add_argument("recipe", nargs="?", default="quickstart", help="a recipe (default: quickstart)")
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="such as hardware=trn2")
    parser.set_defaults(command=_doctor)


def _doctor(args: argparse.Namespace) -> int:
    target = [f"target={args.target}"] if args.target else []
    recipe = compose(args.recipe, [*args.overrides, *target]).recipe
    findings = examine(recipe)
    print(as_json(findings)) if args.json else show(findings, terminal())
    return status(findings)
