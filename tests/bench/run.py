"""All benchmarks, one after the other, each with its ratios taken in one run.

    make bench                     needs about 12 GB of disk below --scratch
    make bench ARGS="--small"      small models, to see that it works

DVC, for the ratio of a cached run, is not a dependency: --dvc says where it is, without it the ratio is left out. The
ratio of serving needs `make setup-vllm`, and is left out without it.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
VLLM = HERE.parents[1] / ".venv-vllm" / "bin" / "python"


def main() -> int:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--scratch", type=Path, help="folder for large temporary files (default: the system's)")
    flags.add_argument("--small", action="store_true", help="small models")
    flags.add_argument("--dvc", default=shutil.which("dvc"), help="the dvc command")
    args = flags.parse_args()
    with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
        benches = [
            ["convert.py", "--scratch", scratch, "--size", "tiny" if args.small else "1b"],
            ["train.py", "--scratch", scratch, *(["--small"] if args.small else [])],
            ["ssh.py"],
            ["cached.py", *(["--dvc", args.dvc] if args.dvc else [])],
        ]
        if VLLM.is_file():
            benches.append(["serve.py", "--python", str(VLLM), *(["--rounds", "1"] if args.small else [])])
        return max(subprocess.run([sys.executable, HERE / name, *words], check=False).returncode
                   for name, *words in benches)  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
