"""Fetch the Llama modelling code for train_nxd.py, which is in neuronx-distributed's (NxD's) examples, not its package.

The file is downloaded from github.com/aws-neuron/neuronx-distributed at the commit of a release, or copied from a
checkout (--folder), and must match the known SHA-256 of that release. Output: modeling_llama_nxd.py and source.json.
The code is licensed under Apache-2.0 and is not redistributed: it is only copied to your machine.

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
    """A release of the Neuron SDK: the repository's commit, and the SHA-256 of its modelling code."""

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
    """Fetch the file, verify its checksum and write it with a record of its source."""
    release = RELEASES[args.release]
    content, source = _from_folder(args.folder) if args.folder else _download(release)
    digest = hashlib.sha256(content).hexdigest()
    if digest != release.sha256:
        raise BadInput(
            f"{source}: SHA-256 is {digest}, expected {release.sha256} for release {args.release}: "
            "the file is another version or was modified"
        )
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / NAME).write_bytes(content)
    record = {"release": args.release, "commit": release.commit, "sha256": digest}
    (args.output / "source.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _from_folder(folder: Path) -> tuple[bytes, str]:
    """The content and path of the file in a checkout, or in a folder that contains just this file."""
    for path in (folder / INSIDE, folder / NAME):
        if path.is_file():
            return path.read_bytes(), str(path)
    raise BadInput(f"--folder {folder}: contains neither {INSIDE} nor {NAME}")


def _download(release: Release) -> tuple[bytes, str]:
    url = f"{SITE}/{release.commit}/{INSIDE}"
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:
            return answer.read(), url
    except (urllib.error.URLError, OSError) as error:
        reason = getattr(error, "reason", error)
        raise BadInput(f"{url}: {reason}: without network access, name a checkout with --folder") from None


def flags() -> argparse.ArgumentParser:
    """The program's flags."""
    parser = program.parser(__doc__)
    parser.add_argument("--release", choices=list(RELEASES), required=True, help="Neuron SDK of the environment")
    parser.add_argument("--folder", type=program.existing_folder, help="copy from this checkout, without the network")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    return parser


if __name__ == "__main__":
    sys.exit(program.main(run, flags()))
