"""The stages of the pipeline in their order; each module drafts the command line of one."""

from __future__ import annotations

from collections.abc import Callable

from runner.compose.schema import Recipe
from runner.plan.command import Artifacts, Draft
from runner.plan.stages import compile, convert, evaluate, export, fetch, modelling, serve, tokenize, train

STAGES: dict[str, Callable[[Recipe, Artifacts], Draft | None]] = {
    "modelling": modelling.draft,
    "fetch": fetch.draft,
    "tokenize": tokenize.draft,
    "convert": convert.draft,
    "compile": compile.draft,
    "train": train.draft,
    "export": export.draft,
    "evaluate": evaluate.draft,
    "serve": serve.draft,
}
