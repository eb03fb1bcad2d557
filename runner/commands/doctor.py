"""`runner doctor`: compare what a machine has (runner/execute/probe.py) with what a recipe needs; suggest fixes."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from runner import targets
from runner.commands import bundle
from runner.commands.tables import say, terminal
from runner.compose.recipe import compose
from runner.compose.schema import Recipe, Sdk
from runner.errors import RecipeError
from runner.execute import probe as machine_probe
from runner.execute import requirements
from runner.plan import build as plan
from runner.plan.checks import feasibility, memory
from runner.plan.checks.feasibility import gib
from runner.plan.command import Place
from runner.plan.model import Plan
from runner.record.runs import every, find
from runner.targets.finding import Finding

_PROBE = Path(machine_probe.__file__)
_OLDEST_PYTHON = (3, 10)
_COLOURS = {"ok": "green", "warning": "yellow", "error": "red"}

Report = Mapping[str, Any]  # what runner/execute/probe.py printed


@dataclass(frozen=True)
class CheckContext:
    """A recipe and the place where it would run, with its plan and its resource needs where these are known."""

    recipe: Recipe
    place: Place
    plan: Plan | None = None
    needs: memory.Estimate | None = None

    @property
    def port(self) -> int | None:
        """The port that the plan's server listens on, or None."""
        args = next((step.argv for step in self.plan.steps if step.stage == "serve"), ()) if self.plan else ()
        return int(args[args.index("--port") + 1]) if "--port" in args else self.recipe.serve.port


def examine(recipe: Recipe) -> tuple[list[Finding], Report | None]:
    """Check whether the recipe can run on the machine of its target: one finding for each thing checked.

    Also what that machine says of itself; None where no machine can be examined before a run.
    """
    target = targets.of(recipe.target)
    located, place = target.locate(recipe)
    context, findings = check_recipe(located, place)
    if place.preview:
        findings = [replace(one, says=place.preview.as_written(one.says)) for one in findings]
    if context.plan:
        findings += target.findings(context.plan)
    answer = target.probe(_PROBE, probe_flags(context))
    report = json.loads(answer) if answer else None
    return [*findings, *(compare(context, report) if report else [])], report


def check_recipe(recipe: Recipe, place: Place) -> tuple[CheckContext, list[Finding]]:
    """The checks that need no machine, and the context for those that do."""
    target = targets.of(recipe.target)
    try:
        architecture = feasibility.architecture_of(recipe)
        problems = [*target.problems(recipe), *feasibility.problems(recipe)]
    except RecipeError as error:
        return CheckContext(recipe, place), [Finding("error", "recipe", str(error))]
    if problems:
        return CheckContext(recipe, place), [Finding("error", "recipe", problem) for problem in problems]
    needs = feasibility.estimate(recipe, architecture) if architecture else None
    try:
        return CheckContext(recipe, place, target.assign(plan.build(recipe, place)), needs), list(
            _recipe(recipe, needs)
        )
    except RecipeError as error:
        return CheckContext(recipe, place, None, needs), [Finding("error", "recipe", str(error))]


def probe_flags(context: CheckContext) -> list[str]:
    """The flags that make runner/execute/probe.py report what the recipe needs."""
    args = ["--store", str(context.place.store), "--host", context.recipe.serve.host]
    args += [arg for python in _pythons(context) for arg in ("--python", python)]
    args += [arg for port in _rendezvous_ports(context) for arg in ("--any-port", str(port))]
    args += ["--port", str(context.port)] if context.port else []
    return args + (["--model", context.recipe.model.path] if context.recipe.model.source == "hub" else [])


def compare(context: CheckContext, report: Report) -> list[Finding]:
    """The findings that follow from a machine's report."""
    return [finding for check in _CHECKS for finding in check(context, report)]


def show(findings: list[Finding], console: Console) -> None:
    """Print a line for each finding."""
    for finding in findings:
        say(console, _line(finding), indent=20)


def _line(finding: Finding) -> Text:
    text = finding.says + (f"; {finding.todo}" if finding.todo else "")
    return Text.assemble((f"{finding.level:8}", _COLOURS[finding.level]), f"{finding.about:12}", text)


def as_json(findings: list[Finding]) -> str:
    """The findings as a JSON list."""
    return json.dumps([asdict(finding) for finding in findings], indent=2)


def status(findings: list[Finding]) -> int:
    """The exit status: 1 if a finding is an error, else 0."""
    return int(any(finding.level == "error" for finding in findings))


def _recipe(recipe: Recipe, needs: memory.Estimate | None) -> Iterator[Finding]:
    where = "rank" if recipe.hardware.device == "cpu" else "core"
    says = f"training needs about {gib(needs.core)} of memory per {where}" if needs else "memory needs are unknown"
    yield Finding("ok", "recipe", says)


def _pythons(context: CheckContext) -> dict[str, list[str]]:
    """Each Python environment of the plan's steps, with the packages that it needs."""
    found: dict[str, list[str]] = {}
    for step in context.plan.steps if context.plan else ():
        for python, texts in step.packages.items():
            found.setdefault(python, []).extend(texts)
    return found


