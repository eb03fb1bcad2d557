"""The stages of the pipeline in their order; each module drafts the command line of one."""

from __future__ import annotations

from collections.abc import Callable

from runner.compose.schema import Recipe
from runner.plan.command import Artifacts, StageCommand
from runner.plan.stages import compile, convert, download, evaluate, export, fetch, modelling, serve, tokenize, train

STAGES: dict[str, Callable[[Recipe, Artifacts], StageCommand | None]] = {
    "modelling": modelling.command,
    "download_model": download.model,
    "download_data": download.data,
    "download_adapter": download.adapter,
    "fetch": fetch.command,
    "tokenize": tokenize.command,
    "convert": convert.command,
    "compile": compile.command,
    "train": train.command,
    "export": export.command,
    "evaluate": evaluate.command,
    "serve": serve.command,
}
