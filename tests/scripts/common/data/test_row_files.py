from __future__ import annotations

import json

import pytest

from common.data.row_files import find
from common.program import BadInput


@pytest.fixture
def folder(tmp_path):
    for name in ("b.jsonl", "a.jsonl", "deep/c.csv.gz", "README.md", ".cache/d.jsonl", "dataset_info.json"):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "data"


def names(found, folder):
    return [str(path.relative_to(folder)) for path in found]


def test_a_folder_is_all_its_files_of_rows(folder):
    assert names(find([str(folder)], "--input"), folder) == ["a.jsonl", "b.jsonl", "deep/c.csv.gz"]


def test_patterns_and_several_names(folder):
    found = find([str(folder / "*.jsonl"), str(folder / "**/*.csv.gz")], "--input")
    assert names(found, folder) == ["a.jsonl", "b.jsonl", "deep/c.csv.gz"]


def test_a_name_that_exists_is_no_pattern(folder):
    (folder / "[a].jsonl").touch()
    assert names(find([str(folder / "[a].jsonl")], "--input"), folder) == ["[a].jsonl"]


def test_a_folder_of_save_to_disk_is_the_files_that_it_lists(folder):
    saved = folder / "saved"
    saved.mkdir()
    for name in ("data-00000.arrow", "data-00001.arrow", "cache-1.arrow"):
        (saved / name).touch()
    listed = [{"filename": "data-00001.arrow"}, {"filename": "data-00000.arrow"}]
    (saved / "state.json").write_text(json.dumps({"_data_files": listed}))
    assert [path.name for path in find([str(saved)], "--input")] == ["data-00001.arrow", "data-00000.arrow"]
    (folder / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(BadInput, match="holds the splits train, test; name one, such as .*/data/train"):
        find([str(folder)], "--input")


def test_what_is_not_there_is_told(folder):
    with pytest.raises(BadInput, match="--input .*none: no such file"):
        find([str(folder / "none")], "--input")
    (folder / "empty").mkdir()
    with pytest.raises(BadInput, match="a folder without files of rows"):
        find([str(folder / "empty")], "--input")


def test_upper_case_suffixes_count(folder):
    (folder / "E.JSONL").touch()
    assert "E.JSONL" in names(find([str(folder)], "--input"), folder)