def _python(context: CheckContext, report: Report) -> Iterator[Finding]:
    version = tuple(int(part) for part in report["python"].split(".")[:2])
    if version < _OLDEST_PYTHON:
        yield Finding("error", "python", f"{report['python']} is too old", "have Python 3.10 or newer on the PATH")
    else:
        yield Finding("ok", "python", report["python"])


def _neuron(context: CheckContext, report: Report) -> Iterator[Finding]:
    recipe, found = context.recipe, report["neuron"]
    hardware, processes = recipe.hardware, recipe.parallel.tp_size * recipe.parallel.dp_size
    if hardware.device == "cpu":
        return
    if "error" in found:
        yield Finding(
            "error", "neuron", found["error"],
            f"run on {hardware.name} with the Neuron AMI, or rehearse with hardware=cpu",
        )  # fmt: skip
        return
    cores, about = found["cores"], f"{found['cores']} cores, driver {found['driver'] or 'version unknown'}"
    if cores < processes:
        yield Finding("error", "neuron", f"{about}; the recipe trains on {processes}", "use a smaller tp_size")
    elif hardware.cores and cores != hardware.cores:
        yield Finding("warning", "neuron", f"{about}; {hardware.name} has {hardware.cores}", "check hardware=")
    else:
        yield Finding("ok", "neuron", about)
    yield from _hbm(hardware.core_memory_gb, found["memory"] / cores if cores else 0)
    for pid, command in found["processes"].items():
        yield Finding("warning", "neuron", f"process {pid} uses cores: {command}", f"stop it: kill {pid}")


def _hbm(expected: float | None, actual: float) -> Iterator[Finding]:
    if expected and actual < 0.95 * expected * memory.GIB:
        yield Finding("error", "neuron", f"a core has {gib(actual)}, not {expected:g} GiB",
                      f"check hardware=, or set hardware.core_memory_gb={actual / memory.GIB:g}")  # fmt: skip


def _environments(context: CheckContext, report: Report) -> Iterator[Finding]:
    for python, needed in _pythons(context).items():
        found = report["environments"][python]
        if "error" in found:
            installed = ", ".join(report["installed"]) or "none"
            yield Finding("error", "environment", f"{python}: {found['error']}",
                          f"choose the sdk of this machine (it has {installed}), or set sdk.train_python")  # fmt: skip
            continue
        packages = {**found["packages"], requirements.PYTHON: found["version"]}
        unmet = list(requirements.unmet(needed, packages))
        for requirement, problem in unmet:
            yield Finding(
                "error", "packages", f"{python}: {problem}", _install(context.recipe.sdk, python, requirement)
            )
        if not unmet:
            names = {requirements.parsed(text)[0] for text in needed} - {requirements.PYTHON}
            says = f"{python}: Python {found['version']}, {len(names)} required packages installed"
            yield Finding("ok", "environment", says)
        if python == context.place.python:
            yield from _unexpected(context.recipe.sdk, python, packages)


def _unexpected(sdk: Sdk, python: str, packages: Mapping[str, str]) -> Iterator[Finding]:
    """Versions other than in the release notes: only warnings, as the pages of the notes contradict each other."""
    for _, problem in requirements.unmet(sdk.train_packages_expected, packages):
        yield Finding(
            "warning", "packages", f"{python}: {problem} by the release notes of Neuron {sdk.name}",
            "with another neuronx-distributed, train.nxd.release=RELEASE selects its modelling code",
        )  # fmt: skip


def _install(sdk: Sdk, python: str, requirement: str) -> str:
    """How to install a package: those of the SDK come with its AMI, the others from pip."""
    name, _ = requirements.parsed(requirement)
    if name == requirements.PYTHON:
        return "set sdk.train_python to another Python"
    if sdk.vllm_install and name == "vllm":
        return sdk.vllm_install
    if name in {requirements.parsed(text)[0] for text in (*sdk.train_packages, *sdk.serve_packages)}:
        return f"choose the sdk that this machine has, or start the AMI of Neuron {sdk.name}"
    return f"run: {python} -m pip install '{requirement}'"


def _disk(context: CheckContext, report: Report) -> Iterator[Finding]:
    store = report["store"]
    if not store["writable"]:
        yield Finding(
            "error", "disk", f"{store['path']}: not writable", "set paths.store to a folder that you can write to"
        )
    if not context.needs:
        return
    keys = {step.stage: step.key for step in context.plan.steps} if context.plan else {}
    need = sum(size for stage, size in context.needs.disk.items() if keys.get(stage) not in store["objects"])
    says = f"{store['path']}: about {gib(need)} needed, {gib(store['free'])} free"
    if need > store["free"]:
        yield Finding(
            "error", "disk", says, "set paths.store to a larger disk, or free some space: runner gc --days 30"
        )
    else:
        yield Finding("ok", "disk", says)


