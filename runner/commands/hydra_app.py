"""`runner run` with Hydra's own flags: -m starts a sweep; --cfg, --info, --help and the rest are passed to Hydra."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig

from runner.commands.lifecycle import run
from runner.commands.sweep import sweep
from runner.commands.tables import terminal
from runner.compose.overrides import check_overrides, hydra_overrides
from runner.compose.recipe import from_hydra, locate, one_line, prepare_hydra
from runner.errors import RecipeError, did_you_mean

_FLAGS = (
    "-m", "--multirun", "-c", "--cfg", "--resolve", "-p", "--package", "-i", "--info", "-h", "--help", "--hydra-help",
)  # fmt: skip

_ALL_FLAGS = (*_FLAGS, "--detach", "--quiet")


def main(name: str, args: Sequence[str], quiet: bool = False) -> int:
    """Run the recipe `name` as a Hydra application with `args`, flags and overrides, as its command line."""
    source = locate(name)
    flags, overrides = _split(args)
    _check_flags(flags)
    check_overrides(overrides, source)
    if not {"-m", "--multirun"}.isdisjoint(flags):
        return _sweep(source, flags, overrides, quiet)
    prepare_hydra()
    _allow_late_help()
    statuses: list[int] = []

    def job(config: DictConfig) -> None:
        statuses.append(_run_job(config, source, quiet))

    sys.argv = ["runner", *flags, *hydra_overrides(overrides)]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors are raised, so that the command prints them in one line
    try:
        hydra.main(config_path=str(source.parent), config_name=source.name, version_base="1.3")(job)()
    except HydraException as error:
        raise RecipeError(f"command line: {one_line(error)}") from error
    return max(statuses, default=0)


def _allow_late_help() -> None:
    """Hydra 1.3 declares a flag whose help becomes a text when it is printed; argparse of Python 3.14 refuses that."""
    argparse.ArgumentParser._check_help = lambda *_: None  # type: ignore[attr-defined]


def _sweep(source: Path, flags: Sequence[str], overrides: Sequence[str], quiet: bool) -> int:
    others = [flag for flag in flags if flag not in ("-m", "--multirun")]
    if others:
        raise RecipeError(f"command line: {' '.join(others)}: cannot be combined with -m")
    return sweep.sweep(source, overrides, terminal(), quiet)


def _check_flags(flags: Sequence[str]) -> None:
    """Reject other flags: Hydra accepts abbreviations, and flags that would change our folders and names."""
    for flag in (arg.partition("=")[0] for arg in flags if arg.startswith("-")):
        if flag not in _FLAGS:
            raise RecipeError(f"command line: {flag}: no such flag; {did_you_mean(flag, _ALL_FLAGS)}")


def _split(args: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separate the flags and their values from the overrides: Hydra expects flags first."""
    overrides = [arg for arg in args if not arg.startswith("-") and ("=" in arg or arg.startswith("~"))]
    return [arg for arg in args if arg not in overrides], overrides


def _run_job(config: DictConfig, source: Path, quiet: bool) -> int:
    try:
        return run(from_hydra(config, HydraConfig.get(), source), terminal(), quiet=quiet)
    except RecipeError as error:
        print(f"runner: {error}", file=sys.stderr)
        return 2
