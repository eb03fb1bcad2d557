"""One recipe from a base model to a served adapter, and the records of all runs.

RECIPE is a name in recipes/ or a path. An OVERRIDE is Hydra's: tp_size=8 picks
configs/tp_size/8.yaml, train.lora.rank=32 sets a key. RUN is a run's folder,
its name or part of it, or `last`: the run that was started last. A trial of a
sweep is a run named SWEEP/NUMBER.

Exit status: 0 done, 1 a stage failed or a file cannot be written, 2 bad input,
130 stopped. What is wrong with the input is reported on stderr.
"""

from __future__ import annotations

import argparse
import errno
import gc
import os
import re
import sys
from collections.abc import Collection, Sequence
from importlib import import_module
from typing import IO, NoReturn

from runner import startup
from runner.commands import arguments
from runner.errors import RecipeError, did_you_mean

# Name: its module, whose function NAME_command gets the arguments (`arguments.add_NAME` declares them); its help.
COMMANDS = {
    "init": ("runner.commands.init", "make a project of your own: a first recipe, options, data to replace"),
    "run": ("runner.commands.run", "run a recipe, or with -m a sweep of it"),
    "plan": ("runner.commands.plan", "show every command line that a recipe runs, and what is cached"),
    "data": ("runner.commands.data", "show the examples of a recipe as they will be trained"),
    "doctor": ("runner.commands.doctor", "check whether a target's machine can run a recipe"),
    "options": ("runner.commands.options", "explain the options and keys of a recipe"),
    "schema": ("runner.commands.options", "print the JSON Schema of a recipe, for editors"),
    "runs": ("runner.commands.records", "list the runs"),
    "show": ("runner.commands.records", "show a run"),
    "status": ("runner.commands.control", "show what runs are doing (default: those in progress)"),
    "attach": ("runner.commands.control", "follow a run to its end"),
    "logs": ("runner.commands.control", "print the output of the current stage; -f follows the run through all"),
    "cancel": ("runner.commands.control", "stop a run, and wait until nothing of it is left"),
    "stop": ("runner.commands.control", "stop a server (default: the last one)"),
    "shell": ("runner.commands.control", "open a shell next to the files of a run on Kubernetes"),
    "fetch": ("runner.commands.control", "copy the results and the adapter of a remote run into its record"),
    "compare": ("runner.commands.records", "compare runs: their metrics and the keys that differ"),
    "report": ("runner.commands.records", "write an HTML report of one or more runs"),
    "diff": ("runner.commands.records", "show what differs between two recipes or runs"),
    "sweep": ("runner.commands.sweep.status", "show how far a sweep is, or run one of its trials again"),
    "rerun": ("runner.commands.rerun", "repeat a run exactly, from scratch, and compare the metrics"),
    "generate": ("runner.commands.serve.generate", "answer a file of prompts with the base model and the adapters"),
    "export": ("runner.commands.export", "write what a run trained to a folder with a model card"),
    "serve": ("runner.commands.serve.server", "serve a recipe, or recorded runs together, until Ctrl-C"),
    "ask": ("runner.commands.serve.ask", "ask every model of a server, answers side by side; or talk to one"),
    "ui": ("runner.ui.command", "look at the runs in the browser, as they train; start, compare and cancel them"),
    "completion": ("runner.commands.completion", "set up tab completion: adds a line to ~/.bashrc or ~/.zshrc"),
    "gc": ("runner.commands.gc", "free space in the store"),
}

# New objects between two garbage collections. Imports and composition make 100,000, almost all of which stay: with
# Python's own 700, looking through them again and again takes 50 ms.
_OBJECTS_TO_COLLECT = 50_000


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Exit status: 0 done; 2 bad input; 1 a stage failed, or a file or the output cannot be written, as
    into a pipe that nobody reads any more (then in silence); 130 stopped.
    """
    startup.complete_the_process()
    gc.set_threshold(_OBJECTS_TO_COLLECT, 10, 10)
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
        module, _ = COMMANDS[args.command]
        return getattr(import_module(module), f"{args.command}_command")(args)
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

    def print_help(self, file: IO[str] | None = None) -> None:
        """Where it cannot be written, argparse's own says nothing."""
        print(self.format_help(), end="", file=file)


class _Version(argparse.Action):
    """Prints the version and exits."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from runner.commands import version

        print(version.text())
        parser.exit()


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    completing = "_ARGCOMPLETE" in os.environ  # a shell asks
    parser = _parser(os.environ["COMP_LINE"].split() if completing else sys.argv[1:] if argv is None else argv)
    if completing:
        from runner.commands import completion

        completion.answer(parser)
    args, rest = parser.parse_known_args(argv)
    if rest:  # overrides after a flag
        if any(argument.startswith("-") for argument in rest) or "overrides" not in args:
            parser.error(f"unrecognized arguments: {' '.join(rest)}")
        args.overrides += rest
    return args


def _parser(line: Collection[str]) -> argparse.ArgumentParser:
    """Has the arguments of those commands that occur in a command line; those of all take 15 ms more."""
    parser = _Parser(prog="runner", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version, its commit, Python and packages")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)
    for name, (_, help) in COMMANDS.items():
        command = commands.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.", allow_abbrev=False)
        if name in line:
            getattr(arguments, f"add_{name}")(command)
    return parser
