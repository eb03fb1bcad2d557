"""Trains with train_nxd.py and the real neuronx_distributed on CPU ranks, and compares with train_torch.py.

    python tests/nxd/prove.py NEURONX_DISTRIBUTED [--record tests/data/nxd_lora]

NEURONX_DISTRIBUTED is a checkout of the public repository. For every case both train from the same random model,
tokens and seed, dropout 0; the losses and the adapters that export_adapter.py makes of them must agree to 1e-3, in
bfloat16 the losses and norms to 0.1. --record keeps what NxD gave in float32, for
tests/scripts/common/shards/test_nxd_reference.py. `make test-nxd` makes the environment.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

HERE = Path(__file__).resolve().parent
SCRIPTS = HERE.parent.parent / "scripts"
sys.path[:0] = [str(HERE.parent.parent), str(SCRIPTS)]

from tests.nxd.reference import FLAGS, SHAPE, make_inputs  # noqa: E402

TOLERANCE = 1e-3
BF16_TOLERANCE = 0.1  # of losses of 5 and norms of 2; a gradient that is summed wrongly has half the norm
BF16 = ("--dtype", "bf16")
LOSS = re.compile(r"\] loss=(\S+) .*grad_norm=(\S+)")


class Case(NamedTuple):
    """One training: what shards, on how many ranks, and flags of train_nxd.py; `both` flags go to both trainers."""

    name: str
    tp_size: int
    copies_of_heads: int
    layout: str
    ranks: int
    flags: tuple[str, ...] = ()
    both: tuple[str, ...] = ()


CASES = [
    Case("plain", 2, 1, "trn2", 2),
    Case("sequence parallel", 2, 1, "trn1", 2, ("--sequence-parallel",)),
    Case("copied heads trn2", 4, 2, "trn2", 4),
    Case("copied heads trn2, sequence parallel", 4, 2, "trn2", 4, ("--sequence-parallel", "--selective-checkpointing")),
    Case("copied heads trn1", 4, 2, "trn1", 4, ("--gradient-checkpointing",)),
    Case("copied heads trn1, sequence parallel", 4, 2, "trn1", 4, ("--sequence-parallel",)),
    # The second step of an epoch has one micro-batch, so that the second copy gets padding alone.
    Case("two copies of the model, ZeRO-1", 2, 1, "trn2", 4, ("--accumulate", "1", "--zero1"), ("--batch-size", "4")),
    Case("some targets", 4, 2, "trn2", 4, ("--sequence-parallel",),
         ("--targets", "q_proj", "v_proj", "up_proj", "--rslora", "--weight-decay", "0.1", "--schedule", "cosine")),
    Case("other targets", 2, 1, "trn1", 2, ("--sequence-parallel",),
         ("--targets", "k_proj", "o_proj", "gate_proj", "down_proj")),
    Case("bfloat16", 2, 1, "trn2", 2, (), BF16),
    Case("bfloat16, sequence parallel", 2, 1, "trn2", 2, ("--sequence-parallel",), BF16),
    Case("bfloat16, copied heads", 4, 2, "trn2", 4, (), BF16),
    Case("bfloat16, copied heads, sequence parallel", 4, 2, "trn2", 4, ("--sequence-parallel",), BF16),
]  # fmt: skip

PADDED = replace(SHAPE, vocab_size=131)  # neither 2 nor 4 ranks divide it
PADDED_CASES = [
    Case("padded vocabulary", 2, 1, "trn2", 2),
    Case("padded vocabulary, sequence parallel", 4, 2, "trn2", 4, ("--sequence-parallel",)),
    Case("padded vocabulary, bfloat16", 4, 2, "trn1", 4, (), BF16),
]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="a checkout of neuronx-distributed")
    parser.add_argument("--record", type=Path, help="keep the losses and adapters of NxD in this folder")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        make_inputs(work)
        results = [compare(case, work, args.source.resolve(), args.record) for case in CASES]
        results += [check(work, args.source.resolve()) for check in CHECKS]
        make_inputs(work / "padded", PADDED)
        results += [compare(case, work / "padded", args.source.resolve(), None) for case in PADDED_CASES]
    return 0 if all(results) else 1


def compare(case: Case, work: Path, source: Path, record: Path | None) -> bool:
    """Train both ways; whether they agree."""
    shards = work / f"tp{case.tp_size}_{case.layout}"
    ours, theirs = work / case.name / "torch", work / case.name / "nxd"
    said = [torch_training(work, ours, *case.both), nxd_training(case, shards, work, source, theirs)]
    losses, norms = (np.array([[float(line[part]) for line in LOSS.findall(text)] for text in said]) for part in (0, 1))
    adapters = [export(work, output) for output in (ours, theirs)]
    assert adapters[0].keys() == adapters[1].keys()
    apart = max(float(np.abs(adapters[0][name] - adapters[1][name]).max()) for name in adapters[0])
    farthest = max(float(np.abs(pair[0] - pair[1]).max()) for pair in (losses, norms))
    print(f"{case.name:42} losses and norms apart by {farthest:.1e}, adapters by {apart:.1e}", flush=True)
    if case.both == BF16:  # rounding turns the sign of small gradients, and Adam makes a whole step of each
        return farthest < BF16_TOLERANCE
    if record:
        keep(record, case, losses[1].tolist(), adapters[1])
    return max(apart, farthest) < TOLERANCE


def resumes(work: Path, source: Path) -> bool:
    """Whether a training killed after a checkpoint ends at the very adapter that it would have reached."""
    case, more = CASES[6], ("--checkpoint-every", "2", "--epochs", "4")
    case = case._replace(flags=(*case.flags, *more))
    shards, output = work / "tp2_trn2", work / "resumed"
    nxd_training(case, shards, work, source, work / "whole")
    nxd_training(case, shards, work, source, output, kill_at="[5]")
    said = nxd_training(case, shards, work, source, output)
    whole, resumed = export(work, work / "whole"), export(work, output)
    same = all(np.array_equal(whole[name], resumed[name]) for name in whole)
    return told("killed and started again", same and "resuming from step 4" in said, "the same bits")


def traces(work: Path, source: Path) -> bool:
    """Whether a run for neuron_parallel_compile ends well and leaves nothing behind."""
    output = work / "traced"
    nxd_training(CASES[0], work / "tp2_trn2", work, source, output, extra={"NEURON_EXTRACT_GRAPHS_ONLY": "1"})
    return told("compiled ahead", not output.exists(), "nothing left behind")


def refuses_other_shards(work: Path, source: Path) -> bool:
    """Whether a shard that lacks one name that the model has, and has one that it lacks, ends the training."""
    shards = work / "renamed"
    shutil.copytree(work / "tp2_trn2", shards)
    path = shards / "model" / "dp_rank_00_tp_rank_01_pp_rank_00.pt"
    state = torch.load(path)
    state["model.norm.scale"] = state.pop("model.norm.weight")
    torch.save(state, path)
    status, said = nxd_status(CASES[0], shards, work, source, work / "of_renamed")
    return told("a shard with another name", status == 2 and "model.norm.weight is missing" in said, "refused")


def diverges(work: Path, source: Path) -> bool:
    """Whether a training that diverges fails, and writes no adapter."""
    case = CASES[0]._replace(flags=("--learning-rate", "1e30"))
    status, said = nxd_status(case, work / "tp2_trn2", work, source, work / "diverged")
    failed = status == 1 and "the loss is " in said and not (work / "diverged" / "lora_adapter").exists()
    return told("a training that diverges", failed, "failed, without an adapter")


def refuses_other_machine(work: Path, source: Path) -> bool:
    """Whether copied heads in the order of trn2 are refused on trn1."""
    trn1 = {"NXD_STUB_PLATFORM": "trn1"}
    status, said = nxd_status(CASES[2], work / "tp4_trn2", work, source, work / "of_trn2", extra=trn1)
    return told("shards of another accelerator", status == 2 and "--layout trn1" in said, "refused")


def draws_the_same_masks(work: Path, source: Path) -> bool:
    """Whether dropout of an input that the ranks share is the same on each, and on any number of them."""
    targets = ("--targets", "q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")  # those with a shared input
    exported = []
    for case in (CASES[0], CASES[2]):
        output = work / f"dropout{case.ranks}"
        case = case._replace(both=(*targets, "--dropout", "0.1"), flags=())
        said = nxd_training(case, work / f"tp{case.tp_size}_{case.layout}", work, source, output)
        losses = [float(loss) for loss, _ in LOSS.findall(said)]
        exported.append(export(work, output))
    ranks = [torch.load(path) for path in sorted((output / "lora_adapter").rglob("*tp_rank*.pt"))]
    shared = [name for name in ranks[0] if "lora_A" in name]
    same = all(torch.equal(rank[name], ranks[0][name]) for rank in ranks for name in shared)
    apart = max(float(np.abs(exported[0][name] - exported[1][name]).max()) for name in exported[0])
    good = len(ranks) == 4 and bool(shared) and same and bool(np.isfinite(losses).all()) and apart < TOLERANCE
    return told("dropout", good, f"one lora_A on all ranks; adapters of 2 and 4 ranks apart by {apart:.1e}")


CHECKS = (draws_the_same_masks, resumes, traces, refuses_other_shards, refuses_other_machine, diverges)


def told(what: str, good: bool, how: str) -> bool:
    print(f"{what:42} {how if good else 'WRONG'}", flush=True)
    return good


def torch_training(work: Path, output: Path, *flags: str) -> str:
    return run([SCRIPTS / "train_torch.py", "--shards", work / "tp1", *common_flags(work, output), *flags])


def nxd_training(case: Case, shards: Path, work: Path, source: Path, output: Path, **more) -> str:
    """Train and expect success; returns what rank 0 said."""
    status, said = nxd_status(case, shards, work, source, output, **more)
    if status:
        raise SystemExit(f"{case.name}: train_nxd.py failed:\n{said}")
    return said


def nxd_status(
    case: Case, shards: Path, work: Path, source: Path, output: Path, kill_at: str = "", extra: Mapping[str, str] = {}
) -> tuple[int, str]:
    """Train as torchrun would start it; the highest exit status, and what rank 0 said.

    `kill_at`: kill all ranks once it says that, for status 0. `extra` variables are added to the environment.
    """
    code = ["--model-code", source / "examples/training/llama"]
    flags = ["--shards", shards, *common_flags(work, output), *code, *case.both, *case.flags]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ, "PYTHONPATH": str(source / "src"), "NXD_CPU_MODE": "1", "NXD_STUB_PLATFORM": case.layout,
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(case.ranks),
        "LOCAL_WORLD_SIZE": str(case.ranks), "OMP_NUM_THREADS": "1", "NXD_LOG_LEVEL": "error", **extra,
    }  # fmt: skip
    ranks = [
        subprocess.Popen(
            [sys.executable, HERE / "on_cpu.py", SCRIPTS / "train_nxd.py", *map(str, flags)],
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)}, text=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT if rank else subprocess.PIPE,
        )
        for rank in range(case.ranks)
    ]  # fmt: skip
    try:
        assert ranks[0].stderr
        said = ""
        for line in ranks[0].stderr:
            said += line
            if kill_at and line.startswith(kill_at):
                return 0, said
        return max(rank.wait() for rank in ranks), said
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()


def common_flags(work: Path, output: Path) -> list[str]:
    return ["--data", str(work / "tokens"), "--output", str(output), *FLAGS]


def export(work: Path, output: Path) -> dict[str, np.ndarray]:
    """The tensors of the PEFT file that export_adapter.py makes."""
    target = output / "exported"
    run([SCRIPTS / "export_adapter.py", "--model", work / "model", "--adapter", output, "--output", target])
    return load_file(target / "adapter" / "adapter_model.safetensors")


def keep(record: Path, case: Case, losses: list[float], adapter: dict[str, np.ndarray]) -> None:
    name = re.sub(r"\W+", "_", case.name)
    record.mkdir(parents=True, exist_ok=True)
    content = {"case": case.name, "flags": [*FLAGS, *case.both], "losses": losses}
    (record / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")
    save_file(adapter, record / f"{name}.safetensors")


def run(command: list[str | Path]) -> str:
    done = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{command[0]}: {done.stderr}")
    return done.stderr


if __name__ == "__main__":
    sys.exit(main())
