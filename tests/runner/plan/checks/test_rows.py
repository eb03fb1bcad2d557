"""The plan reads rows as the stage programs do: the two readers stand on the two sides of the wall."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from common.data import rows as of_stages
from common.program import BadInput
from runner.plan.checks import rows

FILES = {
    "a.jsonl": b'{"q": 1}\n\n{"q": [2], "r": null}\n',
    "a.ndjson": b'\xef\xbb\xbf{"q": "\xc3\xa9"}',
    "array.json": b' [{"q": 1},\n {"q": 2}]',
    "lines.json": b'{"q": 1}\n{"q": 2}\n',
    "key.json": b'{"version": 1, "data": [{"q": 1}, {"q": 2}]}',
    "pretty.json": b'{\n "data": [\n  {"q": 1}\n ]\n}\n',
    "chat.json": b'{"messages": [{"role": "user"}]}',
    "two.json": b'{"a": [{"q": 1}], "b": [{"q": 1}]}',
    "a.csv": b'q,r\n"a,\n""b""",1\n',
    "semicolon.csv": b'"q, or so";r\n"a,b";1\n',
    "one.csv": b"text\na\n",
    "excel.csv": b"\xef\xbb\xbfsep=;\r\nq,r;s\r\na,b;1\r\n",
    "pandas.json": b'{"q": {"0": "a", "1": "b"}, "r": {"0": 1, "1": null}}',
    "row.json": b'{"q": {"0": "a", "1": "b"}, "r": 1}',
    "preferences.json": b'{"chosen": [{"role": "user"}], "rejected": [{"role": "user"}]}',
    "a.tsv": b"q\tr\na,b\t1\n",
}
BAD = {
    "broken.jsonl": b'{"q": 1}\n{"q": \n',
    "list.jsonl": b"[1]\n",
    "none.json": b'{\n "a": 1\n}\n',
    "splits.json": b'{"train": [{"q": 1}], "test": [{"q": 1}]}',
    "latin.csv": b"q\n\xe9\n",
    "short.csv": b"q,r\na\n",
    "twice.csv": b"q,q\na,b\n",
    "quote.csv": b'q,r\n"a,b\n',
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", FILES)
def test_both_read_the_same_rows(tmp_path: Path, name: str, packed: bool) -> None:
    path = tmp_path / (f"{name}.gz" if packed else name)
    path.write_bytes(gzip.compress(FILES[name]) if packed else FILES[name])
    assert rows.can_be_read(path)
    found = list(rows.read(path))
    assert found
    assert found == list(of_stages.read([path], []))


@pytest.mark.parametrize("name", BAD)
def test_both_refuse_the_same_files(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(BAD[name])
    with pytest.raises(rows.BadRow):
        list(rows.read(path))
    with pytest.raises(BadInput):
        list(of_stages.read([path], []))
    truncated = tmp_path / f"{name}.gz"
    truncated.write_bytes(gzip.compress(FILES["a.jsonl"] * 999)[:-9])
    with pytest.raises(rows.BadRow):
        list(rows.read(truncated))
    with pytest.raises(BadInput):
        list(of_stages.read([truncated], []))
