"""Rows and their prompt template → arrays of tokens."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from runner.compose.schema import Dataset, Recipe
from runner.errors import RecipeError
from runner.plan.command import OUTPUT, Argument, Artifacts, StageCommand, flags
from runner.plan.packages import CHAT, HUB, PARQUET
from runner.plan.stages.fetch import check_hub_name


def command(recipe: Recipe, artifacts: Artifacts) -> StageCommand:
    dataset = recipe.dataset
    words = [
        "--model", artifacts.path("fetch"),
        *_rows(dataset, artifacts),
        *_held_out(dataset, artifacts),
        "--template", json.dumps(dataclasses.asdict(dataset.template)),
        *flags(seq_len=dataset.seq_len, pack=dataset.pack, loss_on=dataset.loss_on, seed=dataset.seed),
        *flags(train_rows=dataset.train_rows or None),
        *(f"--where={column}={value}" for column, value in dataset.where.items()),
        "--output", OUTPUT,
    ]  # fmt: skip
    title = f"tokenize {dataset.name} to sequences of {dataset.seq_len}"
    return StageCommand(title, "tokenize_dataset.py", words, uses=list(_uses(dataset)))


def _uses(dataset: Dataset) -> Iterator[str]:
    files = [dataset.path, dataset.eval_path or ""]
    if dataset.source == "hub":
        yield HUB
    if dataset.template.chat:
        yield CHAT
    if any(Path(file).suffix == ".parquet" for file in files):
        yield PARQUET


def _rows(dataset: Dataset, artifacts: Artifacts) -> Sequence[str | Argument]:
    if not dataset.path:
        raise RecipeError("dataset.path: says where the rows are; for example dataset.path=rows.jsonl")
    if dataset.source == "hub":
        check_hub_name(dataset.path, "dataset.path")
        return ["--hub", dataset.path, *flags(revision=dataset.revision, hub_split=dataset.split)]
    return ["--input", artifacts.external(dataset.path, "dataset.path")]


def _held_out(dataset: Dataset, artifacts: Artifacts) -> Sequence[str | Argument]:
    if dataset.eval_path:
        return ["--eval-input", artifacts.external(dataset.eval_path, "dataset.eval_path")]
    return flags(eval_rows=dataset.eval_rows)
