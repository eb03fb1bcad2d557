"""`runner export`: the trained model of a run as a folder to share, with a model card."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from runner import targets
from runner.commands.bucket import Bucket
from runner.commands.fetching import fetch_adapter
from runner.commands.hub import Hub
from runner.commands.serve.generate import artifact
from runner.compose.schema import Recipe
from runner.errors import RecipeError
from runner.execute import files
from runner.metrics import EVALUATION, compared
from runner.paths import SCRIPTS
from runner.plan.elsewhere import S3
from runner.plan.stages import server_options
from runner.record.runs import Run, find

_CARD = "README.md"

# How to load each format, for the card.
_USE = {
    "peft": """```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{base}")
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("{base}"), "{folder}")
{ask}```

vLLM: `vllm serve {base} --enable-lora --max-lora-rank {rank} --lora-modules adapter={folder}`""",
    "merged": """The adapter is merged in; it loads as any model does: `vllm serve {folder}`, or

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{base}")
model = AutoModelForCausalLM.from_pretrained("{folder}")
{ask}```
""",
    "nxd": """The LoRA checkpoint of neuronx-distributed, {tp_size} tensor-parallel rank(s) in {layout} order of heads
(`layout.json`): `LoraConfig(..., load_lora_from_ckpt=True, lora_save_dir="{folder}", lora_load_tag="lora")`.""",
}

# The rest of that code, if the run was evaluated: a held-out prompt, as it was asked.
_ASK = """
prompt = {prompt!r}
tokens = tokenizer(prompt, return_tensors="pt", add_special_tokens={special})
answer = model.generate(**tokens, max_new_tokens={most}, do_sample=False)
print(tokenizer.decode(answer[0, tokens["input_ids"].shape[1] :], skip_special_tokens=True))
"""

# The hub's name of a base model's licence, by the first part of the model's name.
_LICENSES = {
    "meta-llama/Meta-Llama-3-": "llama3",
    "meta-llama/Llama-3.1-": "llama3.1",
    "meta-llama/Llama-3.2-": "llama3.2",
    "meta-llama/Llama-3.3-": "llama3.3",
    "mistralai/Mistral-7B-": "apache-2.0",
    "Qwen/Qwen3-": "apache-2.0",
    "HuggingFaceTB/SmolLM2-": "apache-2.0",
}

# Licence terms that pass on to recipients, by the first part of the name of the base model or data set.
_TERMS = {
    "meta-llama/": 'Meta\'s community licence: pass it on, show "Built with Llama", begin the name with "Llama".',
    "databricks/databricks-dolly-15k": "CC BY-SA 3.0: name the source.",
    "b-mc2/sql-create-context": "CC BY 4.0: name the source.",
}


class Base(NamedTuple):
    """The base model of an export, by the name with which it is loaded."""

    name: str  # an id on the hub, or a folder of this machine
    on_hub: bool


def export(run: Run, format: str, output: Path, base_model: str | None = None) -> None:
    """Write the folder `output`, complete or not at all; `base_model` is the id on the hub of a local base model.

    Raises RecipeError if `output` already exists.
    """
    if output.exists():
        raise RecipeError(f"{output}: already exists; choose a new folder")
    recipe = run.typed_recipe()
    base = base_of(run, recipe, base_model)
    with files.made_aside(output) as made:
        _WRITERS[format](run, recipe, base, made)
        (made / _CARD).write_text(card(run, recipe, base, format, output.name), encoding="utf-8")


def _peft(run: Run, recipe: Recipe, base: Base, folder: Path) -> None:
    fetch_adapter(run)
    shutil.copytree(artifact(run, "export", "adapter"), folder, dirs_exist_ok=True)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | {"base_model_name_or_path": base.name}
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _merged(run: Run, recipe: Recipe, base: Base, folder: Path) -> None:
    """Copy the run's merged model, or merge the adapter now if the run did not."""
    merged = run.folder / "artifacts" / "export" / "merged"
    if merged.is_dir():
        shutil.copytree(merged, folder, dirs_exist_ok=True)
        return
    work = folder / "work"
    inputs = {"--model": artifact(run, "fetch"), "--adapter": artifact(run, "train"), "--output": work}
    args = [str(arg) for pair in inputs.items() for arg in pair]
    try:
        python = targets.of(recipe.target).place(recipe).python
        command = [python, str(SCRIPTS / "export_adapter.py"), *args, "--merge"]
        if subprocess.run(command, check=False).returncode:
            raise RecipeError(f"{run.name}: the adapter cannot be merged; see the output of export_adapter.py above")
        for file in (work / "merged").iterdir():
            file.rename(folder / file.name)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _nxd(run: Run, recipe: Recipe, base: Base, folder: Path) -> None:
    trained = artifact(run, "train")
    shutil.copytree(trained / "lora_adapter", folder, dirs_exist_ok=True)
    shutil.copyfile(trained / "layout.json", folder / "layout.json")


_WRITERS: Mapping[str, Callable[[Run, Recipe, Base, Path], None]] = {"peft": _peft, "merged": _merged, "nxd": _nxd}


def base_of(run: Run, recipe: Recipe, named: str | None = None) -> Base:
    """What to load as the base model: its id on the hub, its folder, or the folder converted from a GGUF file."""
    if named or recipe.model.source == "hub":
        return Base(named or recipe.model.path, on_hub=True)
    args = next(step["argv"] for step in run.plan["steps"] if step["stage"] == "fetch")
    if "--folder" in args:
        folder = args[args.index("--folder") + 1]
        return Base(run.plan["carried"].get(folder, folder), on_hub=False)
    return Base(str((run.folder / "artifacts" / "fetch").resolve()), on_hub=False)


def card(run: Run, recipe: Recipe, base: Base, format: str, name: str) -> str:
    """The model card in Markdown, with front matter for the Hugging Face hub."""
    lora, parallel = recipe.train.lora, recipe.parallel
    use = _USE[format].format(
        base=base.name, folder=name, rank=server_options.max_lora_rank(lora.rank), tp_size=parallel.tp_size,
        layout=recipe.hardware.layout, ask=_ask(run, recipe),
    )  # fmt: skip
    parts = [
        f"---\n{yaml.safe_dump(_front_matter(run, recipe, base, format, name), sort_keys=False)}---\n# {name}\n",
        f"LoRA of rank {lora.rank} (alpha {lora.alpha:g}{', rsLoRA' * lora.rslora}) on {', '.join(lora.targets)} of "
        f"**{base.name}**, fine-tuned on **{_data_of(recipe)}** in the run `{run.name}`.\n",
        f"## Use\n\n{use}\n\n## Prompt\n\nThe prompt must be written as in training:\n\n"
        f"```json\n{json.dumps(run.recipe['dataset']['template'], indent=1, ensure_ascii=False)}\n```\n",
        _results(run),
        f"## Training\n\n```yaml\n{yaml.safe_dump(run.recipe['train'], sort_keys=False)}```\n",
        f"## Licence\n\n{_terms(recipe, base)}\n",
    ]
    return "\n".join(part for part in parts if part)


def _ask(run: Run, recipe: Recipe) -> str:
    """Code that asks the loaded model a question of the evaluation; empty if there was none."""
    samples, template = run.samples(1), recipe.dataset.template
    if not samples:
        return ""
    plain = template.chat is False or (template.chat is None and bool(template.sections))
    # A chat template writes the special tokens itself.
    return _ASK.format(prompt=samples[0]["prompt"], special=plain, most=recipe.evaluate.max_new_tokens)


def _front_matter(run: Run, recipe: Recipe, base: Base, format: str, name: str) -> dict[str, Any]:
    library = {"peft": "peft", "merged": "transformers", "nxd": "neuronx-distributed"}[format]
    data = {"datasets": recipe.dataset.paths} if recipe.dataset.source == "hub" else {}
    origin = {"base_model": base.name} if base.on_hub else {}
    if origin and format == "peft":
        origin["base_model_relation"] = "adapter"
    licence = next((licence for start, licence in _LICENSES.items() if base.name.startswith(start)), None)
    tags = ["lora", "trainium", "text-generation"]
    return {
        "library_name": library, **origin, **({"license": licence} if licence else {}), **data,
        "pipeline_tag": "text-generation", "tags": tags, **_model_index(run, recipe, name),
    }  # fmt: skip


def _model_index(run: Run, recipe: Recipe, name: str) -> dict[str, Any]:
    """The adapter's metrics as the hub reads them; empty if there was no evaluation."""
    report = run.result("evaluate", "report.json")
    if not report:
        return {}
    measured = {key: value for key, value in report["adapter"].items() if key in EVALUATION}
    metrics = [{"type": key, "name": EVALUATION[key].title, "value": value} for key, value in measured.items()]
    dataset = {"name": recipe.dataset.name, "type": _data_of(recipe)}
    result = {"task": {"type": "text-generation"}, "dataset": dataset, "metrics": metrics}
    return {"model-index": [{"name": name, "results": [result]}]}


def _results(run: Run) -> str:
    report = run.result("evaluate", "report.json")
    if not report:
        return ""
    rows = [
        f"| {metric.title} | {metric.text(base)} | {metric.text(adapter)} |"
        for metric, base, adapter in compared(report)
    ]
    head = f"## Results\n\nOn {report['examples']} held-out examples:\n\n| | base | adapter |\n|---|---:|---:|"
    return "\n".join([head, *rows]) + "\n"


def _data_of(recipe: Recipe) -> str:
    return ", ".join(recipe.dataset.paths) if recipe.dataset.source == "hub" else recipe.dataset.name


def _terms(recipe: Recipe, base: Base) -> str:
    """The licence terms that are known; only the owners can say more."""
    names = (base.name, _data_of(recipe))
    lines = [f"The terms of the base model ({names[0]}) and of the data ({names[1]}) apply to the result."]
    for name in names:
        lines += [f"* {name}: {terms}" for start, terms in _TERMS.items() if name.startswith(start)]
    return "\n".join(lines)


def export_command(args: argparse.Namespace) -> int:
    """Write what a run trained, and upload it if that is asked for."""
    run = find(args.run, args.folder, having="export")
    remote = _remote(args.push, run, args.base_model) if args.push else None  # refuses before anything is written
    export(run, args.format, args.output, args.base_model)
    print(args.output)
    if remote:
        print(remote.push(args.output))
    return 0


def _remote(name: str, run: Run, base_model: str | None) -> Hub | Bucket:
    if name.startswith(S3):
        return Bucket(name)
    _check_base(run, base_model)
    return Hub(name)


def _check_base(run: Run, named: str | None) -> None:
    """Raise RecipeError if what is published would name a folder of this machine as its base model."""
    base = base_of(run, run.typed_recipe(), named)
    if not base.on_hub:
        raise RecipeError(
            f"--push: the base model is a folder of this machine, {base.name}, which others do not have; "
            "--base-model OWNER/NAME says what it is on the hub"
        )
