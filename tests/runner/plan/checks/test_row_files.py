"""A plan and the tokenizer take the same files for the rows of a data set."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from common.data import row_files as of_stages
from common.program import BadInput
from runner.errors import RecipeError
from runner.plan.checks import row_files

KEY = "dataset.path"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = ["b.jsonl", "[b].jsonl", "A.JSONL", "deep/c.csv.gz"]
    for name in [*rows, ".cache/d.jsonl", "dataset_info.json", "README.md"]:
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.touch()
    return tmp_path


def found(name: Path) -> list[str]:
    files = row_files.find(str(name), KEY)
    assert files == of_stages.find([str(name)], "--input")
    return [file.name for file in files]


def refused(name: Path, reason: str) -> None:
    with pytest.raises(RecipeError, match=f"{KEY}: .*{reason}"):
        row_files.find(str(name), KEY)
    with pytest.raises(BadInput, match=reason):
        of_stages.find([str(name)], "--input")


def test_a_folder_is_all_its_files_of_rows(folder: Path) -> None:
    assert found(folder) == ["A.JSONL", "[b].jsonl", "b.jsonl", "c.csv.gz"]


def test_a_pattern_is_its_files_and_a_name_that_exists_is_no_pattern(folder: Path) -> None:
    assert found(folder / "*.jsonl") == ["[b].jsonl", "b.jsonl"]
    assert found(folder / "**/*.csv.gz") == ["c.csv.gz"]
    assert found(folder / "[b].jsonl") == ["[b].jsonl"]


def test_a_folder_without_rows_is_refused(folder: Path) -> None:
    empty = folder / "empty"
    empty.mkdir()
    refused(empty, "a folder without files of rows")


def save(folder: Path, listed: object) -> Path:
    """As `save_to_disk` does it, with the cache of a later `map` beside it."""
    saved = folder / "saved"
    saved.mkdir(exist_ok=True)
    for name in ("data-00000.arrow", "cache-1.arrow"):
        (saved / name).touch()
    (saved / "state.json").write_text(listed if isinstance(listed, str) else json.dumps(listed))
    return saved


def test_a_folder_of_save_to_disk_is_the_files_that_it_lists(folder: Path) -> None:
    assert found(save(folder, {"_data_files": [{"filename": "data-00000.arrow"}]})) == ["data-00000.arrow"]
    assert found(save(folder, {"epoch": 3})) == ["cache-1.arrow", "data-00000.arrow"]


DAMAGED = {
    "cut": '{"_data_files": [', "deep": "[" * 100_000, "list": [], "number": {"_data_files": 3},
    "names": {"_data_files": ["a"]},
}  # fmt: skip


@pytest.mark.parametrize("listed", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_list_is_refused(folder: Path, listed: object) -> None:
    refused(save(folder, listed), "state.json: ")


def test_of_several_splits_one_is_to_be_named(folder: Path) -> None:
    (folder / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    refused(folder, "holds the splits train, test; name one, such as .*/train")
    (folder / "dataset_dict.json").write_text('{"splits": 3}')
    refused(folder, "dataset_dict.json: its splits are not what save_to_disk writes")
