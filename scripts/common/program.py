"""The frame of every stage program: flags in, one clear line out when something is wrong.

Exit status: 0 done, 2 bad input (nothing was written), 1 the work itself failed, or its output cannot be written.
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
    _open_standard_streams()
    try:
        run(flags.parse_args(argv))
        sys.stdout.flush()
    except (BadInput, StageFailed) as error:
        _say(f"{flags.prog}: {error}")
        return 2 if isinstance(error, BadInput) else 1
    except OSError as error:
        _discard(1)
        if not isinstance(error, BrokenPipeError):  # whoever read our output has gone, and knows it
            _say(f"{flags.prog}: {error.filename or ''}: {error.strerror or error}")
        return 1
    return 0


def _open_standard_streams() -> None:
    """Put /dev/null where a standard stream is closed: else the next file that is opened would get what is printed."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r+", encoding="utf-8"))  # noqa: SIM115, PTH123


def _say(message: str) -> None:
    try:
        print(message, file=sys.stderr)
    except OSError:
        _discard(2)


def _discard(descriptor: int) -> None:
    """What could not be written there shall not be tried once more, with a complaint, when Python ends."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)


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
    if not os.path.isdir(text):  # noqa: PTH112  pathlib raises for a text that no path can be
        raise argparse.ArgumentTypeError(f"{text}: no such folder")
    return Path(text)


def existing_file(text: str) -> Path:
    """An argparse type: a file that is there."""
    if not os.path.isfile(text):  # noqa: PTH113
        raise argparse.ArgumentTypeError(f"{text}: no such file")
    return Path(text)


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