def _memory(context: CheckContext, report: Report) -> Iterator[Finding]:
    needs, host = context.needs, report["memory"]
    if not needs or not host:
        return
    stage, need = needs.peak_stage, needs.host[needs.peak_stage]
    says = f"{stage} needs about {gib(need)}, {gib(host['available'])} of {gib(host['total'])} are free"
    if need > host["total"]:
        yield Finding("error", "memory", says, memory.HOST_ADVICE[stage])
    elif need > host["available"]:
        yield Finding("warning", "memory", says, "stop other programs")
    else:
        yield Finding("ok", "memory", says)


def _ports(context: CheckContext, report: Report) -> Iterator[Finding]:
    for port, free in report["ports"].items():
        if free:
            yield Finding("ok", "port", f"{port} is free")
        else:
            yield Finding("error", "port", f"{port} is in use", f"stop its listener (ss -ltnp 'sport = :{port}'), "
                          "or set serve.port")  # fmt: skip


def _rendezvous_ports(context: CheckContext) -> list[int]:
    """The fixed ports that training listens on."""
    return sorted({port for step in context.plan.steps for port in step.ports}) if context.plan else []


def _rendezvous(context: CheckContext, report: Report) -> Iterator[Finding]:
    """Whether the ports of training are free, and stay so: the kernel may give them to any outgoing connection."""
    ports = _rendezvous_ports(context)
    if not ports:
        return
    for port in ports:
        if not report["any_ports"][str(port)]:
            yield Finding("error", "port", f"{port}: in use, but training must listen on it",
                          f"stop what uses it: ss -anp 'sport = :{port}'")  # fmt: skip
    ephemeral = [port for port in ports if _is_ephemeral(port, report["handed_out"])]
    if ephemeral:
        listed = ",".join(map(str, ephemeral))
        yield Finding("warning", "port", f"{listed}: the kernel may give it to a connection before training listens",
                      f"run: sudo sysctl -w net.ipv4.ip_local_reserved_ports={listed}")  # fmt: skip
    else:
        yield Finding("ok", "port", f"{', '.join(map(str, ports))}: reserved for training")


def _is_ephemeral(port: int, handed_out: Mapping[str, Any] | None) -> bool:
    if not handed_out:
        return False
    first, last = handed_out["range"]
    return first <= port <= last and not any(low <= port <= high for low, high in handed_out["reserved"])


def _hub(context: CheckContext, report: Report) -> Iterator[Finding]:
    found, model = report.get("hub"), context.recipe.model.path
    if not found:
        return
    where = f"{found['endpoint']}/{model}"
    if found["token"] and found.get("user"):
        yield Finding("ok", "token", f"{found['token']}: {found['user']}")
    elif found["token"] and "user" in found:
        yield Finding("error", "token", f"{found['token']}: the hub rejects it",
                      f"create a new one at {found['endpoint']}/settings/tokens")  # fmt: skip
    elif not found["token"]:
        yield Finding("warning", "token", "none: HF_TOKEN is not set", "set it if the model is gated or private")
    if "error" in found:
        yield Finding(
            "warning",
            "hub",
            f"{where}: cannot be reached: {found['error']}",
            "check the network or HF_ENDPOINT, or use a local copy: model.source=folder model.path=FOLDER",
        )
    elif found["status"] == 200:
        yield Finding("ok", "hub", f"{where}: readable")
    elif found["code"] == "GatedRepo":
        yield Finding(
            "error", "hub", f"{where}: you have not accepted its licence", f"accept it at {where} and set HF_TOKEN"
        )
    elif found["status"] in (401, 403, 404):
        yield Finding("error", "hub", f"{where}: no such model, or private", "check model.path, and set HF_TOKEN")
    else:
        yield Finding("warning", "hub", f"{where}: the hub answered {found['status']}", "try again later")


_CHECKS = (_python, _neuron, _environments, _disk, _memory, _ports, _rendezvous, _hub)


def doctor_command(args: argparse.Namespace) -> int:
    """Examine a machine for a recipe, or write the bundle of a run."""
    if args.bundle:
        return _write_bundle(args)
    if args.run:
        raise RecipeError("--run: only with --bundle; to check a recipe, name it: runner doctor RECIPE")
    findings, _ = examine(_composed(args))
    print(as_json(findings)) if args.json else show(findings, terminal())
    return status(findings)


def _composed(args: argparse.Namespace) -> Recipe:
    target = [f"target={args.target}"] if args.target else []
    return compose(args.recipe or "quickstart", [*args.overrides, *target]).recipe


def _write_bundle(args: argparse.Namespace) -> int:
    run = find(args.run or "last", args.folder) if args.run or every(args.folder) else None
    if run and not args.recipe:
        findings, report = _try_to_examine(run.typed_recipe)
    else:
        recipe = _composed(args)
        findings, report = _try_to_examine(lambda: recipe)
    show(findings, terminal())
    lines = "\n".join(_line(finding).plain for finding in findings)
    print(f"bundle  {bundle.write(lines, report, run)}: read it, then send it")
    return status(findings)


def _try_to_examine(recipe: Callable[[], Recipe]) -> tuple[list[Finding], Report | None]:
    """As `examine`; a machine that cannot be reached, or a damaged record, is a finding."""
    try:
        return examine(recipe())
    except RecipeError as error:
        return [Finding("error", "target", str(error))], None
