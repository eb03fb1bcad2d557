"""The stages of the pipeline in their order; each module drafts the command line of one."""

from __future__ import annotations

from collections.abc import Callable

from runner.draft import Artifacts, Draft
from runner.schema import Recipe
from runner.stages import convert, evaluate, export, fetch, serve, tokenize, train

STAGES: dict[str, Callable[[Recipe, Artifacts], Draft | None]] = {
    "fetch": fetch.draft,
    "tokenize": tokenize.draft,
    "convert": convert.draft,
    "train": train.draft,
    "export": export.draft,
    "evaluate": evaluate.draft,
    "serve": serve.draft,
}
