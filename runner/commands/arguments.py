"""The arguments of every command, apart from what it does: to show help or complete a word, this is all to import."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from runner.compose.groups import list_groups, recipe_names

EXPORT_FORMATS = ("peft", "merged", "nxd")
UI_PORT = 8420
RUN_FLAGS = """flags, before or after the overrides:
  --detach          start the run and return; runner attach follows it
  --quiet           print only results and failures
  -m, --multirun    a sweep: run every combination of KEY=VALUE,VALUE
  --cfg job         print the composed recipe; Hydra's other flags work as well:
                    --resolve, --package, --info, --hydra-help"""


def add_init(parser: argparse.ArgumentParser) -> None:
    """The folder to make."""
    parser.add_argument("name", type=Path, metavar="NAME", help="the project's folder, new or empty")


def add_run(parser: argparse.ArgumentParser) -> None:
    """The flags of a run, and Hydra's, are among the overrides."""
    _add_recipe(parser, argparse.REMAINDER)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = RUN_FLAGS


def add_plan(parser: argparse.ArgumentParser) -> None:
    """A recipe, and how to print its plan."""
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="as JSON")
    form.add_argument("--shell", action="store_true", help="as a bash script that runs the same steps by hand")
    form.add_argument("--manifests", action="store_true", help="what Slurm, Kubernetes or Ray would receive")
    form.add_argument("-m", "--multirun", action="store_true", help="what a sweep runs, takes and costs")
    _add_recipe(parser, "*")


def add_data(parser: argparse.ArgumentParser) -> None:
    """RECIPE with overrides."""
    _add_recipe(parser, "*")


def add_doctor(parser: argparse.ArgumentParser) -> None:
    """A recipe, by default quickstart, and where it would run; or the bundle of a run, by default the last."""
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="as JSON")
    form.add_argument(
        "--bundle", action="store_true", help="also write a file without secrets, to send with a report of a problem"
    )
    parser.add_argument("--target", choices=list_groups()["target"], help="check where this target would run it")
    run = parser.add_argument("--run", metavar="RUN", help="with --bundle: the run that it describes (default: last)")
    _complete(run, "run_names")
    _add_runs_folder(parser)
    parser.add_argument("recipe", nargs="?", help="a recipe (default: quickstart; with --bundle, that of the run)")
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="such as hardware=trn2")


def add_options(parser: argparse.ArgumentParser) -> None:
    """A group, if only one is wanted."""
    parser.add_argument("group", nargs="?", help="a folder of configs/, or a section of a recipe, with its keys")


def add_schema(parser: argparse.ArgumentParser) -> None:
    """No arguments."""


def add_runs(parser: argparse.ArgumentParser) -> None:
    """The folder of the runs."""
    _add_runs_folder(parser)
    _add_json(parser)


def add_show(parser: argparse.ArgumentParser) -> None:
    """A run."""
    _add_run(parser)
    _add_json(parser)


def add_status(parser: argparse.ArgumentParser) -> None:
    """A run; without one, all in progress."""
    _add_run_anywhere(parser)
    form = parser.add_mutually_exclusive_group()
    _add_json(form)
    form.add_argument("--prometheus", action="store_true", help="print metrics for Prometheus")
    parser.set_defaults(run=None)


def add_attach(parser: argparse.ArgumentParser) -> None:
    """A run."""
    _add_run_anywhere(parser)


def add_logs(parser: argparse.ArgumentParser) -> None:
    """A run and a stage of it."""
    _add_run_anywhere(parser)
    parser.add_argument("--stage", help="default: the one in progress")
    parser.add_argument("-f", "--follow", action="store_true", help="keep printing, stage after stage")


def add_cancel(parser: argparse.ArgumentParser) -> None:
    """A run."""
    _add_run_anywhere(parser)


def add_stop(parser: argparse.ArgumentParser) -> None:
    """A server's run."""
    _add_run_anywhere(parser)


