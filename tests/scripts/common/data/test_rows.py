from __future__ import annotations

import datetime
import gzip
import json
from decimal import Decimal

import pytest

from common.data.rows import read, reader
from common.program import BadInput

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
        ("a.jsonl", b'{"q": ' + b"[" * 900 + b"]" * 900 + b"}", r"a\.jsonl:1: nested too deeply|not JSON"),
        ("a.csv", b'q,n\n"a,2\n', r"a\.csv:\d: broken CSV"),
        ("a.csv", "q,n\n1,2\n".encode("utf-16"), r"a\.csv: not UTF-8"),
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


def parquet(folder, **columns):
    import pyarrow
    import pyarrow.parquet

    path = folder / "data.parquet"
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


def test_what_json_does_not_have_comes_as_text(tmp_path):
    import pyarrow as pa

    nanoseconds = pa.timestamp("ns")
    path = parquet(
        tmp_path,
        day=[datetime.date(2024, 1, 2)],
        time=[datetime.datetime(2024, 1, 2, 3, 4, 5)],
        price=[Decimal("1.50")],
        text=[b"caf\xc3\xa9"],
        image=[b"\xff\x00"],
        missing=[float("nan")],
        endless=[float("inf")],
        nested=[{"days": [datetime.date(2024, 1, 2)], "n": 1, "none": None}],
        mapping=pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())),
        exact=pa.array([1700000000123456789], nanoseconds),
        exacts=pa.array([[1700000000123456789]], pa.list_(nanoseconds)),
        exactly=pa.array([{"at": 1700000000123456789}], pa.struct([("at", nanoseconds)])),
        far=pa.array([10**17], pa.timestamp("ms")),
        lasted=pa.array([123], pa.duration("ns")),
    )
    [row] = read([path], [("price", "1.50"), ("day", "2024-01-02")])
    exact = "2023-11-14 22:13:20.123456789"
    assert row.fields | {"far": None} == {
        "day": "2024-01-02", "time": "2024-01-02 03:04:05", "price": "1.50", "text": "café", "image": "\\xff\x00",
        "missing": None, "endless": "inf", "nested": {"days": ["2024-01-02"], "n": 1, "none": None},
        "mapping": [["a", 1]], "exact": exact, "exacts": [exact], "exactly": {"at": exact},
        "far": None, "lasted": "123",
    }  # fmt: skip
    assert "100000000000000000" in row.fields["far"]
    json.dumps(row.fields, allow_nan=False)


def test_a_column_that_cannot_be_read_is_named(tmp_path):
    import pyarrow as pa

    broken = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff")])
    with pytest.raises(BadInput, match=r"data\.parquet: column 'text' cannot be read, leave it out: "):
        list(read([parquet(tmp_path, q=["a"], text=broken)], []))


def test_numbers_that_json_spells_and_does_not_have(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": NaN, "b": [Infinity, -Infinity, 1e999], "c": 1.5}\n')
    assert [row.fields for row in read([path], [])] == [{"a": None, "b": ["inf", "-inf", "inf"], "c": 1.5}]


@pytest.mark.parametrize("break_", ["\u2028", "\u2029", "\x85", "\x0b", "\x1c"])
def test_a_line_ends_where_the_file_says(tmp_path, break_):
    (tmp_path / "rows.jsonl").write_text(json.dumps({"q": f"a{break_}b"}, ensure_ascii=False) + "\n", encoding="utf-8")
    (tmp_path / "rows.csv").write_text(f"q\na{break_}b\n", encoding="utf-8")
    for name in ("rows.jsonl", "rows.csv"):
        assert [row.fields for row in read([tmp_path / name], [])] == [{"q": f"a{break_}b"}]


def test_quoting_in_csv_as_spreadsheets_write_it(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_bytes('\ufeff"q","n"\r\n"say ""hi""",a "b" c\r\n"two\r\nlines",\r\n'.encode())
    assert [row.fields for row in read([path], [])] == [
        {"q": 'say "hi"', "n": 'a "b" c'},
        {"q": "two\r\nlines", "n": ""},
    ]


def test_an_unknown_suffix(tmp_path):
    with pytest.raises(BadInput, match=r"none of \.jsonl, \.ndjson, \.json, \.csv, \.tsv, \.parquet, \.arrow"):
        reader(tmp_path / "data.txt")


def packed(path, content: bytes):
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(content))
    else:
        import pyarrow

        path.write_bytes(pyarrow.compress(content, codec="zstd", asbytes=True))
    return path


@pytest.mark.parametrize("packing", [".gz", ".zst"])
@pytest.mark.parametrize("suffix", [".jsonl", ".ndjson", ".json", ".csv", ".tsv"])
def test_text_may_be_compressed(tmp_path, suffix, packing):
    content = write(tmp_path, {".ndjson": ".jsonl", ".tsv": ".csv"}.get(suffix, suffix)).read_bytes()
    if suffix == ".tsv":
        content = content.replace(b'"a,\n', b'"a;\n').replace(b",", b"\t").replace(b";", b",")
    path = packed(tmp_path / f"packed{suffix}{packing}", content)
    assert [row.fields for row in read([path], [])] == ROWS


def test_truncated_gzip_is_told(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"q": 1}\n' * 1000)[:-20])
    with pytest.raises(BadInput, match="truncated or not gzip"):
        list(read([path], []))


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_another_delimiter_is_found_in_the_first_line(tmp_path, delimiter):
    path = tmp_path / "a.csv"
    path.write_text(f'"q, or so"{delimiter}n\n"a,b"{delimiter}1\n')
    assert [row.fields for row in read([path], [])] == [{"q, or so": "a,b", "n": "1"}]


@pytest.mark.parametrize("text", [json.dumps({"v": 1, "data": ROWS}), json.dumps({"data": ROWS}, indent=1) + "\n"])
def test_rows_under_a_key(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text)
    assert [row.fields for row in read([path], [])] == ROWS


@pytest.mark.parametrize("row", [{"messages": [{"role": "user"}]}, {"a": [{}], "b": [{}]}, {"a": [1]}])
def test_one_row_is_no_list_of_rows(tmp_path, row):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(row))
    assert [found.fields for found in read([path], [])] == [row]


@pytest.mark.parametrize("opened", ["new_stream", "new_file"])
def test_arrow_streams_and_files(tmp_path, opened):
    import pyarrow

    table = pyarrow.Table.from_pylist(ROWS)
    with getattr(pyarrow.ipc, opened)(str(tmp_path / "a.arrow"), table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    assert [row.fields for row in read([tmp_path / "a.arrow"], [])] == ROWS
    (tmp_path / "a.arrow").write_bytes(b"ARROW1 no more")
    with pytest.raises(BadInput, match="truncated or not Arrow"):
        list(read([tmp_path / "a.arrow"], []))
