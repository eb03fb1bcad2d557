"""The `runner` command: one recipe from a base model to a served adapter, and the records of all runs.

RECIPE is a name in recipes/ or a path. An OVERRIDE is Hydra's: tp_size=8 picks configs/tp_size/8.yaml,
train.lora.rank=32 sets a key. RUN is a run's folder, its name or a part of it, or `last`: the one that was started
last. A trial of a sweep is a run whose name is SWEEP/NUMBER.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console

from runner import startup, targets
from runner.commands import control, gc, options, records
from runner.commands.lifecycle import place_of, run, say_notes
from runner.commands.rerun import rerun
from runner.compose import json_schema
from runner.compose import recipe as compose
from runner.compose.schema import Recipe
from runner.errors import RecipeError, did_you_mean
from runner.plan import text as plan_text
from runner.plan.build import build
from runner.plan.model import Plan
from runner.record import runs

Command = Callable[[argparse.Namespace], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Exit status: 0 done; 2 bad input; 1 a stage failed, or a file or the output cannot be written, as
    into a pipe that nobody reads any more (then in silence); 130 stopped.
    """
    startup.complete_the_process()
    if argv is None:
        _work_in_utf8()
    try:
        return _command(argv)
    except RecipeError as error:
        startup.print_error(str(error))
        return 2
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        startup.discard_output()
        if not isinstance(error, BrokenPipeError):
            place = f"{error.filename}: " if error.filename else ""
            startup.print_error(f"{place}{error.strerror or error}")
        return 2 if error.errno == errno.ENAMETOOLONG else 1  # only a user's word is as long as that


def _command(argv: Sequence[str] | None) -> int:
    try:
        args = _arguments(argv)
        return args.command(args)
    finally:
        sys.stdout.flush()


