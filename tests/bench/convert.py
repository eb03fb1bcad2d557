"""Time and memory of conversion beside `cp` + fsync and beside loading the model whole and saving slices with torch.

Makes a Llama of random bfloat16 weights (1b: 2.47 GB) in a temporary folder under --scratch, cuts it into
shards in every way in turn, and prints one JSON line a run and a table of medians, with cp + fsync as 1.
Ratios of one run can be compared; seconds depend on the machine and on what else it does.

Memory of `cp` is that of the Python that starts it. Needs three times the model on the disk; with --sparse, whose
weights are zeros that take no place there, once.

Examples:
    python tests/bench/convert.py --scratch /tmp --size 1b --rounds 3
    python tests/bench/convert.py --scratch /tmp --size 8b --files 4 --sparse --ways convert --rounds 1 --tp-size 32
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

SCRIPTS = Path(__file__).parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))

from common.formats import streaming  # noqa: E402
from common.formats.dtypes import TensorSpec  # noqa: E402
from common.formats.safetensors_file import INDEX, SINGLE, SafetensorsWriter  # noqa: E402
from common.shards import layout  # noqa: E402

COMMON = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "torch_dtype": "bfloat16"}
SIZES = {
    "1b": {
        "hidden_size": 2048,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "intermediate_size": 8192,
        "vocab_size": 128256,
        "tie_word_embeddings": True,
    },
    "8b": {
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "intermediate_size": 14336,
        "vocab_size": 128256,
        "tie_word_embeddings": False,
    },
    "tiny": {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
        "intermediate_size": 128,
        "vocab_size": 256,
        "tie_word_embeddings": False,
    },
}

WAYS = ("cp", "convert", "load_whole")

COPY = """
import os, shutil, subprocess, sys
source, output = sys.argv[1:]
subprocess.run(["cp", "-r", source, output], check=True)
for folder, _, files in os.walk(output):
    for name in files:
        with open(os.path.join(folder, name), "rb") as file:
            os.fsync(file.fileno())
"""

LOAD_WHOLE = """
import os, sys, torch, transformers
source, output, ranks = sys.argv[1], sys.argv[2], int(sys.argv[3])
state = transformers.AutoModelForCausalLM.from_pretrained(source, dtype="auto", low_cpu_mem_usage=True).state_dict()
def cut(name, tensor, rank):
    if tensor.dim() == 1:
        return tensor
    dim = 1 if "o_proj" in name or "down_proj" in name else 0
    return tensor.chunk(ranks, dim)[rank].clone()
for rank in range(ranks):
    with open(f"{output}/{rank}.pt", "wb") as file:
        torch.save({name: cut(name, tensor, rank) for name, tensor in state.items()}, file)
        file.flush()
        os.fsync(file.fileno())
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scratch", type=Path, required=True, help="a folder on the disk to measure")
    parser.add_argument("--size", choices=SIZES, default="1b")
    parser.add_argument("--tp-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--files", type=int, default=1, help="safetensors files of the model")
    parser.add_argument("--sparse", action="store_true", help="weights of zeros, which take no place on the disk")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="what to measure")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.scratch, prefix="bench-convert-") as scratch:
        model = make_model(Path(scratch) / "model", SIZES[args.size], args.files, args.sparse)
        output = Path(scratch) / "output"
        ways = commands(model, output, args.tp_size)
        print_table(measure({way: ways[way] for way in args.ways}, output, args.rounds))


def commands(model: Path, output: Path, tp_size: int) -> dict[str, list[str]]:
    """The command line of each way; all of them leave their files on the disk, not in the page cache alone."""
    cut = ["--tp-size", str(tp_size), "--layout", "trn2"]
    program = [sys.executable, str(SCRIPTS / "convert_checkpoint.py")]
    return {
        "cp": [sys.executable, "-c", COPY, str(model), str(output)],
        "convert": [*program, "--input", str(model), "--output", str(output), *cut],
        "load_whole": [sys.executable, "-c", LOAD_WHOLE, str(model), str(output), str(tp_size)],
    }


def measure(ways: dict[str, list[str]], output: Path, rounds: int) -> list[dict[str, Any]]:
    """Every way in turn, `rounds` times; a record a run, printed as it is made."""
    runs = []
    for number in range(rounds):
        for way, command in ways.items():
            output.mkdir()
            os.sync()  # what the way before left to be written is not this one's
            runs.append({"way": way, "round": number, **run(command)})
            print(json.dumps(runs[-1]), flush=True)
            shutil.rmtree(output)
    return runs


def run(command: list[str]) -> dict[str, float]:
    """Seconds and peak resident megabytes of a command; what it prints is kept for a failure."""
    started = time.monotonic()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            log.seek(0)
            raise SystemExit(log.read().decode())
    return {"seconds": round(time.monotonic() - started, 2), "peak_mb": round(usage.ru_maxrss / 1024)}


def print_table(runs: list[dict[str, Any]]) -> None:
    """Medians, with cp as 1."""
    ways = list(dict.fromkeys(record["way"] for record in runs))
    seconds = {way: statistics.median(record["seconds"] for record in runs if record["way"] == way) for way in ways}
    print(f"{'way':<12}{'seconds':>9}{'x cp':>7}{'peak MB':>9}")
    for way in ways:
        peak = max(record["peak_mb"] for record in runs if record["way"] == way)
        ratio = f"{seconds[way] / seconds['cp']:.2f}" if "cp" in seconds else ""
        print(f"{way:<12}{seconds[way]:>9.2f}{ratio:>7}{peak:>9}")


def make_model(folder: Path, sizes: dict[str, Any], files: int, sparse: bool) -> Path:
    """A Hugging Face folder of finite random weights, or of zeros, in so many files."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(COMMON | sizes))
    shapes = layout.read_shape(folder).tensors()
    if sizes["tie_word_embeddings"]:
        del shapes[layout.LM_HEAD]
    specs = {name: TensorSpec("BF16", shape) for name, shape in shapes.items()}
    names = (
        [SINGLE] if files == 1 else [f"model-{number:05d}-of-{files:05d}.safetensors" for number in range(1, files + 1)]
    )
    file_of = {name: names[number * files // len(specs)] for number, name in enumerate(specs)}
    for file in names:
        write_file(folder / file, {name: spec for name, spec in specs.items() if file_of[name] == file}, sparse)
    if files > 1:
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": file_of}))
    return folder


def write_file(path: Path, specs: dict[str, TensorSpec], sparse: bool) -> None:
    """One safetensors file."""
    writer = SafetensorsWriter(path, specs)
    random = np.random.default_rng(0)
    for name, spec in () if sparse else specs.items():
        row = spec.nbytes // spec.shape[0]
        for start, stop in streaming.row_ranges(spec.shape[0], row):
            bits = random.integers(0, 1 << 16, (stop - start) * row // 2, np.uint16)
            writer.write(name, start * row, bits & 0xBFFF)  # a small exponent: below 2, none infinite or NaN
    writer.close()
    if sparse:
        os.truncate(path, path.stat().st_size + sum(spec.nbytes for spec in specs.values()))


if __name__ == "__main__":
    main()
