"""Write the plans of the recipes as text that a reviewer can read: one file a recipe, hardware and target.

    make golden

The test compares them; a plan that changes shows in the diff of these files. Fingerprints are left out: they change
with every edit of a program.
"""

from __future__ import annotations

import re
from pathlib import Path

from runner import targets
from runner.compose.recipe import compose
from runner.paths import ROOT
from runner.plan.build import build
from runner.plan.command import Place
from runner.plan.text import command_line

PLANS = {
    "quickstart-cpu": ["quickstart"],
    "quickstart-cpu-trn1_shards": ["quickstart", "hardware.layout=trn1", "tp_size=4"],
    "smollm2_sql_cpu-cpu": ["smollm2_sql_cpu"],
    "smollm2_chat_cpu-cpu": ["smollm2_chat_cpu"],
    "llama3_8b_dolly_trn2-trn2": ["llama3_8b_dolly_trn2"],
    "llama3_8b_dolly_trn2-trn2-neuron_2_26": ["llama3_8b_dolly_trn2", "sdk=neuron_2_26"],
    "llama3_8b_dolly_trn2-trn2-neuron_2_33": ["llama3_8b_dolly_trn2", "sdk=neuron_2_33", "train=torch_lora"],
    "llama3_8b_dolly_trn2-trn1": ["llama3_8b_dolly_trn2", "hardware=trn1"],
    "llama3_8b_sql_trn1-trn1": ["llama3_8b_sql_trn1"],
    "01_own_csv-cpu": ["examples/01_own_csv"],
    "02_chat-cpu": ["examples/02_chat"],
    "03_sweep-cpu": ["examples/03_sweep"],
    "04_ssh-trn2_3xlarge": ["examples/04_ssh"],
    "05_slurm-trn1": ["examples/05_slurm"],
    "06_kubernetes-trn2": ["examples/06_kubernetes"],
    "07_several_adapters-cpu": ["examples/07_several_adapters"],
}
_STAGES = "target.slurm.stages={convert: {partition: cpu, exclusive: 'false'}}"
_NODES = ["target=slurm", "parallel.nodes=2", "target.slurm.partition=trn2", "target.slurm.time=12:00:00", _STAGES]
# What a scheduler is handed.
HANDED = {
    "llama3_8b_dolly_trn2-trn2-slurm": ["llama3_8b_dolly_trn2", *_NODES],
    "llama3_8b_dolly_trn2-trn2-slurm_gres": ["llama3_8b_dolly_trn2", "target=slurm", "target.slurm.gres=neuron"],
    "llama3_8b_dolly_trn2-trn2-ray": ["llama3_8b_dolly_trn2", "target=ray"],
}
PLACES = {
    "local": Place(Path("/code"), Path("/store"), "/venv/bin/python"),
    "ssh": Place(Path("code/DIGEST"), Path("store"), "/venv/bin/python", inputs=Path("inputs")),
}


def text(words: list[str], place: Place) -> str:
    """Every command line of a plan, without fingerprints and paths of this checkout."""
    recipe = compose(words[0], words[1:]).recipe
    python = recipe.sdk.train_python or place.python
    plan = build(recipe, Place(place.code, place.store, python, place.inputs))
    steps = [f"# {step.title}\n{command_line(step)}\n" for step in plan.steps]
    carried = [f"# carried: {there}" for there in plan.carried]
    return clean("\n".join([*carried, *steps]))


def handed(words: list[str]) -> str:
    """What `runner plan --manifests` prints."""
    recipe = compose(words[0], words[1:]).recipe
    target = targets.of(recipe.target)
    return clean(target.manifests(target.plan(recipe)))


def clean(plan: str) -> str:
    """Without what differs from machine to machine and from edit to edit."""
    plan = re.sub(r"\b([a-z]+)-[0-9a-f]{16}\b", r"\1-KEY", plan.replace(str(ROOT), "/code"))
    return re.sub(r"(--port) \d+", r"\1 PORT", re.sub(r"(inputs|code)/[0-9a-f]{16}", r"\1/DIGEST", plan))


def plans() -> dict[str, str]:
    """File name → content."""
    run = {f"{name}-{kind}.txt": text(words, place) for name, words in PLANS.items() for kind, place in PLACES.items()}
    return {**run, **{f"{name}.txt": handed(words) for name, words in HANDED.items()}}


if __name__ == "__main__":
    for name, content in plans().items():
        (Path(__file__).parent / name).write_text(content)
