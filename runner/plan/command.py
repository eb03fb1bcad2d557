"""What a stage wants done, in words that become a command line and a fingerprint."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runner.compose.schema import Recipe
from runner.plan import fingerprint as identity

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
MASTER_PORT = 44000  # the one that AWS's launch scripts reserve


@dataclass(frozen=True)
class Word:
    """A word of a command line: how it is written, and what it contributes to the fingerprint.

    A plain string contributes itself, an artifact its key, a file its content, an option that
    cannot change the result nothing.
    """

    text: str
    identity: str

    def written(self, output: str) -> str:
        """The word as the command line of a step that writes the folder `output` has it."""
        return self.text


class Output(Word):
    """The folder that the step writes, or a folder below it. A type, because any text may be a user's own."""

    def __init__(self, below: str = ""):
        super().__init__(below, "")

    def written(self, output: str) -> str:
        return str(Path(output, self.text))


OUTPUT = Output()


@dataclass(frozen=True)
class Draft:
    """What a stage wants done; `runner.plan.build` makes a Step of it.

    `processes` > 1 starts the program under torchrun, that many on each of `nodes` machines. An artifact that is
    not `cached` is made on every run. A `resumable` program goes on from what an earlier try left in its output
    folder. A variable of `env` counts for the fingerprint where it is a Word. `cores` are the
    NeuronCores that it computes on. `uses` are what of `runner.plan.packages` the program needs for this recipe,
    `packages` what must be installed besides, by the Python that imports it. `ports` are those that it listens on,
    where they are fixed.
    """

    title: str
    program: str
    options: Sequence[str | Word]
    processes: int = 1
    nodes: int = 1
    env: Mapping[str, str | Word] = field(default_factory=dict)
    cached: bool = True
    resumable: bool = False
    cores: int = 0
    uses: Sequence[str] = ()
    packages: Mapping[str, Sequence[str]] = field(default_factory=dict)
    ports: Sequence[int] = ()


@dataclass(frozen=True)
class Place:
    """Where a plan will run: paths on that machine, absolute or from the folder that plans run in.

    `inputs` is the folder to which files of this machine are carried; None if they are read where they are.
    `memory` is a folder of this machine that keeps the digests of large files. In a container the `python` of the
    image is the environment of every stage, whatever the sdk says of a machine.
    """

    code: Path
    store: Path
    python: str = sys.executable
    inputs: Path | None = None
    memory: Path = Path("store/digests")
    container: bool = False


def compile_cache(recipe: Recipe, place: Place) -> str:
    """Where the Neuron compiler keeps its programs, for all runs: they depend on shapes, not on weights."""
    return recipe.train.compile_cache or str(place.store / "neuron-cache")


class Artifacts:
    """What the steps so far will have made, and what lies outside the store."""

    def __init__(self, place: Place):
        self.place = place
        self.keys: dict[str, str] = {}
        self.carried: dict[str, str] = {}  # path there: path here

    def made(self, stage: str) -> bool:
        """Whether the plan has a step of this stage."""
        return stage in self.keys

    def path(self, stage: str, below: str = "") -> Word:
        """The artifact of an earlier stage, or a folder in it."""
        key = self.keys[stage]
        return Word(str(self.place.store / "objects" / key / below), f"{key}/{below}")

    def program(self, name: str) -> list[Word]:
        """A stage program that another one starts; it counts by its source."""
        source = identity.of_program(SCRIPTS / name)
        return [Word(self.place.python, ""), Word(str(self.place.code / "scripts" / name), source)]

    def outside(self, path: str, key: str) -> Word:
        """A file or folder that the recipe names under `key`; it counts by its content."""
        absolute = Path(path).expanduser().absolute()
        digest = identity.of_path(absolute, key, self.place.memory)
        if self.place.inputs is None:
            return Word(str(absolute), digest)
        there = str(self.place.inputs / digest[:16] / absolute.name)
        self.carried[there] = str(absolute)
        return Word(there, digest)


def launcher(python: str, processes: int, nodes: int = 1) -> list[str]:
    """The words before a program that runs as several processes.

    Which of the nodes this is, and where the first one is, is known where it runs: torch takes --node-rank and
    --master-addr from the environment variables PET_NODE_RANK and PET_MASTER_ADDR.

    >>> launcher("python", 32, nodes=2)[1:]
    ['-m', 'torch.distributed.run', '--nnodes=2', '--nproc-per-node=32', '--master-port=44000']
    """
    if processes == nodes == 1:
        return [python]
    meet = ["--standalone"] if nodes == 1 else [f"--nnodes={nodes}"]
    port = [] if nodes == 1 else [f"--master-port={MASTER_PORT}"]
    return [python, "-m", "torch.distributed.run", *meet, f"--nproc-per-node={processes}", *port]


def neutral(*words: str) -> list[Word]:
    """Options that cannot change the result, so that another value does not redo the step."""
    return [Word(word, "") for word in words]


def options(**values: Any) -> list[str]:
    """Flags from keyword arguments: `seq_len=256` is `--seq-len 256`, True is `--flag`, False is `--no-flag`.

    None and empty lists are left out; a list gives several words. A value that begins with `-` is joined to its flag:
    argparse would take it for another flag.

    >>> options(seq_len=256, pack=False, metrics=["a", "b"], sql_schema="-x")
    ['--seq-len', '256', '--no-pack', '--metrics', 'a', 'b', '--sql-schema=-x']
    """
    words: list[str] = []
    for name, value in values.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        elif isinstance(value, list):
            words += [f"--{flag}", *value] if value else []
        elif value is not None:
            text = f"{value:g}" if isinstance(value, float) else str(value)
            words += [f"--{flag}={text}"] if text.startswith("-") else [f"--{flag}", text]
    return words
