"""Files made to break their reader: each costs one line, in bounded time and memory."""

from __future__ import annotations

import json
import pickle
import random
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.scripts.common.formats.test_gguf_model import weights, write_gguf

SCRIPTS = Path(__file__).parents[4] / "scripts"
READ = """
import resource, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
from common import program
from common.program import BadInput
from common.formats import gguf_model, safetensors_file, torch_file

def read(args):
    for file in args.files:
        try:
            {"pt": lambda: torch_file.TorchZipFile(file),
             "safetensors": lambda: safetensors_file.SafetensorsFile(file),
             "gguf": lambda: gguf_model.write_folder(file, file.with_suffix(".out"), "fp32")}[file.suffix[1:]]()
        except BadInput as error:
            program._print_error(str(error))

parser = program.parser("")
parser.add_argument("files", nargs="+", type=Path)
sys.exit(program.main(read, parser))
"""
PROTOCOL, NESTED = pickle.PROTO + b"\2", 1_000_000


def refusals(*files: Path) -> list[str]:
    """The lines with which a process of its own refuses the files; it must end by itself."""
    command = [sys.executable, "-c", READ, *map(str, files)]
    ended = subprocess.run(command, cwd=SCRIPTS, capture_output=True, text=True, timeout=100, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
    return [line for line in ended.stderr.splitlines() if not line.endswith(" tensor")]  # without progress


def torch_file(path: Path, pickled: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/data/0", bytes(8))
    return path


def text(value: str) -> bytes:
    return pickle.BINUNICODE + struct.pack("<I", len(value)) + value.encode()


def number(value: int) -> bytes:
    data = pickle.encode_long(value)
    return pickle.LONG1 + bytes([len(data)]) + data


def tensor(shape: bytes, strides: bytes) -> bytes:
    """A pickled dict with one tensor of these sizes over two stored floats."""
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"K\2tQ"
    arguments = b"(" + storage + b"K\0" + shape + strides + b"\x89ccollections\nOrderedDict\n)Rt"
    return PROTOCOL + b"}" + text("w") + b"ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"Rs."


PICKLES = {
    "nested-key": PROTOCOL + b"})" + pickle.TUPLE1 * NESTED + b"K\1s.",
    "nested-value": PROTOCOL + b"}K\1)" + pickle.TUPLE1 * NESTED + b"s.",
    "shared-value": PROTOCOL + b"}K\1)" + b"2\x86" * 60 + b"s.",
    "dimensions": tensor(b"(" + b"K\1" * 65 + b"t", b"(" + b"K\1" * 65 + b"t"),
    "repeated": tensor(number(2**62) + b"\x85", b"K\0\x85"),
    "huge": tensor(number(2**1000) + b"\x85", number(2**1000) + b"\x85"),
    "lists": PROTOCOL + b"}K\1" + b"]" * NESTED + b"a" * (NESTED - 1) + b"s.",
}


def test_torch_files(tmp_path: Path) -> None:
    assert refusals(torch_file(tmp_path / "plain.pt", tensor(b"K\2\x85", b"K\1\x85"))) == []
    files = [torch_file(tmp_path / f"{name}.pt", pickled) for name, pickled in PICKLES.items()]
    lines = refusals(*files)
    assert [Path(line.split(": ")[0]) for line in lines] == files
    assert all(len(line) < 1100 for line in lines)


def entry(shape: list, offsets: list) -> dict:
    return {"dtype": "F32", "shape": shape, "data_offsets": offsets}


HEADERS = {
    "zero": json.dumps({"a": entry([2**62, 0], [0, 0])}),
    "dimensions": json.dumps({"a": entry([1] * 65, [0, 4])}),
    "numbers": json.dumps({str(n): entry([10**4000] * 3, [0, 10**4000]) for n in range(200)}),
    "twice": f'{{"a": {json.dumps(entry([1], [0, 4]))}, "a": {json.dumps(entry([1], [0, 4]))}}}',
    "deep": '{"a": ' + "[" * NESTED,
    "long": json.dumps({"a" * 1_000_000: 3}),
    "many": json.dumps({str(n): 3 for n in range(1_000_000)}),
}


def test_safetensors_files(tmp_path: Path) -> None:
    files = [tmp_path / f"{name}.safetensors" for name in HEADERS]
    for file, header in zip(files, HEADERS.values(), strict=True):
        file.write_bytes(struct.pack("<Q", len(header)) + header.encode() + bytes(4))
    lines = refusals(*files)
    assert [Path(line.split(": ")[0]) for line in lines] == files
    assert all(len(line) < 1100 for line in lines)


def damaged(content: bytes, count: int) -> list[bytes]:
    """Copies in which random bytes, most of them near the beginning, have random values; some end early."""
    draw = random.Random(0)
    copies = []
    for _ in range(count):
        copy = bytearray(content)
        for _ in range(draw.randint(1, 8)):
            copy[min(int(draw.expovariate(8 / len(copy))), len(copy) - 1)] = draw.randrange(256)
        copies.append(bytes(copy[: draw.choice([len(copy), len(copy), draw.randrange(len(copy))])]))
    return copies


def real_file(path: Path) -> Path:
    tensors = {"a": torch.zeros(4, 6), "b": torch.zeros(3).bfloat16()}
    if path.suffix == ".gguf":
        write_gguf(path, weights())
    elif path.suffix == ".pt":
        torch.save(tensors, path)
    else:
        save_file(tensors, path)
    return path


@pytest.mark.parametrize("kind", ["pt", "safetensors", "gguf"])
def test_damaged_real_files(tmp_path: Path, kind: str) -> None:
    real = real_file(tmp_path / f"real.{kind}")
    assert refusals(real) == []
    copies = damaged(real.read_bytes(), 100)
    files = [tmp_path / f"{number}.{kind}" for number in range(len(copies))]
    for file, content in zip(files, copies, strict=True):
        file.write_bytes(content)
    lines = refusals(*files)
    assert lines and all(Path(line.split(": ")[0]) in files for line in lines)


def test_a_gguf_file_with_four_billion_layers(tmp_path: Path) -> None:
    path = real_file(tmp_path / "layers.gguf")
    count = b"llama.block_count" + struct.pack("<I", 4)  # the type of 32 bits
    content = path.read_bytes()
    place = content.index(count) + len(count)
    path.write_bytes(content[:place] + b"\xff" * 4 + content[place + 4 :])
    [line] = refusals(path)
    assert "llama.block_count is 4294967295" in line
