"""Counts the programs that train_nxd.py compiles, and what it reads from the device, over the trials of a sweep.

    python tests/xla/prove.py NEURONX_DISTRIBUTED

NEURONX_DISTRIBUTED is a checkout of the public repository. Every trial is a process of its own, as in a sweep, over
the real torch-xla on this machine's CPU (on_xla.py). Its graphs are compared as text: a trial whose graphs the first
one has too would find every program in the compiler's cache. `make test-xla` makes the environment.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SCRIPTS = ROOT / "scripts"
sys.path[:0] = [str(ROOT), str(SCRIPTS)]

from tests.nxd.reference import FLAGS, make_inputs  # noqa: E402

STEPS = 6
# Values of 0 and 1, and values that equal each other, are those that torch-xla compiles into a program.
TRIALS = {
    "learning rate and alpha": ("--learning-rate", "0.003", "--alpha", "4"),
    "alpha, seed, epochs": ("--alpha", "8", "--seed", "9", "--epochs", "4"),
    "rslora, schedule, warm-up": ("--rslora", "--schedule", "cosine", "--warmup-ratio", "0.3"),
    "weight decay, no clipping": ("--weight-decay", "0.1", "--max-grad-norm", "0"),
    "other data": ("--max-steps", "4", "--data", "other"),
    "evaluations, best kept": ("--eval-every", "2", "--keep", "best", "--early-stopping-patience", "2"),
    "other evaluations": ("--eval-every", "1", "--keep", "best", "--learning-rate", "0.02", "--alpha", "4"),
}
DROPOUT = ("--dropout", "0.1")
ANOTHER_DROPOUT = ("--dropout", "0.5", "--seed", "1", "--alpha", "8")


class Trial(NamedTuple):
    """What a training did: its graphs by their hashes, the number compiled, and reads from the device."""

    graphs: frozenset[str]
    programs: int
    reads: int


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="a checkout of neuronx-distributed")
    source = parser.parse_args().source.resolve()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        make_inputs(work)
        make_other_data(work)
        first = train("the first trial", work, source)
        print(f"{'the first trial':28} {first.programs} programs", flush=True)
        results = [
            *(same(name, first, train(name, work, source, *flags)) for name, flags in TRIALS.items()),
            same_dropout(work, source),
            differs(first, work, source),
            reads_when_due(first, work, source),
            reads_nothing_else(work, source),
            compiles_ahead(first, work, source),
        ]
    return 0 if all(results) else 1


def make_other_data(work: Path) -> None:
    """Another number of sequences, of the same length: the last micro-batch of an epoch is shorter."""
    from tests.scripts.training_files import make_tokens

    make_tokens(work / "other", sequences=7, seq_len=64, longest=40)


def same(name: str, first: Trial, trial: Trial) -> bool:
    """Whether a trial has no graph that the first one has not."""
    new = len(trial.graphs - first.graphs)
    return told(name, not new, f"{new} new programs")


def same_dropout(work: Path, source: Path) -> bool:
    """Whether two trials with dropout have the same graphs."""
    first, second = (train(" ".join(flags), work, source, *flags) for flags in (DROPOUT, ANOTHER_DROPOUT))
    return same("dropout rate, alpha, seed", first, second)


def differs(first: Trial, work: Path, source: Path) -> bool:
    """Whether another rank has other graphs: if it had not, these checks would see nothing."""
    new = len(train("another rank", work, source, "--rank", "8").graphs - first.graphs)
    return told("another rank", new > 0, f"{new} new programs, as expected")


def reads_when_due(first: Trial, work: Path, source: Path) -> bool:
    """Whether a step whose metrics are due reads from the device once; the last one always does."""
    reads = first.reads - train("without metrics", work, source, "--log-every", "100").reads
    return told("metrics due", reads == STEPS - 1, f"{reads} reads in {STEPS - 1} steps")


def reads_nothing_else(work: Path, source: Path) -> bool:
    """Whether a step whose metrics are not due reads nothing."""
    few, many = (
        train(f"{steps} steps", work, source, "--log-every", "100", "--max-steps", str(steps)).reads
        for steps in (2, 2 + STEPS)
    )
    return told("metrics not due", few == many, f"{many - few} reads in {STEPS} steps")


def compiles_ahead(first: Trial, work: Path, source: Path) -> bool:
    """Whether the compile stage of another trial compiles all graphs of the training."""
    flags = ("--learning-rate", "1e-5", "--alpha", "1", "--data", "other")
    traced = train("compiled ahead", work, source, *flags, NEURON_EXTRACT_GRAPHS_ONLY="1")
    missing = len(first.graphs - traced.graphs)
    return told("compiled ahead", not missing, f"{missing} programs of the training missing")


def train(name: str, work: Path, source: Path, *flags: str, **variables: str) -> Trial:
    """Train on one rank and count. The data of `--data NAME` is in the folder of that name."""
    out = work / "trials" / re.sub(r"\W+", "_", name)
    settings = ["--shards", "tp1", "--data", "tokens", "--model-code", str(source / "examples/training/llama")]
    command = [
        HERE / "on_xla.py",
        out,
        SCRIPTS / "train_nxd.py",
        *settings,
        *FLAGS,
        "--output",
        out / "adapter",
        *flags,
    ]
    environment = {
        **os.environ, "PYTHONPATH": os.pathsep.join([str(source / "src"), str(ROOT)]), "PJRT_DEVICE": "CPU",
        "NXD_STUB_PLATFORM": "trn2", "NXD_LOG_LEVEL": "error", "OMP_NUM_THREADS": "1", **variables,
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=work, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{name}: train_nxd.py failed:\n{done.stdout}")
    counts = json.loads((out / "counts.json").read_text())
    return Trial(graphs((out / "graphs.0").read_text()), counts["programs"], counts["reads"])


def graphs(text: str) -> frozenset[str]:
    """The hashes of the HLO of all graphs, without their modules' names, which contain a serial number."""
    modules = (part.partition("HloModule ")[2].partition("## END_GRAPH")[0] for part in text.split("## BEGIN_GRAPH"))
    return frozenset(hashlib.sha256(module.partition(",")[2].encode()).hexdigest() for module in modules if module)


def told(what: str, good: bool, how: str) -> bool:
    print(f"{what:28} {how}{'' if good else '  WRONG'}", flush=True)
    return good


if __name__ == "__main__":
    sys.exit(main())
