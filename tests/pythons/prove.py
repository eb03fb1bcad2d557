"""Runs the tests of the control plane on the Pythons that are here, and with the oldest packages that are admitted.

    python tests/pythons/prove.py                                # on all that are on PATH or in pyenv's folder
    python tests/pythons/prove.py --ends                         # on the oldest and the newest of them
    python tests/pythons/prove.py python3.12 /opt/bin/python3    # on these

At last on the first of them with the lower bound of each range in pyproject.toml. uv makes the environments in
.venv-pythons/. They have no torch, whose builds lag behind a new Python: `make test-ami` runs the stage programs on
other Pythons.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.ami.environments import python_of  # noqa: E402

VERSIONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
# Those that meet most of the standard library and of each package.
TESTS = (
    "compose/test_recipe.py", "plan/test_golden_plans.py", "execute/test_executor.py", "execute/test_store.py",
    "execute/test_events.py", "execute/test_files.py", "record/test_create.py", "record/test_runs.py",
    "targets/kubernetes/test_target.py", "commands/test_hydra_app.py", "test_startup.py", "test_permissions.py",
)  # fmt: skip

NEEDS_TORCH = "model_on_the_volume"


def main() -> int:
    """Entry point; returns 1 if a test failed in one of the environments."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("pythons", nargs="*", metavar="PYTHON", help="a name on PATH, or a path (default: all here)")
    flags.add_argument("--ends", action="store_true", help="only the oldest and the newest of them")
    args = flags.parse_args()
    pythons = args.pythons or [path for version in VERSIONS if (path := python_of((version,)))]
    chosen = dict.fromkeys((pythons[0], pythons[-1])) if args.ends else pythons
    passed = [passes(python, "highest") for python in chosen] + [passes(pythons[0], "lowest-direct")]
    print(f"{sum(passed)} passed, {len(passed) - sum(passed)} failed")
    return 0 if all(passed) else 1


def passes(python: str, resolution: str) -> bool:
    """Whether all tests pass on a Python with the packages that this resolution of uv's chooses."""
    folder = ROOT / ".venv-pythons" / f"{Path(python).name}-{resolution}"
    print(f"{python}, packages: {resolution}", flush=True)
    uv("venv", "--clear", "--python", python, str(folder))
    uv("pip", "install", "--python", str(folder), "--resolution", resolution, "--editable", ".[sweep,kubernetes,test]")
    tests = [f"tests/runner/{name}" for name in TESTS]
    command = [folder / "bin" / "python", "-m", "pytest", "--dist", "load", *tests, "-k", f"not {NEEDS_TORCH}"]
    return subprocess.run(command, cwd=ROOT).returncode == 0


def uv(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "uv", "--quiet", *words], cwd=ROOT, check=True)


if __name__ == "__main__":
    sys.exit(main())
