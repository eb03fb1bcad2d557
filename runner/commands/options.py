"""`runner options`: every option and key of a recipe, with its help."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import typing
from typing import Any

from rich.console import Console
from rich.table import Table

from runner.commands import tables
from runner.commands.tables import terminal
from runner.compose.groups import list_groups, option_file
from runner.compose.json_schema import json_schema
from runner.compose.schema import Recipe
from runner.compose.validate import keys, section_of
from runner.errors import RecipeError, did_you_mean

# Groups that set keys of a section with another name.
_SECTIONS = {"tp_size": "parallel", "epochs": "train"}


def show(group: str | None, console: Console) -> None:
    """Print the options of all groups, or those of one with its keys; of a section without options, the keys alone.

    Raises RecipeError if there is no such group or section.
    """
    groups = list_groups()
    sections = {field.name for field in dataclasses.fields(Recipe) if field.name != "name"}
    if group is not None and group not in groups.keys() | sections:
        raise RecipeError(f"{group}: no such group; {did_you_mean(group, sorted(groups.keys() | sections))}")
    for name in [group] if group else groups:
        console.print(f"[bold]{name}[/bold]")
        _print_options(name, groups.get(name, []), console)
    if group:
        console.print(_keys(_SECTIONS.get(group, group)))


def _print_options(group: str, options: list[str], console: Console) -> None:
    width = max(map(len, options), default=0)
    for option in sorted(options, key=lambda option: (len(option), option) if option.isdigit() else (0, option)):
        line = f"  {group}={option:<{width}}  {purpose(group, option)}".rstrip()
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def purpose(group: str, option: str) -> str:
    """The comment at the top of an option's file, after its @package line, to the first line that ends a sentence."""
    lines = option_file(group, option).read_text(encoding="utf-8").splitlines()
    described = (line for line in lines if "@package" not in line)
    said: list[str] = []
    for line in itertools.takewhile(lambda line: line.startswith("# "), described):
        said.append(line.removeprefix("# "))
        if line.endswith((".", ".)")):
            break
    return " ".join(said)


def _keys(section: str) -> Table:
    table = tables.table("key", "default", "type", "description")
    for key, field, hint in keys(Recipe):
        if key.startswith(f"{section}.") and not section_of(hint):
            cells = (key, _default(field), _type(hint, field.metadata), field.metadata["help"])
            table.add_row(*cells)
    return table


def _default(field: dataclasses.Field) -> str:
    factory = field.default_factory
    return str(factory() if factory is not dataclasses.MISSING else field.default)


def _type(hint: Any, limits: typing.Mapping[str, Any]) -> str:
    if limits["choices"]:
        return " | ".join(limits["choices"])
    if typing.get_origin(hint) is list:
        return _name(hint)
    bounds = [f">= {limits['minimum']:g}" if limits["minimum"] is not None else "",
              f"<= {limits['maximum']:g}" if limits["maximum"] is not None else ""]  # fmt: skip
    return " ".join([_name(hint), *filter(None, bounds)])


def _name(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)


def options_command(args: argparse.Namespace) -> int:
    """Explain the options."""
    show(args.group, terminal())
    return 0


def schema_command(_: argparse.Namespace) -> int:
    """Print the JSON Schema."""
    print(json.dumps(json_schema(), indent=2))
    return 0
