"""The frame of every stage program: flags in, one clear line out when something is wrong.

Exit status: 0 done, 2 bad input (nothing was written), 1 the work itself failed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path


class BadInput(Exception):
    """A flag or an input file is unusable: one line that says what, where and what to try."""


class StageFailed(Exception):
    """The work was started and its result cannot be trusted: one line that says why."""


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, False, []) else super()._get_help_string(action)


def parser(description: str | None) -> argparse.ArgumentParser:
    """An argument parser that shows the program's docstring as written, and the defaults that there are."""
    return argparse.ArgumentParser(description=description, formatter_class=_Formatter, allow_abbrev=False)


def main(
    run: Callable[[argparse.Namespace], None], flags: argparse.ArgumentParser, argv: Sequence[str] | None = None
) -> int:
    """Parse `argv`, call `run`, and turn the two exceptions above into a line and an exit status."""
    args = flags.parse_args(argv)
    try:
        run(args)
    except (BadInput, StageFailed) as error:
        print(f"{flags.prog}: {error}", file=sys.stderr)
        return 2 if isinstance(error, BadInput) else 1
    except OSError as error:
        print(f"{flags.prog}: {error.filename or ''}: {error.strerror or error}", file=sys.stderr)
        return 1
    return 0


@contextlib.contextmanager
def first_rank_speaks() -> Iterator[None]:
    """Of several ranks that fail, only the first says why; the others end with the same exit status."""
    try:
        yield
    except (BadInput, StageFailed) as error:
        if int(os.environ.get("RANK", "0")) == 0:
            raise
        sys.exit(2 if isinstance(error, BadInput) else 1)


def existing_folder(text: str) -> Path:
    """An argparse type: a folder that is there."""
    path = Path(text)
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"{text}: no such folder")
    return path


def existing_file(text: str) -> Path:
    """An argparse type: a file that is there."""
    path = Path(text)
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"{text}: no such file")
    return path


def absolute(text: str) -> str:
    """An argparse type: a folder as seen from anywhere, for programs that work elsewhere; a URL as it is."""
    return text if "://" in text else str(Path(text).absolute())


def find_compile_cache() -> None:
    """Name the cache of compiled programs as seen from anywhere: the compiler works in folders of its own."""
    cache = os.environ.get("NEURON_COMPILE_CACHE_URL")
    if cache:
        os.environ["NEURON_COMPILE_CACHE_URL"] = absolute(cache)


def at_least(minimum: float, kind: type = int) -> Callable[[str], float]:
    """An argparse type: a number (`kind` int or float) not below `minimum`."""

    def number(text: str) -> float:
        value = kind(text)
        if not value >= minimum:
            raise argparse.ArgumentTypeError(f"{text} is below {minimum}")
        return value

    number.__name__ = kind.__name__
    return number