def _work_in_utf8() -> None:
    """Where the locale is another, begin again in Python's UTF-8 mode: names of files and words are UTF-8 there too.

    What this process starts inherits it.
    """
    if sys.getfilesystemencoding() != "utf-8":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, sys.orig_argv)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as everything else here does."""

    def error(self, message: str) -> NoReturn:
        command = re.search(r"COMMAND: invalid choice: '(.*?)' \(choose from (.*)\)", message)
        if command:
            names = re.findall(r"[\w-]+", command[2])
            raise RecipeError(f"{command[1]}: no such command; {did_you_mean(command[1], names)}")
        raise RecipeError(f"{message}; see {self.prog} --help")


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser()
    if "_ARGCOMPLETE" in os.environ:  # a shell asks
        from runner.commands import completion

        completion.answer(parser)
    args, rest = parser.parse_known_args(argv)
    if rest:  # overrides that stand behind a flag
        if any(word.startswith("-") for word in rest) or "overrides" not in args:
            parser.error(f"unrecognized arguments: {' '.join(rest)}")
        args.overrides += rest
    return args


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="runner", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)

    def command(name: str, function: Command, help: str) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=help, description=f"{help}.", allow_abbrev=False)
        one.set_defaults(command=function)
        return one

    one = command("run", _run, "run a recipe; --detach leaves it alone; takes Hydra's flags too: --cfg job, --info, -m")
    _with_recipe(one, argparse.REMAINDER)
    plan = command("plan", _plan, "show every command line that a recipe would run, and what is cached")
    form = plan.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="as JSON")
    form.add_argument("--shell", action="store_true", help="as a bash script that does the same by hand")
    form.add_argument("--manifests", action="store_true", help="what Slurm, Kubernetes or Ray would be handed")
    _with_recipe(plan, "*")
    one = command("doctor", _doctor, "look at the machine of a recipe's target: is anything in the way")
    one.add_argument("--json", action="store_true", help="as JSON")
    one.add_argument("--target", choices=compose.groups()["target"], help="look where this target would run it")
    one.add_argument("recipe", nargs="?", default="quickstart", help="a recipe (default: quickstart)")
    one.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="such as hardware=trn2")
    one = command("options", _options, "explain the choices and keys of a recipe")
    one.add_argument("group", nargs="?", help="one folder of configs/, with its keys")
    command("schema", _schema, "print the JSON Schema of a recipe, for editors")
    _with_runs_folder(command("runs", _runs, "list the runs"))
    _with_run(command("show", _show, "show a run"))
    _add_verbs(command)
    several = _with_runs_folder(command("compare", _compare, "compare runs: their figures and the keys that differ"))
    _complete(several.add_argument("runs", nargs="+", metavar="RUN"), "run_names")
    page = _with_runs_folder(command("report", _report, "write runs into one HTML file to look at"))
    _complete(page.add_argument("runs", nargs="*", metavar="RUN", default=["last"]), "run_names")
    page.add_argument("--output", type=Path, help="the file (default: report.html, of one run in its folder)")
    two = _with_runs_folder(command("diff", _diff, "show what differs between two recipes or runs"))
    two.add_argument("first", help="a recipe or a run")
    two.add_argument("second", help="a recipe or a run")
    again = _with_run(command("rerun", _rerun, "repeat a run exactly, from nothing, and compare the figures"))
    again.add_argument("--force", action="store_true", help="even if programs or package versions have changed")
    _add_generate(_with_runs_folder(command("generate", _generate, "answer a file with the base and the adapters")))
    folder = _with_run(command("export", _export, "hand over what a run trained: a folder with a model card"))
    folder.add_argument("output", type=Path, help="the folder to write")
    folder.add_argument("--format", choices=("peft", "merged", "nxd"), default="peft", help="who is to load it")
    _add_serve(_with_runs_folder(command("serve", _serve, "serve a recipe, or recorded runs together, until Ctrl-C")))
    _add_ask(_with_runs_folder(command("ask", _ask, "have every model of a server answer, side by side")))
    command("completion", _completion, "have bash or zsh complete recipes, options, keys and runs")
    _add_gc(_with_runs_folder(command("gc", _gc, "free the store")))
    return parser


def _add_verbs(command: Callable[..., argparse.ArgumentParser]) -> None:
    """What is asked of a run while it lives."""
    for name, function, help in (
        ("status", _status, "ask what runs are doing (default: those in progress)"),
        ("attach", _attach, "follow a run to its end"),
        ("logs", _logs, "print the output of a stage"),
        ("cancel", _cancel, "end a run, and wait until nothing of it is left"),
        ("stop", _stop, "end a server (default: the last one)"),
        ("shell", _shell, "open a shell beside the files of a run on Kubernetes"),
        ("fetch", _fetch, "bring the results and the adapter of a run elsewhere into its record"),
    ):
        one = command(name, function, help)
        _with_run(one)
        one.add_argument("--host", help="HOST or HOST:FOLDER, for a run that another computer started there")
        if name == "status":
            one.set_defaults(run=None)
        if name == "logs":
            one.add_argument("--stage", help="default: the one at work")
            one.add_argument("-f", "--follow", action="store_true", help="go on while it grows")


def _console() -> Console:
    """The terminal; or a file, where lines need not be broken so soon."""
    return Console(width=None if sys.stdout.isatty() else 160)


def _with_recipe(parser: argparse.ArgumentParser, words: str) -> None:
    recipe = parser.add_argument("recipe", help=f"one of {', '.join(compose.recipe_names())}, or a path")
    overrides = parser.add_argument("overrides", nargs=words, metavar="OVERRIDE", help="such as tp_size=2")
    _complete(recipe, "recipes")
    _complete(overrides, "overrides")


def _complete(action: argparse.Action, by: str) -> None:
    """Have a shell complete an argument by a function of `runner.commands.completion`, imported when one asks."""

    def completer(prefix: str, **context: Any) -> Iterable[str]:
        from runner.commands import completion

        return getattr(completion, by)(prefix, **context)

    action.completer = completer  # type: ignore[attr-defined]  # argcomplete's protocol


def _with_runs_folder(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("--in", dest="folder", type=Path, default=Path("runs"), help="folder of run records")
    return parser


def _with_run(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    _complete(_with_runs_folder(parser).add_argument("run", metavar="RUN", nargs="?", default="last"), "run_names")
    return parser


def _add_generate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="RUN", help="several of one base model are compared")
    parser.add_argument("--prompts", type=Path, required=True, metavar="FILE", help="rows of columns, or of `prompt`")
    parser.add_argument("--output", type=Path, metavar="DIR", help="copy the answers there")
    parser.add_argument("--max-tokens", type=int, help="longest answer; default: evaluate.max_new_tokens")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy")
    parser.add_argument("--top-k", type=int, help="draw from so many of the likeliest tokens (default: all)")


def _add_serve(parser: argparse.ArgumentParser) -> None:
    words = parser.add_argument(
        "overrides", nargs="*", metavar="RECIPE|RUN|OVERRIDE",
        help="what to serve (default: last), as NAME=RUN under another name; serve=vllm, serve.port=8000",
    )  # fmt: skip
    _complete(words, "served")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--detach", action="store_true", help="leave it alone when it serves")
    form.add_argument("--list", action="store_true", help="only show which servers live")


def _add_ask(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("question", metavar="FILE|TEXT", help="rows of columns, or of `prompt`; or a prompt as it is")
    server = parser.add_argument("--server", default="last", metavar="RUN", help="which server (default: the last)")
    _complete(server, "run_names")
    parser.add_argument("--models", nargs="+", default=[], metavar="NAME", help="which to ask (default: all)")
    parser.add_argument("--max-tokens", type=int, help="longest answer; default: evaluate.max_new_tokens")


def _add_gc(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--store", type=Path, default=Path("store"), help="the store")
    parser.add_argument("--days", type=float, help="remove artifacts that no run has used for so long")
    parser.add_argument("--gb", type=float, help="then the ones longest unused, until the store is as small as this")
    parser.add_argument("--unreachable", action="store_true", help="only artifacts that no recorded run refers to")
    parser.add_argument("--dry-run", action="store_true", help="only say what would go")


def _run(args: argparse.Namespace) -> int:
    if "--detach" in args.overrides:
        overrides = [word for word in args.overrides if word != "--detach"]
        return run(compose.compose(args.recipe, overrides), _console(), detached=True)
    if any(word.startswith("-") for word in args.overrides):
        from runner.commands import run as hydra_app  # Hydra's application machinery takes 0.1 s to import

        return hydra_app.main(args.recipe, args.overrides)
    return run(compose.compose(args.recipe, args.overrides), _console())


def _plan(args: argparse.Namespace) -> int:
    recipe, plan = _planned(args)
    if args.json:
        print(json.dumps(plan.as_json(), indent=2))
    elif args.shell:
        print(plan_text.shell(plan), end="")
    elif args.manifests:
        print(_manifests(recipe, plan), end="")
    else:
        plan_text.show(recipe, plan, _console())
    return 0


def _manifests(recipe: Recipe, plan: Plan) -> str:
    text = targets.of(recipe.target).manifests(plan)
    if not text:
        raise RecipeError(f"--manifests: target={recipe.target.kind} hands nothing over; try target=slurm")
    return text


def _planned(args: argparse.Namespace) -> tuple[Recipe, Plan]:
    composed = compose.compose(args.recipe, args.overrides)
    plan = build(composed.recipe, place_of(composed.recipe))
    say_notes(composed)
    return composed.recipe, plan


def _doctor(args: argparse.Namespace) -> int:
    from runner.commands import doctor  # packaging takes 0.05 s that other commands need not spend

    target = [f"target={args.target}"] if args.target else []
    recipe = compose.compose(args.recipe, [*args.overrides, *target]).recipe
    findings = doctor.examine(recipe, place_of(recipe))
    print(doctor.as_json(findings)) if args.json else doctor.show(findings, _console())
    return doctor.status(findings)


def _options(args: argparse.Namespace) -> int:
    options.show(args.group, _console())
    return 0


def _schema(args: argparse.Namespace) -> int:
    print(json.dumps(json_schema.json_schema(), indent=2))
    return 0


def _runs(args: argparse.Namespace) -> int:
    records.runs(runs.every(args.folder), _console())
    return 0


def _show(args: argparse.Namespace) -> int:
    records.show(runs.find(args.run, args.folder), _console())
    return 0


def _status(args: argparse.Namespace) -> int:
    if args.run:
        several = [control.find(args.run, args.folder, args.host)]
    elif args.host:
        several = [control.find(name, args.folder, args.host) for name in control.names(args.host)]
    else:
        several = [one for one in runs.every(args.folder) if one.state in ("running", "away")]
    control.status(several, _console())
    return 0


def _attach(args: argparse.Namespace) -> int:
    return control.attach(control.find(args.run, args.folder, args.host), _console())


def _logs(args: argparse.Namespace) -> int:
    return control.logs(control.find(args.run, args.folder, args.host), args.stage, args.follow)


def _cancel(args: argparse.Namespace) -> int:
    return control.cancel(control.find(args.run, args.folder, args.host), _console())


def _stop(args: argparse.Namespace) -> int:
    from runner.commands.serve import servers

    is_last = args.run == "last" and not args.host
    run = servers.last(args.folder) if is_last else control.find(args.run, args.folder, args.host)
    servers.check(run)
    return control.cancel(run, _console())


def _fetch(args: argparse.Namespace) -> int:
    return control.fetch(control.find(args.run, args.folder, args.host), _console())


def _shell(args: argparse.Namespace) -> int:
    return control.shell(control.find(args.run, args.folder, args.host))


def _compare(args: argparse.Namespace) -> int:
    records.compare([run for name in args.runs for run in runs.find_all(name, args.folder)], _console())
    return 0


def _report(args: argparse.Namespace) -> int:
    from runner.record import report  # 0.1 s that other commands need not spend

    several = [run for name in args.runs for run in runs.find_all(name, args.folder)]
    print(report.write(several, args.output or report.default_path(several)))
    return 0


def _diff(args: argparse.Namespace) -> int:
    def recipe_of(name: str) -> dict:
        try:
            return asdict(compose.compose(name).recipe)
        except RecipeError:
            return runs.find(name, args.folder).recipe

    records.diff(recipe_of(args.first), recipe_of(args.second), _console())
    return 0


def _rerun(args: argparse.Namespace) -> int:
    return rerun(runs.find(args.run, args.folder), _console(), force=args.force)


def _completion(args: argparse.Namespace) -> int:
    from runner.commands import completion

    print(completion.install(Path.home()))
    return 0


def _generate(args: argparse.Namespace) -> int:
    from runner.commands.serve.generate import Questions, generate

    several = [runs.find(name, args.folder, having="export") for name in args.runs]
    questions = Questions(args.prompts, args.output, args.max_tokens, args.temperature, args.top_k)
    return generate(several, questions, args.folder, _console())


def _serve(args: argparse.Namespace) -> int:
    from runner.commands.serve import server as serve
    from runner.commands.serve import servers

    if args.list:
        servers.show(args.folder, _console())
        return 0
    return serve.serve(args.overrides, args.folder, _console(), args.detach)


def _ask(args: argparse.Namespace) -> int:
    from runner.commands.serve import ask, servers

    server = servers.find(args.server, args.folder)
    return ask.ask(server, args.question, args.models, args.max_tokens, _console())


def _export(args: argparse.Namespace) -> int:
    from runner.commands.export import export

    export(runs.find(args.run, args.folder, having="export"), args.format, args.output)
    print(args.output)
    return 0


def _gc(args: argparse.Namespace) -> int:
    gc.collect(args.store, runs.every(args.folder), gc.Rules(args.days, args.gb, args.unreachable), args.dry_run)
    return 0
