"""The `runner` command: one recipe from a base model to a served adapter, and the records of all runs.

RECIPE is a name in recipes/ or a path. An OVERRIDE is Hydra's: tp_size=8 picks configs/tp_size/8.yaml,
train.lora.rank=32 sets a key. RUN is a run's folder, its name or a part of it, or `last`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from runner import compose, gc, listing, options, plan_text, runs
from runner.errors import RecipeError
from runner.plan import Plan, build
from runner.rerun import rerun
from runner.run import place_of, run
from runner.schema import Recipe

Command = Callable[[argparse.Namespace], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Exit status: 0 done, 2 bad input, 1 a stage failed, 130 stopped."""
    parser = _parser()
    args, rest = parser.parse_known_args(argv)
    if rest:  # overrides that stand behind a flag
        if any(word.startswith("-") for word in rest) or "overrides" not in args:
            parser.error(f"unrecognized arguments: {' '.join(rest)}")
        args.overrides += rest
    try:
        return args.command(args)
    except RecipeError as error:
        print(f"runner: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="runner", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, function: Command, help: str) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=help, description=f"{help}.", allow_abbrev=False)
        one.set_defaults(command=function)
        return one

    one = command("run", _run, "run a recipe; takes Hydra's flags too: --cfg job, --info, -m for a sweep")
    _with_recipe(one, argparse.REMAINDER)
    plan = command("plan", _plan, "show every command line that a recipe would run, and what is cached")
    plan.add_argument("--json", action="store_true", help="as JSON")
    plan.add_argument("--shell", action="store_true", help="as a bash script that does the same by hand")
    _with_recipe(plan, "*")
    one = command("doctor", _doctor, "look at this machine: is anything in the way of a recipe")
    one.add_argument("--json", action="store_true", help="as JSON")
    one.add_argument("--target", choices=compose.groups()["target"], help="look where this target would run it")
    one.add_argument("recipe", nargs="?", default="quickstart", help="a recipe (default: quickstart)")
    one.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="such as hardware=trn2")
    one = command("options", _options, "explain the choices and keys of a recipe")
    one.add_argument("group", nargs="?", help="one folder of configs/, with its keys")
    command("schema", _schema, "print the JSON Schema of a recipe, for editors")
    _with_runs_folder(command("runs", _runs, "list the runs"))
    _with_run(command("show", _show, "show a run"))
    several = _with_runs_folder(command("compare", _compare, "compare runs: their figures and the keys that differ"))
    several.add_argument("runs", nargs="+", metavar="RUN")
    page = _with_runs_folder(command("report", _report, "write runs into one HTML file to look at"))
    page.add_argument("runs", nargs="*", metavar="RUN", default=["last"])
    page.add_argument("--output", type=Path, help="the file (default: report.html, of one run in its folder)")
    two = _with_runs_folder(command("diff", _diff, "show what differs between two recipes or runs"))
    two.add_argument("first", help="a recipe or a run")
    two.add_argument("second", help="a recipe or a run")
    again = _with_run(command("rerun", _rerun, "repeat a run exactly, from nothing, and compare the figures"))
    again.add_argument("--force", action="store_true", help="even if programs or package versions have changed")
    _add_gc(_with_runs_folder(command("gc", _gc, "free the store")))
    return parser


def _console() -> Console:
    """The terminal; or a file, where lines need not be broken so soon."""
    return Console(width=None if sys.stdout.isatty() else 160)


def _with_recipe(parser: argparse.ArgumentParser, words: str) -> None:
    parser.add_argument("recipe", help=f"one of {', '.join(compose.recipe_names())}, or a path")
    parser.add_argument("overrides", nargs=words, metavar="OVERRIDE", help="such as tp_size=2")


def _with_runs_folder(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("--in", dest="folder", type=Path, default=Path("runs"), help="folder of run records")
    return parser


def _with_run(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    _with_runs_folder(parser).add_argument("run", metavar="RUN", nargs="?", default="last")
    return parser


def _add_gc(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--store", type=Path, default=Path("store"), help="the store")
    parser.add_argument("--days", type=float, help="remove artifacts that no run has used for so long")
    parser.add_argument("--gb", type=float, help="then the ones longest unused, until the store is as small as this")
    parser.add_argument("--unreachable", action="store_true", help="only artifacts that no recorded run refers to")
    parser.add_argument("--dry-run", action="store_true", help="only say what would go")


def _run(args: argparse.Namespace) -> int:
    if any(word.startswith("-") for word in args.overrides):
        from runner import hydra_app  # Hydra's application machinery takes 0.1 s to import

        return hydra_app.main(args.recipe, args.overrides)
    return run(compose.compose(args.recipe, args.overrides), _console())


def _plan(args: argparse.Namespace) -> int:
    recipe, plan = _planned(args)
    if args.json:
        print(json.dumps(plan.as_json(), indent=2))
    elif args.shell:
        print(plan_text.shell(plan), end="")
    else:
        plan_text.show(recipe, plan)
    return 0


def _planned(args: argparse.Namespace) -> tuple[Recipe, Plan]:
    recipe = compose.compose(args.recipe, args.overrides).recipe
    return recipe, build(recipe, place_of(recipe))


def _doctor(args: argparse.Namespace) -> int:
    from runner import doctor  # packaging takes 0.05 s that other commands need not spend

    target = [f"target={args.target}"] if args.target else []
    recipe = compose.compose(args.recipe, [*args.overrides, *target]).recipe
    findings = doctor.examine(recipe, place_of(recipe))
    print(doctor.as_json(findings)) if args.json else doctor.show(findings, _console())
    return doctor.status(findings)


def _options(args: argparse.Namespace) -> int:
    options.show(args.group, _console())
    return 0


def _schema(args: argparse.Namespace) -> int:
    print(json.dumps(options.json_schema(), indent=2))
    return 0


def _runs(args: argparse.Namespace) -> int:
    listing.runs(runs.every(args.folder), _console())
    return 0


def _show(args: argparse.Namespace) -> int:
    listing.show(runs.find(args.run, args.folder), _console())
    return 0


def _compare(args: argparse.Namespace) -> int:
    listing.compare([run for name in args.runs for run in _one_or_sweep(name, args.folder)], _console())
    return 0


def _report(args: argparse.Namespace) -> int:
    from runner import report  # 0.1 s that other commands need not spend

    several = [run for name in args.runs for run in _one_or_sweep(name, args.folder)]
    print(report.write(several, args.output or report.default_path(several)))
    return 0


def _one_or_sweep(name: str, folder: Path) -> list[runs.Run]:
    """The run of that name, or the runs in the folder of that name."""
    return (runs.every(Path(name)) if Path(name).is_dir() else []) or [runs.find(name, folder)]


def _diff(args: argparse.Namespace) -> int:
    def recipe_of(name: str) -> dict:
        try:
            return asdict(compose.compose(name).recipe)
        except RecipeError:
            return runs.find(name, args.folder).recipe

    listing.diff(recipe_of(args.first), recipe_of(args.second), _console())
    return 0


def _rerun(args: argparse.Namespace) -> int:
    return rerun(runs.find(args.run, args.folder), _console(), force=args.force)


def _gc(args: argparse.Namespace) -> int:
    gc.collect(args.store, runs.every(args.folder), gc.Rules(args.days, args.gb, args.unreachable), args.dry_run)
    return 0
