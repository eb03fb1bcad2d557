"""What every stage program shares: its argument parser, its exit status, and one-line error messages.

Exit status: 0 success, 2 bad input (nothing was written), 1 the work failed or its output could not be written, 75
interrupted by a signal (started again, the program resumes).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

_STATUS_OF_INTERRUPTED = 75  # <sysexits.h> EX_TEMPFAIL
_LONGEST_MESSAGE = 1000  # characters; a message may quote a file


class BadInput(Exception):
    """A flag or an input file is unusable. The message is one line: what, where, and what to try."""


class StageFailed(Exception):
    """The work started, but its result cannot be used. The message is one line."""


class Interrupted(Exception):
    """A signal ended the work after its state was saved. The message is one line."""


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, False, []) else super()._get_help_string(action)


class _Parser(argparse.ArgumentParser):
    def print_help(self, file: IO[str] | None = None) -> None:
        """Where it cannot be written, argparse's own says nothing."""
        print(self.format_help(), end="", file=file)


def parser(description: str | None) -> argparse.ArgumentParser:
    """An argument parser whose help shows `description` as it is formatted, and the defaults of the flags."""
    return _Parser(description=description, formatter_class=_Formatter, allow_abbrev=False)


def main(
    run: Callable[[argparse.Namespace], None], flags: argparse.ArgumentParser, argv: Sequence[str] | None = None
) -> int:
    """Parse `argv` and call `run`. Returns the exit status; errors are printed as one line, without a traceback."""
    _open_standard_streams()
    try:
        _run(run, flags, argv)
    except (BadInput, StageFailed, Interrupted) as error:
        _print_error(f"{flags.prog}: {error}")
        return _status(error)
    except OSError as error:
        _discard(1)
        if not isinstance(error, BrokenPipeError):  # else the reader of our output ended first, as `head` does
            place = f"{error.filename}: " if error.filename else ""
            _print_error(f"{flags.prog}: {place}{error.strerror or error}")
        return 1
    return 0


def _run(run: Callable[[argparse.Namespace], None], flags: argparse.ArgumentParser, argv: Sequence[str] | None) -> None:
    try:
        run(flags.parse_args(argv))
    finally:
        sys.stdout.flush()


def _status(error: BadInput | StageFailed | Interrupted) -> int:
    return 2 if isinstance(error, BadInput) else 1 if isinstance(error, StageFailed) else _STATUS_OF_INTERRUPTED


def _open_standard_streams() -> None:
    """Open /dev/null for every closed standard stream: otherwise prints would go to the next file that is opened."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r+", encoding="utf-8"))  # noqa: SIM115, PTH123


def _print_error(message: str) -> None:
    line = " ".join(message[: 2 * _LONGEST_MESSAGE].splitlines())
    try:
        print(line if len(line) <= _LONGEST_MESSAGE else f"{line[:_LONGEST_MESSAGE]}...", file=sys.stderr)
    except OSError:
        _discard(2)


def _discard(descriptor: int) -> None:
    """Redirect to /dev/null, so that Python does not try to flush the stream again at exit, and complain."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)


@contextlib.contextmanager
def report_from_rank_0() -> Iterator[None]:
    """Let only rank 0 print an error that all ranks raise; the others exit silently with the same status."""
    try:
        yield
    except (BadInput, StageFailed, Interrupted) as error:
        if int(os.environ.get("RANK", "0")) == 0:
            raise
        sys.exit(_status(error))


def existing_folder(text: str) -> Path:
    """An argparse type: an existing folder."""
    if not os.path.isdir(text):  # noqa: PTH112  pathlib raises for a name that is too long
        raise argparse.ArgumentTypeError(f"{text}: no such folder")
    return Path(text)


def existing_file(text: str) -> Path:
    """An argparse type: an existing file."""
    if not os.path.isfile(text):  # noqa: PTH113
        raise argparse.ArgumentTypeError(f"{text}: no such file")
    return Path(text)


def is_url(text: str) -> bool:
    """Whether a place to store files is a URL such as s3://bucket/key; otherwise it is a folder."""
    return "://" in text


def absolute(text: str) -> str:
    """An argparse type: a folder as an absolute path, for programs with another working directory, or a URL."""
    return text if is_url(text) else str(Path(text).absolute())


def make_compile_cache_absolute() -> None:
    """Make NEURON_COMPILE_CACHE_URL an absolute path: the compiler runs in working directories of its own."""
    cache = os.environ.get("NEURON_COMPILE_CACHE_URL")
    if cache:
        os.environ["NEURON_COMPILE_CACHE_URL"] = absolute(cache)


def at_least(minimum: float, kind: type = int) -> Callable[[str], float]:
    """An argparse type: an int or a float (`kind`) that is at least `minimum`."""

    def number(text: str) -> float:
        value = kind(text)
        if not value >= minimum:
            raise argparse.ArgumentTypeError(f"{text} is below {minimum}")
        return value

    number.__name__ = kind.__name__
    return number
