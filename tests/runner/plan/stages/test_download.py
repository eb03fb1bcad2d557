"""What a recipe names on S3 is copied by a stage of its own, and read from there."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from planned import recipe_of

from runner.compose.schema import Recipe
from runner.plan import elsewhere
from runner.plan.command import Artifacts, Place, StageCommand
from runner.plan.stages import download

FILES = ("models/llama/config.json", "other/tokenizer.json", "rows/a.jsonl", "rows/b.jsonl", "held.jsonl",
         "adapter/adapter_config.json")  # fmt: skip
NAMED = [
    "model.path=s3://b/models/llama", "model.tokenizer=s3://b/other", "dataset.path='s3://b/rows/*.jsonl'",
    "dataset.eval_path=s3://b/held.jsonl", "train.init_adapter=s3://b/adapter",
]  # fmt: skip


@pytest.fixture
def preview() -> elsewhere.Preview:
    made = elsewhere.Preview()
    content = base64.b64encode(zlib.compress(b"{}")).decode()
    lines = [{"path": f"/s3:/b/{name}", "size": 2, "digest": "2 tag", "content": content} for name in FILES]
    made.add((json.dumps(line).encode() for line in lines), {}, "S3")
    return made


def planned(
    preview: elsewhere.Preview, stage: Callable[[Recipe, Artifacts], StageCommand | None], *overrides: str
) -> tuple[StageCommand | None, Artifacts]:
    recipe = elsewhere.replaced(
        recipe_of(*overrides), lambda path: str(preview.path_of_object(f"s3://{path}")), elsewhere.S3
    )
    artifacts = Artifacts(Place(Path("/code"), Path("/store"), preview=preview))
    return stage(recipe, artifacts), artifacts


def copied(command: StageCommand | None) -> dict[str, str]:
    """The addresses, with their places in the artifact."""
    assert command
    words = [getattr(argument, "text", argument) for argument in command.arguments]
    return {words[at + 1]: words[at + 2] for at, word in enumerate(words) if word == "--copy"}


def test_each_has_a_stage_and_is_read_from_its_artifact(preview: elsewhere.Preview) -> None:
    for stage, name, expected in (
        (download.model, "download_model", {"s3://b/models/llama": "0/llama", "s3://b/other": "1/other"}),
        (
            download.data,
            "download_data",
            {
                "s3://b/rows/a.jsonl": "0/a.jsonl",
                "s3://b/rows/b.jsonl": "1/b.jsonl",
                "s3://b/held.jsonl": "2/held.jsonl",
            },
        ),
        (download.adapter, "download_adapter", {"s3://b/adapter": "0/adapter"}),
    ):
        command, artifacts = planned(preview, stage, *NAMED)
        assert copied(command) == expected
        assert command
        assert (command.resumable, command.pushed) == (True, False)
        artifacts.keys[name] = f"{name}-1"
        for address, place in expected.items():
            read = artifacts.external(str(preview.path_of_object(address)), "key")
            assert read.text == f"/store/objects/{name}-1/{place}"


def test_a_recipe_without_addresses_has_no_such_stage(preview: elsewhere.Preview) -> None:
    for stage in (download.model, download.data, download.adapter):
        assert planned(preview, stage)[0] is None


def test_another_listing_is_another_artifact(preview: elsewhere.Preview) -> None:
    def fingerprint() -> list[str]:
        command, _ = planned(preview, download.model, *NAMED)
        assert command
        return [getattr(argument, "fingerprint", argument) for argument in command.arguments]

    before = fingerprint()
    preview._digests[preview.path_of_object("s3://b/models/llama/config.json")] = "2 other"
    assert fingerprint() != before
