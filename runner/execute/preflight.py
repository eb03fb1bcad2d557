"""What can be checked on this machine before the first step starts. Standard library alone."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from runner.execute import cores, probe, requirements
from runner.execute.process import StepFailed


def check_packages(steps: Sequence[Mapping[str, Any]]) -> None:
    """Raise StepFailed where an environment lacks a package that a step will import there."""
    needed: dict[str, list[str]] = {}
    for step in steps:
        for python, texts in step.get("packages", {}).items():
            needed.setdefault(python, []).extend(texts)
    for python, texts in needed.items():
        problems = _package_problems(python, texts)
        if problems:
            stage = next(step["stage"] for step in steps if python in step.get("packages", {}))
            raise StepFailed(stage, 2, f"{python}: {'; '.join(problems)} ({_advice(python)})")


def _advice(python: str) -> str:
    """What to do about missing packages: all that a CPU needs can be installed beside the runner."""
    if python == sys.executable:
        return "pip install 'trainium-recipes[train]' installs what the stages need on a CPU; [s3] adds s3://"
    return "`runner doctor` says what to do"


def _package_problems(python: str, needed: Sequence[str]) -> list[str]:
    environment = probe.environment(python)
    if "error" in environment:
        return [environment["error"]]
    installed = {**environment["packages"], requirements.PYTHON: environment["version"]}
    return [problem for _, problem in requirements.unmet(needed, installed)]


def check_ports(steps: Sequence[Mapping[str, Any]]) -> None:
    """Raise StepFailed where another program listens on a port that a step needs.

    Not while a run holds NeuronCores of this machine: the port may be that run's, and is free once its cores are.
    """
    for step in steps:
        if step.get("ports") and not cores.holders(step["cores"]["of"]):
            for port in step["ports"]:
                check_port(step["stage"], port)


def check_port(stage: str, port: int) -> None:
    """Raise StepFailed if a program listens on the port, on any address of this machine."""
    if not probe.is_free("0.0.0.0", port):
        raise StepFailed(
            stage, 2, f"port {port} is in use, but Neuron's training listens there: end the program that has it "
            f"(ss -anp 'sport = :{port}'); `runner doctor` says how to keep it free",
        )  # fmt: skip
