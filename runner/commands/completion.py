"""Shell completion for bash and zsh: recipes, options, keys and runs."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import argcomplete
from argcomplete.completers import FilesCompleter
from argcomplete.shell_integration import shellcode

from runner.compose.groups import list_groups, recipe_names
from runner.errors import RecipeError
from runner.execute.run_folder import SWEEP

_STARTUP = {"bash": ".bashrc", "zsh": ".zshrc"}


def answer(parser: argparse.ArgumentParser) -> None:
    """If the shell asks for completions, print them and exit."""
    argcomplete.autocomplete(parser)


def install(home: Path) -> str:
    """Install completion for the user's shell. Returns a message. Raises RecipeError unless it is bash or zsh."""
    shell = Path(os.environ.get("SHELL", "")).name
    if shell not in _STARTUP:
        raise RecipeError(f"completion: SHELL={shell or 'not set'}: only {' and '.join(_STARTUP)} are supported")
    script = home / ".local" / "share" / "trainium-recipes" / "completion.sh"
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text(shellcode(["runner"]), encoding="utf-8")
    startup, line = home / _STARTUP[shell], f'source "{script}"\n'
    before = startup.read_text(encoding="utf-8") if startup.exists() else ""
    if line not in before:
        separator = "" if before.endswith("\n") or not before else "\n"
        startup.write_text(f"{before}{separator}{line}", encoding="utf-8")
    return f"{startup} loads {script}; open a new shell, or: source {script}"


def recipes(prefix: str, **_: Any) -> Iterable[str]:
    """Names of recipes, and YAML files."""
    return [*recipe_names(), *FilesCompleter(("yaml",))(prefix)]


def overrides(prefix: str, **_: Any) -> Iterable[str]:
    """`group=option` and `key=`."""
    groups = list_groups()
    name, equals, _option = prefix.partition("=")
    if equals:
        return [f"{name}={option}" for option in groups.get(name, [])]
    from runner.compose.schema import Recipe  # its import takes longer than all else that a shell waits for
    from runner.compose.validate import keys, section_of

    return [f"{name}=" for name in [*groups, *(key for key, _, hint in keys(Recipe) if not section_of(hint))]]


def served(prefix: str, parsed_args: argparse.Namespace, **_: Any) -> Iterable[str]:
    """Recipes, runs and the settings of a server."""
    settings = [override for override in overrides(prefix) if override.startswith("serve")]
    return [*recipe_names(), *run_names(prefix, parsed_args), *settings]


def run_names(prefix: str, parsed_args: argparse.Namespace, **_: Any) -> Iterable[str]:
    """Names of recorded runs."""
    from runner.record import runs

    return ["last", *(run.name for run in runs.recorded(parsed_args.folder))]


def sweep_names(prefix: str, parsed_args: argparse.Namespace, **_: Any) -> Iterable[str]:
    """Names of recorded sweeps."""
    return ["last", *(file.parent.name for file in (parsed_args.folder / "sweeps").glob(f"*/{SWEEP}"))]


def completion_command(_: argparse.Namespace) -> int:
    """Set up completion."""
    print(install(Path.home()))
    return 0
