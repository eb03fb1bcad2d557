from __future__ import annotations

import json

import pytest

from common.program import BadInput
from common.rows import read, reader

ROWS = [{"q": 'a,\n"b" {x}', "n": "1"}, {"q": "é", "n": "2"}, {"q": "", "n": "1"}]


def write(folder, suffix):
    path = folder / f"data{suffix}"
    if suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    elif suffix == ".csv":
        lines = ["q,n", '"a,\n""b"" {x}",1', "é,2", '"",1']
        path.write_text("\n".join(lines), encoding="utf-8-sig")
    elif suffix == ".json":
        path.write_text(json.dumps(ROWS, indent=2))
    else:
        path.write_text("\n".join(json.dumps(row) for row in ROWS) + "\n\n")
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_every_format_gives_the_same_rows(tmp_path, suffix):
    assert [row.fields for row in read([write(tmp_path, suffix)], [])] == ROWS


def test_json_lines_under_the_name_json(tmp_path):
    path = write(tmp_path, ".jsonl").rename(tmp_path / "lines.json")
    assert [row.fields for row in read([path], [])] == ROWS


def test_several_files_and_a_filter(tmp_path):
    files = [write(tmp_path, ".jsonl"), write(tmp_path, ".csv")]
    found = [(row.fields["q"], row.place.rpartition("/")[2]) for row in read(files, [("n", "1"), ("q", "")])]
    assert found == [("", "data.jsonl:3"), ("", "data.csv:5")]


def test_a_filter_on_a_column_that_is_not_there(tmp_path):
    with pytest.raises(BadInput, match=r"data\.jsonl:1: no column 'category' \(--where\); the columns are q, n"):
        list(read([write(tmp_path, ".jsonl")], [("category", "qa")]))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"q": 1}\n{"q": \n', r"a\.jsonl:2: not JSON"),
        ("a.jsonl", b'{"q": 1}\n["q"]\n', r"a\.jsonl:2: a list, not an object"),
        ("a.jsonl", b'{"q": "\xff"}\n', r"a\.jsonl: not UTF-8"),
        ("a.jsonl", b"[" * 100_000, r"a\.jsonl:1: not JSON"),
        ("a.json", b'[{"q": 1}, {"q"', r"a\.json: not JSON"),
        ("a.json", b'[{"q": 1}, 2]', r"a\.json: entry 2: a int"),
        ("a.csv", b"q,n\n1,2\n3\n", r"a\.csv:3: not as many values"),
        ("a.csv", b"q,n\n1,2,3\n", r"a\.csv:2: not as many values"),
        ("a.csv", b"q,q\n1,2\n", r"a\.csv:1: two columns"),
        ("a.csv", b'q,n\n"1"x,2\n', r"a\.csv:2: broken CSV"),
        ("a.parquet", b"PAR1xxxx", r"a\.parquet: truncated or not Parquet"),
    ],
)
def test_broken_files_name_the_place(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(BadInput, match=message):
        list(read([path], []))


def test_a_truncated_parquet_file(tmp_path):
    path = write(tmp_path, ".parquet")
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(BadInput, match="truncated or not Parquet"):
        list(read([path], []))


def test_an_unknown_suffix(tmp_path):
    with pytest.raises(BadInput, match=r"none of \.jsonl, \.json, \.csv, \.parquet"):
        reader(tmp_path / "data.txt")
