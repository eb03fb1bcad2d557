"""The command of a stage: arguments that make both a command line and a fingerprint."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from runner.compose.schema import Recipe
from runner.paths import SCRIPTS
from runner.plan import fingerprint
from runner.plan.elsewhere import S3, Preview

MASTER_PORT = 44000  # the port that AWS's launch scripts reserve for torchrun


@dataclass(frozen=True)
class Argument:
    """An argument of a command line: its text, and what it adds to the step's fingerprint.

    A plain string adds itself, an artifact its key, a file its content, and an option that cannot change the result
    adds nothing (see `not_fingerprinted`).
    """

    text: str
    fingerprint: str

    def render(self, output: str) -> str:
        """The argument on the command line of a step that writes the folder `output`."""
        return self.text


class Output(Argument):
    """The step's output folder, or a subfolder of it. A type, not a placeholder text: a user may write any text."""

    def __init__(self, subfolder: str = ""):
        super().__init__(subfolder, "")

    def render(self, output: str) -> str:
        return str(Path(output, self.text))


OUTPUT = Output()


@dataclass(frozen=True)
class StageCommand:
    """What a stage runs; `runner.plan.build.step` turns it into a Step.

    - `processes` > 1 starts the program under torchrun, that many on each of `nodes` machines.
    - `env`: a variable counts for the fingerprint only where it is an Argument.
    - An artifact that is not `cached` is made on every run.
    - A `resumable` program continues from what an earlier attempt left in its output folder.
    - `cores`: the number of NeuronCores that it computes on.
    - `uses`: which optional packages of `runner.plan.packages` the program needs for this recipe.
    - `packages`: requirements besides those of the program, by the Python that imports them.
    - `ports`: the fixed ports that it listens on.
    - `pushed`: whether its artifact is worth a place in the remote store.
    """

    title: str
    program: str
    arguments: Sequence[str | Argument]
    processes: int = 1
    nodes: int = 1
    env: Mapping[str, str | Argument] = field(default_factory=dict)
    cached: bool = True
    resumable: bool = False
    cores: int = 0
    uses: Sequence[str] = ()
    packages: Mapping[str, Sequence[str]] = field(default_factory=dict)
    ports: Sequence[int] = ()
    pushed: bool = True


@dataclass(frozen=True)
class Place:
    """Where a plan will run: paths on that machine, absolute or relative to the folder in which plans run.

    `inputs` is the folder to which files of this machine are copied; None if they are read in place.
    `digest_cache` is a folder of this machine that keeps the digests of large files. `preview` is what is known of
    files that lie there already. In a container every stage runs with the image's `python`, whatever the sdk names for
    a machine.
    """

    code: Path
    store: Path
    python: str = sys.executable
    inputs: Path | None = None
    digest_cache: Path = Path("store/digests")
    preview: Preview | None = None
    container: bool = False


def compile_cache(recipe: Recipe, place: Place) -> str:
    """The Neuron compiler's cache. All runs share it: compiled programs depend on shapes, not on weights."""
    return shared_compile_cache(recipe) or str(place.store / "neuron-cache")


def shared_compile_cache(recipe: Recipe) -> str:
    """The compiler's cache, if the recipe has it elsewhere than in the store: it goes with the remote store."""
    remote = recipe.paths.remote_store
    return recipe.train.compile_cache or (f"{remote.rstrip('/')}/neuron-cache" if remote else "")


class Artifacts:
    """The artifacts of the steps planned so far, and files from outside the store.

    `keys` are the artifacts by stage; `carried` maps each file's path on the plan's machine to its path on this one;
    `downloads` maps an s3:// address to the stage that copies it, and the path in its artifact.
    """

    def __init__(self, place: Place):
        self.place = place
        self.keys: dict[str, str] = {}
        self.carried: dict[str, str] = {}
        self.downloads: dict[str, tuple[str, str]] = {}

    def path(self, stage: str, subfolder: str = "") -> Argument:
        """The artifact of an earlier stage, or a subfolder of it."""
        key = self.keys[stage]
        return Argument(str(self.place.store / "objects" / key / subfolder), f"{key}/{subfolder}")

    def program(self, name: str) -> list[Argument]:
        """Python and a stage program that another program starts. Its source counts for the fingerprint."""
        source = fingerprint.hash_program(SCRIPTS / name)
        return [Argument(self.place.python, ""), Argument(str(self.place.code / "scripts" / name), source)]

    def address(self, path: str) -> str | None:
        """The s3:// address of a path in the preview; None for any other path."""
        there = self.place.preview and self.place.preview.there(Path(path).absolute())
        return there if there and there.startswith(S3) else None

    def external(self, path: str, key: str) -> Argument:
        """A file or folder that the recipe names under `key`. Its content counts for the fingerprint."""
        local_path = Path(path).expanduser().absolute()
        preview = self.place.preview
        if address := self.address(path):
            return self.path(*self.downloads[address])
        if preview and (there := preview.there(local_path)):
            return Argument(there, fingerprint.hash_path(local_path, key, preview.digest))
        read = partial(fingerprint.hash_file, digest_cache=self.place.digest_cache)
        digest = fingerprint.hash_path(local_path, key, read)
        if self.place.inputs is None:
            return Argument(str(local_path), digest)
        remote_path = str(self.place.inputs / digest[:16] / local_path.name)
        self.carried[remote_path] = str(local_path)
        return Argument(remote_path, digest)


def launcher(python: str, processes: int, nodes: int = 1) -> list[str]:
    """The start of a command line: Python, or torchrun for several processes.

    A node's rank and the first node's address are known only at run time: torchrun reads them from the environment
    variables PET_NODE_RANK and PET_MASTER_ADDR.

    >>> launcher("python", 32, nodes=2)[1:]
    ['-m', 'torch.distributed.run', '--nnodes=2', '--nproc-per-node=32', '--master-port=44000']
    """
    if processes == nodes == 1:
        return [python]
    rendezvous = ["--standalone"] if nodes == 1 else [f"--nnodes={nodes}"]
    port = [] if nodes == 1 else [f"--master-port={MASTER_PORT}"]
    return [python, "-m", "torch.distributed.run", *rendezvous, f"--nproc-per-node={processes}", *port]


def not_fingerprinted(*texts: str) -> list[Argument]:
    """Arguments that cannot change the result: a step is not redone for another value."""
    return [Argument(text, "") for text in texts]


def flags(**values: Any) -> list[str]:
    """Flags from keyword arguments: `seq_len=256` is `--seq-len 256`, True is `--flag`, False is `--no-flag`.

    None and empty lists are left out; a list becomes several arguments. A value that begins with `-` is joined to its
    flag, since argparse would take it for another flag.

    >>> flags(seq_len=256, pack=False, metrics=["a", "b"], sql_schema="-x")
    ['--seq-len', '256', '--no-pack', '--metrics', 'a', 'b', '--sql-schema=-x']
    """
    args: list[str] = []
    for name, value in values.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            args.append(f"--{flag}" if value else f"--no-{flag}")
        elif isinstance(value, list):
            args += [f"--{flag}", *value] if value else []
        elif value is not None:
            text = f"{value:g}" if isinstance(value, float) else str(value)
            args += [f"--{flag}={text}"] if text.startswith("-") else [f"--{flag}", text]
    return args
