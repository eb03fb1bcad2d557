"""What the pinned optimum-neuron and its companions take, read from their wheels without importing them.

    pip download --no-deps --dest WHEELS optimum-neuron==0.4.5 trl==0.24.0 peft==0.17.0 transformers==4.57.6
    python tests/optimum/record.py WHEELS > tests/data/optimum_0_4_5.json

`make test-optimum` does the first and compares the second with the recorded file, which the fast tests use.
"""

from __future__ import annotations

import ast
import json
import re
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

RECORD = Path(__file__).parents[1] / "data" / "optimum_0_4_5.json"
NEURON = "optimum/neuron/"
SYMBOLS = {
    f"{NEURON}trainers/training_args.py": ["NeuronTrainingArguments"],
    f"{NEURON}trainers/sft_trainer.py": ["NeuronSFTTrainer.__init__", "NeuronSFTTrainer.train"],
    f"{NEURON}trainers/transformers.py": [
        "NeuronTrainer._get_train_sampler", "NeuronTrainer.get_batch_samples", "NeuronTrainer.create_scheduler",
        "NeuronTrainer.save_model",
    ],
    f"{NEURON}models/training/modeling_utils.py": ["NeuronModelMixin.from_pretrained"],
    f"{NEURON}models/training/checkpointing.py": ["consolidate_model_parallel_checkpoints_to_unified_checkpoint"],
    f"{NEURON}utils/misc.py": ["is_precompilation"],
    "trl/trainer/sft_config.py": ["SFTConfig"],
    "transformers/training_args.py": ["TrainingArguments"],
    "transformers/trainer_callback.py": [
        "TrainerCallback.on_train_begin", "TrainerCallback.on_step_end", "TrainerCallback.on_log",
    ],
    "peft/tuners/lora/config.py": ["LoraConfig"],
    "peft/config.py": ["PeftConfig"],
}  # fmt: skip
MODELS = f"{NEURON}models/training/auto_models.py"


def record(folder: Path) -> dict[str, object]:
    """Versions and pins of the wheels in a folder, the arguments of SYMBOLS, and the models that can be trained."""
    archives = [zipfile.ZipFile(path) for path in sorted(folder.glob("*.whl"))]
    files = {name: archive for archive in archives for name in archive.namelist()}
    metadata = [files[name].read(name).decode() for name in files if name.endswith(".dist-info/METADATA")]
    trees = {path: ast.parse(files[path].read(path)) for path in (*SYMBOLS, MODELS)}
    return {
        "versions": dict(sorted(pair for text in metadata for pair in _version(text))),
        "training": sorted(re.findall(r"^Requires-Dist: (\S+); extra == .training.", "\n".join(metadata), re.M)),
        "models": sorted({call.args[0].value for call in _calls(trees[MODELS], "register_neuron_model_for_training")}),
        "arguments": {name: arguments(trees[path], name) for path, names in SYMBOLS.items() for name in names},
    }


def arguments(tree: ast.Module, name: str) -> list[str]:
    """Fields of a dataclass; parameters of a function, and what it takes out of its **kwargs."""
    found: ast.AST = tree
    for part in name.split("."):
        found = next(node for node in ast.iter_child_nodes(found) if getattr(node, "name", None) == part)
    if isinstance(found, ast.ClassDef):
        return [node.target.id for node in found.body if isinstance(node, ast.AnnAssign)]
    assert isinstance(found, ast.FunctionDef)
    declared = [each.arg for each in (*found.args.posonlyargs, *found.args.args, *found.args.kwonlyargs)]
    taken = [call.args[0].value for call in _calls(found, "pop") if _is_kwargs(call)]
    return list(dict.fromkeys((*declared, *taken)))


def _version(metadata: str) -> Iterator[tuple[str, str]]:
    yield re.findall(r"^Name: (\S+)", metadata, re.M)[0], re.findall(r"^Version: (\S+)", metadata, re.M)[0]


def _calls(tree: ast.AST, name: str) -> list[ast.Call]:
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    return [
        call
        for call in calls
        if name in (getattr(call.func, "id", None), getattr(call.func, "attr", None))
        and call.args
        and isinstance(call.args[0], ast.Constant)
    ]


def _is_kwargs(call: ast.Call) -> bool:
    return isinstance(call.func, ast.Attribute) and getattr(call.func.value, "id", None) == "kwargs"


if __name__ == "__main__":
    text = json.dumps(record(Path(sys.argv[1])), indent=1) + "\n"
    if "--check" not in sys.argv:
        sys.stdout.write(text)
    elif text != RECORD.read_text():
        sys.exit(f"{RECORD} differs from what the wheels in {sys.argv[1]} say; record it anew and run the tests")
