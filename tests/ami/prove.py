"""Runs the stage programs whole in the environments of Neuron's releases, and compares with our own environment.

    python tests/ami/prove.py 2.29 optimum 2.33

Each environment is made in .venv-ami/, from the Pythons that are here; a release without its Python is skipped and
says so. The quickstart, scaled down, then runs in it as on the AMI (`sdk.train_python=`), with the CPU in place of the
device: tokens, shards and answers must be equal, losses to 1e-5. `make test-ami` does all that.

The model's config.json is written as transformers 5 does, with another rope_theta than the default: a transformers
that did not read it would have other losses.
"""

from __future__ import annotations

import argparse
import filecmp
import json
import math
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.ami.environments import GENERATIONS, ROOT, make, python_of  # noqa: E402

TOLERANCE = 1e-5  # of losses
SCALED_DOWN = (
    "dataset.train_rows=400", "train.max_steps=16", "evaluate.examples=12", "evaluate.max_new_tokens=32",
    "evaluate.batch_size=5", "serve.smoke_prompts=2", "export.merge=true",
)  # fmt: skip
HELPS = [path.name for path in sorted((ROOT / "scripts").glob("*.py")) if not path.name.startswith("make_")]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("generations", nargs="*", default=list(GENERATIONS), metavar="GENERATION")
    args = parser.parse_args()
    unknown = set(args.generations) - set(GENERATIONS)
    if unknown:
        parser.error(f"{min(unknown)}: no such generation; there are {', '.join(GENERATIONS)}")
    environments = {name: environment(name) for name in args.generations}
    with tempfile.TemporaryDirectory() as folder:
        return prove({name: python for name, python in environments.items() if python}, Path(folder))


def environment(name: str) -> Path | None:
    generation = GENERATIONS[name]
    python = python_of(generation.pythons)
    if python is None:
        print(f"SKIPPED {name}: needs Python {' or '.join(generation.pythons)}, which is neither on PATH nor in pyenv")
        return None
    print(f"{name}: {python}", flush=True)
    return make(ROOT / ".venv-ami" / name, generation, python)


def prove(environments: dict[str, Path], folder: Path) -> int:
    """Run everything in our own environment and in each of `environments`; the number of those that differ."""
    if not environments:
        return 0
    model = model_of_transformers_5(folder / "model")
    expected = Outputs(folder / "own", Path(sys.executable), model)
    failed = 0
    for name, python in environments.items():
        problems = [*Outputs(folder / name, python, model).differences(expected), *other_programs(python)]
        for problem in problems:
            print(f"{name}: {problem}")
        failed += bool(problems)
    print(f"{len(environments) - failed} passed, {failed} failed")
    return 1 if failed else 0


def model_of_transformers_5(folder: Path) -> Path:
    """The tiny Llama with a rope_theta that only rope_parameters tells."""
    shutil.copytree(ROOT / "recipes" / "assets" / "tiny_llama", folder)
    config = json.loads((folder / "config.json").read_text())
    config["rope_parameters"]["rope_theta"] = 500.0
    (folder / "config.json").write_text(json.dumps(config))
    return folder


class Outputs:
    """What the stages made in one environment, each run in `folder`."""

    def __init__(self, folder: Path, python: Path, model: Path) -> None:
        folder.mkdir()
        print(f"the quickstart in {python}", flush=True)
        recipe = ["quickstart", f"sdk.train_python={python}", f"model.path={model}", *SCALED_DOWN]
        run([sys.executable, "-m", "runner", "run", *recipe], folder)
        self._objects = folder / "store" / "objects"
        [record] = (folder / "runs").glob("*-quickstart")
        self.report = read(record / "artifacts" / "evaluate" / "report.json")
        self.smoke = read(record / "artifacts" / "serve" / "smoke.json")
        self.training = read(self._one("train") / "training.json")
        self.samples = [json.loads(line) for line in (self._one("evaluate") / "samples.jsonl").open()]
        self.generated = self._generate(folder, python)

    def differences(self, expected: Outputs) -> list[str]:
        """What is not as in the environment of `expected`."""
        found = [f"{path}: other bytes" for stage in ("tokenize", "convert") for path in self._other(stage, expected)]
        for side in ("base", "adapter"):
            ours, theirs = self.report[side]["loss"], expected.report[side]["loss"]
            if not math.isclose(ours, theirs, abs_tol=TOLERANCE):
                found.append(f"held-out loss of {side}: {ours}, expected {theirs}")
            if [line[side]["token_ids"] for line in self.samples] != [
                line[side]["token_ids"] for line in expected.samples
            ]:
                found.append(f"evaluate.py: other answers of {side}")
            if self.generated[side] != [line[side]["token_ids"] for line in expected.samples]:
                found.append(f"generate.py: other answers of {side}")
        if self.smoke["equal_to_evaluation"] != self.smoke["prompts"]:
            found.append("the smoke test: answers that are not the evaluation's")
        return found

    def _generate(self, folder: Path, python: Path) -> dict[str, list[list[int]]]:
        """The answers of generate.py to the evaluation's prompts."""
        prompts = folder / "prompts.jsonl"
        prompts.write_text("".join(json.dumps({"prompt": line["prompt"]}) + "\n" for line in self.samples))
        words = ["--engine", "embedded", "--max-tokens", "32", "--model", self._one("fetch"), "--prompts", prompts]
        words += ["--adapter", f"adapter={self._one('export')}/adapter", "--output", folder / "answers"]
        run([python, ROOT / "scripts" / "generate.py", *words], folder)
        answers = [json.loads(line)["answers"] for line in (folder / "answers" / "answers.jsonl").open()]
        return {side: [answer[side]["token_ids"] for answer in answers] for side in ("base", "adapter")}

    def _other(self, stage: str, expected: Outputs) -> list[Path]:
        """The files of a stage that are not the same to the last byte."""
        ours, theirs = self._one(stage), expected._one(stage)
        names = {path.relative_to(folder) for folder in (ours, theirs) for path in folder.rglob("*") if path.is_file()}
        _, other, absent = filecmp.cmpfiles(ours, theirs, names, shallow=False)
        return sorted([*other, *absent])

    def _one(self, stage: str) -> Path:
        [artifact] = self._objects.glob(f"{stage}-*")
        return artifact


def other_programs(python: Path) -> list[str]:
    """What cannot run whole on a CPU starts at least; the hub's client meets a hub on this machine."""
    found = []
    for name in HELPS:
        result = subprocess.run([python, ROOT / "scripts" / name, "--help"], capture_output=True, text=True)
        if result.returncode:
            found.append(f"{name} --help: {result.stderr.strip().splitlines()[-1]}")
    options = ["-p", "no:cacheprovider", "-o", "addopts=--import-mode=importlib -q"]
    tests = [python, "-m", "pytest", *options, "tests/scripts/common/data/test_hub.py"]
    result = subprocess.run(tests, cwd=ROOT, capture_output=True, text=True)
    if result.returncode:
        found.append(f"tests/scripts/common/data/test_hub.py:\n{result.stdout}")
    return found


def run(command: list, folder: Path) -> None:
    result = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if result.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{result.stdout}")


def read(path: Path) -> dict:
    return json.loads(path.read_text())


if __name__ == "__main__":
    sys.exit(main())