def add_shell(parser: argparse.ArgumentParser) -> None:
    """A run on Kubernetes."""
    _add_run_anywhere(parser)


def add_fetch(parser: argparse.ArgumentParser) -> None:
    """A remote run."""
    _add_run_anywhere(parser)


def add_compare(parser: argparse.ArgumentParser) -> None:
    """Runs or sweeps."""
    _add_runs_folder(parser)
    _complete(parser.add_argument("runs", nargs="+", metavar="RUN"), "run_names")
    _add_json(parser)


def add_report(parser: argparse.ArgumentParser) -> None:
    """Runs or sweeps, and the file to write."""
    _add_runs_folder(parser)
    _complete(parser.add_argument("runs", nargs="*", metavar="RUN", default=["last"]), "run_names")
    parser.add_argument(
        "--output", type=Path,
        help="the file (default: report.html in the folder of the run or sweep, else one in runs/reports)",
    )  # fmt: skip


def add_diff(parser: argparse.ArgumentParser) -> None:
    """Two recipes or runs."""
    _add_runs_folder(parser)
    parser.add_argument("first", help="a recipe or a run")
    parser.add_argument("second", help="a recipe or a run")


def add_ui(parser: argparse.ArgumentParser) -> None:
    """Where to listen, and whether to open a browser."""
    _add_runs_folder(parser)
    port = f"port of this machine (default: {UI_PORT}, or else any free one)"
    parser.add_argument("--port", type=int, metavar="N", help=port)
    parser.add_argument("--no-browser", action="store_true", help="only print the address")


def add_sweep(parser: argparse.ArgumentParser) -> None:
    """A sweep, and a trial to run again."""
    _add_runs_folder(parser)
    sweep = parser.add_argument(
        "sweep", metavar="SWEEP", nargs="?", default="last", help="its name or folder (default: last)"
    )
    _complete(sweep, "sweep_names")
    _add_json(parser)
    parser.add_argument("--rerun", type=int, metavar="N", help="run trial N again, in its place")


def add_rerun(parser: argparse.ArgumentParser) -> None:
    """A run."""
    _add_run(parser)
    parser.add_argument("--force", action="store_true", help="even if programs or package versions have changed")


def add_generate(parser: argparse.ArgumentParser) -> None:
    """Runs, prompts and how to answer them."""
    _add_runs_folder(parser)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="runs of the same base model are compared")
    parser.add_argument("--prompts", type=Path, required=True, metavar="FILE", help="rows of columns, or of `prompt`")
    parser.add_argument("--output", type=Path, metavar="DIR", help="copy the answers there")
    parser.add_argument("--max-tokens", type=int, help="longest answer; default: evaluate.max_new_tokens")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy")
    parser.add_argument("--top-k", type=int, help="sample from this many most likely tokens (default: all)")


def add_export(parser: argparse.ArgumentParser) -> None:
    """A run, the folder to write, and the format."""
    _add_run(parser)
    parser.add_argument("output", type=Path, help="the folder to write")
    parser.add_argument(
        "--push", metavar="OWNER/NAME|s3://BUCKET/PATH",
        help="also upload it to this repository of the hub, private if it is new, or to a new folder on S3",
    )  # fmt: skip
    parser.add_argument("--format", choices=EXPORT_FORMATS, default="peft", help="what will load it")
    parser.add_argument("--base-model", metavar="OWNER/NAME", help="what a base model from a folder is on the hub")


def add_serve(parser: argparse.ArgumentParser) -> None:
    """What to serve, and how."""
    _add_runs_folder(parser)
    served = parser.add_argument(
        "overrides", nargs="*", metavar="RECIPE|RUN|OVERRIDE",
        help="what to serve (default: last), as NAME=RUN under another name; serve=vllm, serve.port=8000",
    )  # fmt: skip
    _complete(served, "served")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--detach", action="store_true", help="return as soon as it is serving")
    form.add_argument("--list", action="store_true", help="only list the running servers")


