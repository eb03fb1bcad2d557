"""Conversion to shards and back, beside `cp` + fsync of the bytes that it writes and beside loading the model whole.

The model is that of convert.py, which also measures larger ones. Needs four times the model on the disk.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from convert import COPY, LOAD_WHOLE, SCRIPTS, SIZES, make_model
from measure import Case, Comparison, Figures, Way, command


def cases(scratch: Path, size: str, ranks: tuple[int, ...]) -> Iterator[Case]:
    """Conversion to so many shards, each in turn; more than 8 take copies of the K/V heads. And back from the first."""
    folder = scratch / "convert"
    folder.mkdir()
    model = make_model(folder / "model", SIZES[size], files=1, sparse=False)
    ways: dict[str, Way] = {}
    comparisons = []
    for tp_size in ranks:
        shards = folder / f"shards-{tp_size}"
        command(_convert(model, shards, tp_size))
        ways[f"convert to {tp_size}"] = _writing(folder, _convert(model, folder / "output", tp_size))
        ways[f"cp of {tp_size} shards"] = _writing(folder, [sys.executable, "-c", COPY, shards, folder / "output"])
        title = f"conversion to {tp_size} shards"
        comparisons.append(Comparison(title, f"convert to {tp_size}", f"cp of {tp_size} shards", 1.1))
        comparisons.append(Comparison(f"{title}, MB of memory", f"convert to {tp_size}", None, 64, "peak_mb"))
    first = ranks[0]
    back = [*_convert(folder / f"shards-{first}", folder / "output", first), "--to-hf"]
    ways["convert back"] = _writing(folder, back)
    ways["cp of the model"] = _writing(folder, [sys.executable, "-c", COPY, model, folder / "output"])
    comparisons.append(Comparison(f"conversion back from {first} shards", "convert back", "cp of the model", 1.1))
    ways["load whole"] = _writing(folder, [sys.executable, "-c", LOAD_WHOLE, model, folder / "output", first])
    comparisons.append(Comparison(f"conversion to {first} shards", f"convert to {first}", "load whole", 1.0))
    yield Case("conversion", ways, comparisons)
    shutil.rmtree(folder)


def _convert(source: Path, output: Path, tp_size: int) -> list[object]:
    flags = ["--input", source, "--output", output, "--tp-size", tp_size, "--layout", "trn2"]
    return [sys.executable, SCRIPTS / "convert_checkpoint.py", *flags]


def _writing(folder: Path, argv: list[object]) -> Way:
    """A way that writes folder/output, which is new each time. What was left to be written is not counted."""

    def run() -> Figures:
        (folder / "output").mkdir()
        os.sync()
        try:
            return command(argv)
        finally:
            shutil.rmtree(folder / "output")

    return run
