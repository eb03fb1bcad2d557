"""Conversion to shards and back, and a merge, beside `cp` + fsync of the bytes written and beside loading all at once.

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

# An adapter of rank 16 as training leaves it, with random values: the same in what ranks share. By another process,
# because a child begins with the memory of its parent.
MAKE_ADAPTER = """
import sys
from pathlib import Path
scripts, shards, trained = map(Path, sys.argv[1:])
sys.path.insert(0, str(scripts))
import torch
from common.formats.peft_folder import LoraConfig
from common.shards.layout import PROJECTIONS, read_layout, read_shape, write_layout
from common.training.lora import Adapter
shape, layout = read_shape(shards), read_layout(shards)
config = LoraConfig(16, 32, 0, use_rslora=False, targets=tuple(name.partition(".")[2] for name in PROJECTIONS))
for rank in range(layout.tp_size):
    adapter = Adapter(shape, layout, rank, config, seed=0)
    adapter.weights.normal_(0, 0.01, generator=torch.Generator().manual_seed(0))
    adapter.save(trained)
adapter.save_config(trained)
write_layout(trained, layout)
"""


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
    command([sys.executable, "-c", MAKE_ADAPTER, SCRIPTS, folder / f"shards-{first}", folder / "adapter"])
    merge = [sys.executable, SCRIPTS / "export_adapter.py", "--model", model, "--output", folder / "output", "--merge"]
    ways["merge"] = _writing(folder, [*merge, "--adapter", folder / "adapter"])
    comparisons.append(Comparison("merge of an adapter", "merge", "cp of the model", 1.1))
    comparisons.append(Comparison("merge of an adapter, MB of memory", "merge", None, 64, "peak_mb"))
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