def add_ask(parser: argparse.ArgumentParser) -> None:
    """A question, and whom to ask."""
    _add_runs_folder(parser)
    parser.add_argument(
        "question", nargs="?", metavar="FILE|TEXT",
        help="rows of columns, or of `prompt`; or a prompt itself; without it, one model keeps a conversation",
    )  # fmt: skip
    server = parser.add_argument("--server", default="last", metavar="RUN", help="the server (default: the last one)")
    _complete(server, "run_names")
    parser.add_argument("--models", nargs="+", default=[], metavar="NAME", help="the models to ask (default: all)")
    parser.add_argument("--system", metavar="TEXT", help="system message of a conversation (default: as trained)")
    parser.add_argument("--max-tokens", type=int, help="longest answer; default: evaluate.max_new_tokens")


def add_completion(parser: argparse.ArgumentParser) -> None:
    """No arguments."""


def add_gc(parser: argparse.ArgumentParser) -> None:
    """A store and the rules."""
    _add_runs_folder(parser)
    parser.add_argument("--store", type=Path, default=Path("store"), help="the store")
    elsewhere = parser.add_mutually_exclusive_group()
    elsewhere.add_argument("--host", help="HOST or HOST:FOLDER: --store and --in are those of that machine's folder")
    run = elsewhere.add_argument("--of", metavar="RUN", help="the store of the machine or cluster where RUN ran")
    _complete(run, "run_names")
    parser.add_argument("--days", type=_amount, help="remove artifacts that no run has used for this many days")
    parser.add_argument("--gb", type=_amount, help="then the least recently used, until the store has this size")
    parser.add_argument("--unreachable", action="store_true", help="only artifacts that no recorded run refers to")
    parser.add_argument("--dry-run", action="store_true", help="only print what would be removed")
    parser.add_argument(
        "--verify", action="store_true", help="check the files of all artifacts; moves damaged ones aside"
    )


def _add_recipe(parser: argparse.ArgumentParser, overrides: str) -> None:
    """RECIPE, and OVERRIDE as often as `overrides` allows (an `nargs` of argparse)."""
    recipe = parser.add_argument("recipe", help=f"one of {', '.join(recipe_names())}, or a path")
    changes = parser.add_argument("overrides", nargs=overrides, metavar="OVERRIDE", help="such as tp_size=2")
    _complete(recipe, "recipes")
    _complete(changes, "overrides")


def _add_runs_folder(parser: argparse.ArgumentParser) -> None:
    """--in FOLDER, where runs are recorded."""
    parser.add_argument("--in", dest="folder", type=Path, default=Path("runs"), help="folder of run records")


def _add_run(parser: argparse.ArgumentParser) -> None:
    """RUN, by default the last one, and --in FOLDER."""
    _add_runs_folder(parser)
    run = parser.add_argument(
        "run", metavar="RUN", nargs="?", default="last", help="its name or folder (default: last)"
    )
    _complete(run, "run_names")


def _add_run_anywhere(parser: argparse.ArgumentParser) -> None:
    _add_run(parser)
    parser.add_argument("--host", help="HOST or HOST:FOLDER, for a run that another computer started there")


def _add_json(parser: argparse._ActionsContainer) -> None:
    """--json, for programs."""
    parser.add_argument("--json", action="store_true", help="as JSON, with nothing rounded")


def _complete(action: argparse.Action, by: str) -> None:
    """Complete an argument with a function of `runner.commands.completion`, which is imported when a shell asks."""

    def completer(prefix: str, **context: Any) -> Iterable[str]:
        from runner.commands import completion

        return getattr(completion, by)(prefix, **context)

    action.completer = completer  # type: ignore[attr-defined]  # argcomplete's protocol


def _amount(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text}: must be a number from 0 on")
    return value
