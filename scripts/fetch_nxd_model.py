"""Fetch the Llama of neuronx-distributed's (NxD's) examples, which train_nxd.py trains and the package does not hold.

It is downloaded from github.com/aws-neuron/neuronx-distributed at the commit of a release, or taken from a checkout
(--folder), and must have the SHA-256 that is known of that release. Output: modeling_llama_nxd.py and source.json.
The code is Apache-2.0; it goes to your machine alone.

    python scripts/fetch_nxd_model.py --release 2.29 --output modelling
    python scripts/fetch_nxd_model.py --release 2.29 --folder neuronx-distributed --output modelling
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import NamedTuple

from common import program
from common.program import BadInput

NAME = "modeling_llama_nxd.py"
INSIDE = f"examples/training/llama/{NAME}"
SITE = "https://raw.githubusercontent.com/aws-neuron/neuronx-distributed"
TIMEOUT = 60.0  # seconds without a byte


class Release(NamedTuple):
    """A release of the Neuron SDK: the repository's commit, and the SHA-256 of the modelling code there."""

    commit: str
    sha256: str


_TO_2_27 = "a5b90bef52883eade99a99783b62799efb8c57a90b4d542e5f7573c8bf91b29e"
_FROM_2_28 = "182a0c12bffa603a57131a81ba482a840e529c67ea714181123890d16cb01301"
RELEASES = {
    "2.26": Release("fecfe75b0d40ff8831718e02584bcac8eb9550ae", _TO_2_27),
    "2.27": Release("47f695c2e23ce0fd6afc35529549ed41ba3cc16d", _TO_2_27),
    "2.28": Release("22cadad34418fb8b5939bd8cdfc7a376eede9981", _FROM_2_28),
    "2.29": Release("fbac349b61a3adbb123c2983835af692840ff62f", _FROM_2_28),
}


def run(args: argparse.Namespace) -> None:
    release = RELEASES[args.release]
    content, source = _from_folder(args.folder) if args.folder else _download(release)
    digest = hashlib.sha256(content).hexdigest()
    if digest != release.sha256:
        raise BadInput(
            f"{source}: has SHA-256 {digest}, of release {args.release} is known {release.sha256}: "
            "it is another version, or was changed"
        )
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / NAME).write_bytes(content)
    record = {"release": args.release, "commit": release.commit, "sha256": digest}
    (args.output / "source.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _from_folder(folder: Path) -> tuple[bytes, str]:
    """The file in a checkout, or in a folder that holds it alone."""
    for path in (folder / INSIDE, folder / NAME):
        if path.is_file():
            return path.read_bytes(), str(path)
    raise BadInput(f"--folder {folder}: holds neither {INSIDE} nor {NAME}")


def _download(release: Release) -> tuple[bytes, str]:
    url = f"{SITE}/{release.commit}/{INSIDE}"
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:
            return answer.read(), url
    except (urllib.error.URLError, OSError) as error:
        reason = getattr(error, "reason", error)
        raise BadInput(f"{url}: {reason}: without a way to it, give a checkout with --folder") from None


def flags() -> argparse.ArgumentParser:
    parser = program.parser(__doc__)
    parser.add_argument("--release", choices=list(RELEASES), required=True, help="the Neuron SDK of the environment")
    parser.add_argument("--folder", type=program.existing_folder, help="a checkout, in place of the network")
    parser.add_argument("--output", type=Path, required=True, help="folder for the file")
    return parser


if __name__ == "__main__":
    sys.exit(program.main(run, flags()))
