"""Rows and their prompt template → arrays of tokens."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from runner.compose.schema import Dataset, Recipe, Template
from runner.errors import RecipeError
from runner.plan.checks import row_files
from runner.plan.checks.dataset import formats_of
from runner.plan.checks.row_formats import is_written
from runner.plan.checks.rows import suffixes
from runner.plan.command import OUTPUT, Argument, Artifacts, StageCommand, flags
from runner.plan.packages import CHAT, HUB, PARQUET
from runner.plan.stages.fetch import check_hub_name


def command(recipe: Recipe, artifacts: Artifacts) -> StageCommand:
    dataset = recipe.dataset
    formats = formats_of(dataset)
    arguments = [
        "--model", artifacts.path("fetch"),
        *_rows(dataset, artifacts),
        *_held_out(dataset, artifacts),
        *_written(dataset),
        *flags(seq_len=dataset.seq_len, pack=dataset.pack, loss_on=dataset.loss_on, seed=dataset.seed),
        *flags(train_rows=dataset.train_rows or None, long=None if dataset.long == "drop" else dataset.long),
        *flags(weights=[f"{weight:g}" for weight in dataset.weights] or None),
        *(f"--where={column}={value}" for column, value in dataset.where.items()),
        "--output", OUTPUT,
    ]  # fmt: skip
    as_formats = f" as {' and '.join(formats)}" if formats else ""
    title = f"tokenize {dataset.name}{as_formats} to sequences of {dataset.seq_len}"
    return StageCommand(title, "tokenize_dataset.py", arguments, uses=list(_uses(dataset)))


def _written(dataset: Dataset) -> Sequence[str]:
    """How rows are written: by the recipe's template, or by their formats."""
    template = dataset.template
    if is_written(template):
        return ["--template", template_json(template)]
    chat = {None: [], True: ["--chat"], False: ["--no-chat"]}[template.chat]
    return ["--format", dataset.format or "auto", *chat, *flags(system=template.system)]


def template_json(template: Template) -> str:
    """The template with the keys of its kind: of a conversation, or of a prompt and its response."""
    values = dataclasses.asdict(template) | {"chat": bool(template.chat or template.turns)}
    unused = ("sections", "separator", "response") if template.turns else ("turns", "tools")
    unused = (*unused, *([] if template.history else ["history"]))
    return json.dumps({key: value for key, value in values.items() if key not in unused})


def _uses(dataset: Dataset) -> Iterator[str]:
    names = [*dataset.paths, dataset.eval_path or ""]
    if dataset.source == "hub":
        yield HUB
    if dataset.template.chat or dataset.template.turns or not is_written(dataset.template):
        yield CHAT
    if dataset.source == "files":
        files = (file for name in names if name for file in row_files.find(name, "dataset.path"))
        if any(map(_needs_arrow, files)):
            yield PARQUET


def _needs_arrow(path: Path) -> bool:
    kind, packing = suffixes(path)
    return kind in (".parquet", ".arrow") or packing == ".zst"


def _rows(dataset: Dataset, artifacts: Artifacts) -> Sequence[str | Argument]:
    if not dataset.path:
        raise RecipeError("dataset.path: says where the rows are; for example dataset.path=rows.jsonl")
    if dataset.source == "hub":
        for name in dataset.paths:
            check_hub_name(name, "dataset.path")
        named = [word for name in dataset.paths for word in ("--hub", name)]
        return [*named, *flags(revision=dataset.revision, hub_split=dataset.split, hub_config=dataset.config)]
    return [word for path in dataset.paths for word in ("--input", *_files(path, "dataset.path", artifacts))]


def _files(name: str, key: str, artifacts: Artifacts) -> list[Argument]:
    return [artifacts.external(str(path), key) for path in row_files.named(name)]


def _held_out(dataset: Dataset, artifacts: Artifacts) -> Sequence[str | Argument]:
    if dataset.eval_path:
        return ["--eval-input", *_files(dataset.eval_path, "dataset.eval_path", artifacts)]
    return flags(eval_rows=dataset.eval_rows)
