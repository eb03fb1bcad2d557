"""Paths of a recipe that are on the target: what is known of them here."""

from __future__ import annotations

import hashlib
import io
import json
from functools import partial
from pathlib import Path

import pytest

from runner.compose.schema import Dataset, Model, Recipe, Target, Train
from runner.errors import RecipeError
from runner.execute.survey import packed, survey
from runner.plan import elsewhere, fingerprint
from runner.plan.checks import rows
from runner.plan.elsewhere import Preview


def preview(tmp_path: Path, *paths: Path) -> Preview:
    made = Preview()
    named = dict.fromkeys(map(str, paths), "model.path")
    made.add((json.dumps(line).encode() for line in survey(list(named), tmp_path / "digests")), named, "trn-a")
    return made


def test_the_fingerprint_is_that_of_a_copied_folder(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.bin").write_bytes(b"1" * (2**20 + 1))
    made = preview(tmp_path, folder)
    here = made.path(str(folder))
    assert made.there(here / "config.json") == f"{folder}/config.json"
    assert (here / "model.bin").stat().st_size == 2**20 + 1
    assert not any((here / "model.bin").read_bytes())
    read = partial(fingerprint.hash_file, digest_cache=tmp_path / "cache")
    copied = fingerprint.hash_path(folder, "model.path", read)
    assert fingerprint.hash_path(here, "model.path", made.digest) == copied


def test_rows_that_were_not_sent_are_not_checked_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "large.json").write_text("[" + " " * 2000 + "]")
    (tmp_path / "small.json").write_text("[]")
    monkeypatch.setattr("runner.execute.survey.ROWS", 1000)
    made = preview(tmp_path, tmp_path / "large.json", tmp_path / "small.json")
    names = ("large.json", "small.json")
    assert [rows.can_be_read(made.path(f"{tmp_path}/{name}")) for name in names] == [False, True]


def test_messages_name_what_the_recipe_names(tmp_path: Path) -> None:
    made = Preview()
    assert made.as_written(f"model.path: {made.path('/fsx/llama/config.json')}: not JSON") == (
        "model.path: target:/fsx/llama/config.json: not JSON"
    )
    with pytest.raises(RecipeError, match=r"^model\.path: target:.*/nowhere: no such file or folder on trn-a$"):
        preview(tmp_path, tmp_path / "nowhere")


def test_every_key_may_name_a_path_on_the_target() -> None:
    recipe = Recipe(
        model=Model(path="target:/a", tokenizer="target:/b"),
        dataset=Dataset(path=["target:/c", "here.jsonl"], eval_path="target:/d"),
        train=Train(init_adapter="target:/e"),
    )
    keys = ["model.path", "model.tokenizer", "dataset.path", "dataset.eval_path", "train.init_adapter"]
    assert elsewhere.named(recipe) == dict(zip(["/a", "/b", "/c", "/d", "/e"], keys, strict=True))
    replaced = elsewhere.replaced(recipe, lambda path: f"/here{path}")
    assert (replaced.model.path, replaced.dataset.path) == ("/here/a", ["/here/c", "here.jsonl"])
    assert elsewhere.named(Recipe()) == {}


def test_what_is_on_s3_has_a_place_of_its_own() -> None:
    made = Preview()
    entry = {
        "path": "/s3:/bucket/llama/config.json",
        "size": 2,
        "digest": "2 tag",
        "content": packed(io.BytesIO(b"{}"), "", 2, 2),
    }
    made.add([json.dumps(entry).encode()], {"s3://bucket/llama": "model.path"}, "S3")
    here = made.path_of_object("s3://bucket/llama")
    assert (here / "config.json").read_text() == "{}"
    assert made.there(here / "config.json") == "s3://bucket/llama/config.json"
    assert (
        made.as_written(f"model.path: {here}/config.json: wrong") == "model.path: s3://bucket/llama/config.json: wrong"
    )
    listing = hashlib.sha256(b'[["config.json", "2 tag"]]').hexdigest()
    assert made.listing("s3://bucket/llama") == listing
    assert made.listing("s3://bucket/llama/config.json") == hashlib.sha256(b'[["", "2 tag"]]').hexdigest()


def test_every_key_may_name_an_address_on_s3() -> None:
    recipe = Recipe(model=Model(path="s3://b/model/"), dataset=Dataset(path=["s3://b/rows.jsonl", "target:/c"]))
    assert elsewhere.on_s3(recipe) == {"s3://b/model": "model.path", "s3://b/rows.jsonl": "dataset.path"}
    replaced = elsewhere.replaced(recipe, lambda path: f"/here/{path}", elsewhere.S3)
    assert replaced.dataset.path == ["/here/b/rows.jsonl", "target:/c"]


def test_a_path_on_the_target_is_absolute() -> None:
    with pytest.raises(RecipeError, match="dataset.path: target:rows.jsonl: must be absolute"):
        elsewhere.named(Recipe(dataset=Dataset(path="target:rows.jsonl")))


def test_shapes_are_read_where_the_model_is_known(tmp_path: Path) -> None:
    recipe = Recipe(model=Model(path="target:/fsx/llama"), target=Target(kind="ssh", host="trn-a"))
    assert elsewhere.path_here("/fsx/llama", recipe.target) == Path("/fsx/llama")
    assert elsewhere.path_here("target:/fsx/llama", recipe.target) is None
    elsewhere.replaced(recipe, lambda path: f"/here{path}")
    assert elsewhere.path_here("target:/fsx/llama", recipe.target) == Path("/here/fsx/llama")
    assert elsewhere.path_here("target:/fsx/llama", Target()) is None
