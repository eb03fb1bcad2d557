"""Recorded runs that have a real model and adapter to serve, made by the real executor from steps that copy them."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from runner.compose.recipe import compose
from runner.execute.executor import execute
from runner.plan.model import Plan, Step
from runner.record import create
from runner.record.runs import Run

_TEMPLATE = {"sections": ["{question}"], "separator": "\n", "response": "{answer}"}
COPY = "import shutil, sys; shutil.copytree(sys.argv[2], sys.argv[1], dirs_exist_ok=True)"


def a_run(folder: Path, model: Path, adapter: Path, *overrides: str, base: str = "a", number: int = 1) -> Run:
    """A finished run in folder/runs, with the base model of key `base`; other numbers are other adapters."""
    words = [f"paths.runs={folder}/runs", f"paths.store={folder}/store", *overrides]
    composed, store = compose("quickstart", words), folder / "store"
    exported = folder / f"exported-{number}"
    if not exported.exists():
        shutil.copytree(adapter, exported / "adapter")
        config = exported / "adapter" / "adapter_config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"lora_alpha": 8 * number}))
    tokens = folder / "tokens"
    tokens.mkdir(exist_ok=True)
    (tokens / "template.json").write_text(json.dumps(_TEMPLATE))
    made = {f"fetch-{base}": model, "tokenize-1": tokens, f"export-{number:016x}": exported}
    plan = Plan("quickstart", str(store), tuple(_step(store, key, source) for key, source in made.items()))
    place = create.create(composed, plan)
    assert execute(plan.as_json(), place) == 0
    return Run(place)


def _step(store: Path, key: str, source: Path) -> Step:
    argv = (sys.executable, "-c", COPY, str(store / "partial" / key), str(source))
    return Step(key.partition("-")[0], "copy", key, argv, {}, True, False)
