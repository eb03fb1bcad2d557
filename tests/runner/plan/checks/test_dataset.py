"""What a plan knows of a local data file: it is refused before any work, with the row where it is wrong."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest

from common.data import row_formats as of_stages
from common.data.conversation import Unusable
from runner.compose.recipe import compose
from runner.errors import RecipeError
from runner.plan.checks import dataset

ROW = {"q": "Who?", "a": "Ann", "tags": ["x"], "n": 1}


def write(folder: Path, name: str, content: list[dict[str, Any]] | str) -> Path:
    path = folder / name
    if isinstance(content, str):
        path.write_text(content)
    elif path.suffix == ".csv":
        names = list(content[0])
        path.write_text("\n".join([",".join(names), *(",".join(str(row[name]) for name in names) for row in content)]))
    elif path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(content), path)
    else:
        lines = [json.dumps(row) for row in content]
        path.write_text(f"[{','.join(lines)}]" if path.suffix == ".json" else "\n".join(lines))
    return path


def check(path: Path, *overrides: str, sections: str = "{q}", response: str = "{a}", eval_rows: int = 1) -> None:
    words = ["dataset=files", "evaluate=none", f"dataset.path='{path}'", f"dataset.eval_rows={eval_rows}", *overrides]
    recipe = compose("quickstart", words).recipe
    recipe.dataset.template.sections, recipe.dataset.template.response = [sections], response
    dataset.check(recipe)


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.parquet"])
def test_rows_that_fit(tmp_path: Path, name: str) -> None:
    rows = [{"q": "Who?", "a": "Ann"}] * 2
    check(write(tmp_path, name, rows))
    with pytest.raises(RecipeError, match="dataset.eval_rows: 2 of the 2 rows in .* leave nothing to train on"):
        check(write(tmp_path, name, rows), eval_rows=2)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.txt", "x", r"dataset.path: .*a\.txt: the file name must end in one of \.jsonl, \.ndjson, \.json,"),
        ("a.jsonl", "", r"dataset.path: .*a\.jsonl: contains no rows"),
        ("a.jsonl", "\n\n", r"contains no rows"),
        ("a.json", "[]", r"contains no rows"),
        ("a.csv", "q,a\n", r"contains no rows"),
        ("a.csv", "q,a\n1,2\n3\n", r"a\.csv:3: has a different number of values than line 1 has columns"),
        ("a.jsonl", '{"q": 1, "a": 2}\n{"q": \n', r"dataset.path: .*a\.jsonl:2: not JSON"),
        ("a.json", '[{"q": 1, "a": 2}, 3]', r"a\.json: entry 2: is a int, not an object"),
        ("a.parquet", "not Parquet", r"a\.parquet: truncated or not Parquet"),
        ("a.jsonl", [{"q": "", "a": ""}, {"q": ""}], r"a\.jsonl:2 has no column 'a'; the columns are q"),
        ("a.json", [{"q": "", "answer": ""}], r"entry 1 has no column 'a'; the columns are q, answer"),
    ],
)
def test_a_file_that_cannot_be_trained_on(tmp_path: Path, name: str, content: Any, expected: str) -> None:
    with pytest.raises(RecipeError, match=expected) as error:
        check(write(tmp_path, name, content))
    assert "\n" not in str(error.value)


def recognised(path: Path | str, *overrides: str) -> list[str]:
    recipe = compose("quickstart", ["dataset=files", "evaluate=none", f"dataset.path='{path}'", *overrides]).recipe
    recipe.dataset.eval_rows = 1
    dataset.check(recipe)
    return dataset.formats_of(recipe.dataset)


def test_a_pattern_is_its_files(tmp_path: Path) -> None:
    (tmp_path / "[b].jsonl").write_text('{"text": "a"}\n')
    for name in ("a1.jsonl", "a2.jsonl.gz"):
        text = '{"instruction": "a", "output": "b"}\n'
        (tmp_path / name).write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
    assert recognised(tmp_path / "a*") == ["alpaca"]
    with pytest.raises(RecipeError, match="dataset.eval_rows: 1 of the 1 rows"):
        recognised(tmp_path / "[b].jsonl")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "rows.jsonl")
    with pytest.raises(RecipeError, match=r"dataset.path: .*rows.jsonl: neither a file nor a folder"):
        check(tmp_path / "rows.jsonl")


def test_what_only_the_stage_programs_read_is_left_to_them(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.zst").write_text("")
    assert recognised(tmp_path / "a.jsonl.zst") == []
    assert recognised(tmp_path) == []


def test_the_rows_of_a_folder_are_looked_at(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        write(tmp_path, name, [ROW, ROW])
    check(tmp_path)
    with pytest.raises(RecipeError, match="dataset.eval_rows: 4 of the 4 rows in .* leave nothing to train on"):
        check(tmp_path, eval_rows=4)
    write(tmp_path, "b.jsonl", [ROW, {"q": "no answer"}])
    with pytest.raises(RecipeError, match=r"dataset.template.response: .*b\.jsonl:2 has no column 'a'"):
        check(tmp_path)


def test_columns_of_no_known_format_are_told(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", [ROW, ROW])
    with pytest.raises(
        RecipeError, match="the columns q, a, tags, n are of no known format .*dataset.template.sections"
    ):
        recognised(path)
    with pytest.raises(RecipeError, match="dataset.format: .*a.jsonl:1 has no column 'instruction'"):
        recognised(path, "dataset.format=alpaca")


def test_a_mixture_shows_its_formats_and_checks_its_weights(tmp_path: Path) -> None:
    paths = [
        str(write(tmp_path, "a.jsonl", [{"instruction": "a", "output": "b"}] * 3)),
        str(write(tmp_path, "b.jsonl", [{"messages": [{"role": "user", "content": "a"}]}] * 3)),
    ]

    def mixed(*overrides: str) -> list[str]:
        words = [f"dataset.path=[{','.join(paths)}]", "dataset.eval_rows=1", "evaluate=none", *overrides]
        recipe = compose("quickstart", ["dataset=files", *words]).recipe
        dataset.check(recipe)
        assert recipe.dataset.name == "a+b"
        return dataset.formats_of(recipe.dataset)

    assert mixed() == ["alpaca", "messages"]
    assert mixed("dataset.weights=[3,1.5]") == ["alpaca", "messages"]
    with pytest.raises(RecipeError, match="dataset.weights: there are 1 for the 2 paths"):
        mixed("dataset.weights=[1]")
    with pytest.raises(RecipeError, match="dataset.weights: each must be 0 or more"):
        mixed("dataset.weights=[-1,2]")
    with pytest.raises(RecipeError, match="dataset.eval_rows: 6 of the 6 rows in .*a.jsonl, .*b.jsonl leave nothing"):
        mixed("dataset.eval_rows=6")
    paths[1] = str(tmp_path / "absent.jsonl")
    with pytest.raises(RecipeError, match="dataset.path: .*absent.jsonl: No such file"):
        mixed()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"Question ": "?", "answer": "!"},
            "call 'Question ', 'answer' question, answer, and they are question_answer",
        ),
        ({"text": "a", "role": "prompter", "parent_id": None}, "each row is one turn of a conversation; write one"),
        ({"title": "a", "paragraphs": []}, "as in SQuAD; write one row for each question"),
    ],
)
def test_what_is_nearly_a_format_is_told_by_both_sides(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=f"dataset.path: .*a.jsonl: the columns .* are of no known format: {message}"):
        recognised(write(tmp_path, "a.jsonl", [row, row]))
    with pytest.raises(Unusable, match=message):
        of_stages.recognise(row)


def test_turns_are_columns_of_lists(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", [{"chosen": [{"role": "user", "content": "a"}]}] * 2)
    assert recognised(path, "dataset.template.turns=[chosen]") == []
    with pytest.raises(RecipeError, match="dataset.template.turns: .* no column 'chosn'; did you mean chosen"):
        recognised(path, "dataset.template.turns=[chosn]")


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.parquet"])
def test_a_list_is_no_text(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, name, [ROW, ROW])
    with pytest.raises(RecipeError, match="dataset.template.sections: .* the column 'tags' contains a list, not text"):
        check(path, sections="{tags}")
    check(path, sections="{n}")


def test_a_typo_in_the_template_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", [{"question?": "Who?", "a": "Ann"}] * 2)
    with pytest.raises(
        RecipeError, match=r"no column 'question'; did you mean question\?\?; for the literal text {question}, write"
    ):
        check(path, sections="{question}")
    check(path, sections="{question?} {{question}}")


def test_a_response_that_is_a_text_only_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", [ROW, ROW])
    with pytest.raises(RecipeError, match="dataset.template.response: .* names none of the columns q, a, tags, n"):
        check(path, response='{"a": 1}')


def test_braces_that_can_be_read_in_two_ways_are_refused_of_a_hub_too() -> None:
    recipe = compose("quickstart", ["dataset=dolly"]).recipe
    recipe.dataset.template.response = '{"a": {"b": {response}}}'
    with pytest.raises(RecipeError, match="dataset.template.response: .* double every literal brace"):
        dataset.check(recipe)


def test_conditions_count(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", [{**ROW, "ok": n > 0} for n in range(3)])
    check(path, "dataset.where.ok=true")
    with pytest.raises(RecipeError, match="dataset.eval_rows: 2 of the 2 rows in .* with ok=true leave nothing"):
        check(path, "dataset.where.ok=true", eval_rows=2)
    with pytest.raises(RecipeError, match="dataset.where: .* has no row with ok=null"):
        check(path, "dataset.where.ok=null")


def test_held_out_rows_are_looked_at_too(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", [ROW])
    held_out = write(tmp_path, "b.jsonl", [{"q": "Who?"}])
    with pytest.raises(RecipeError, match=r"dataset.template.response: .*b\.jsonl:1 has no column 'a'"):
        check(path, f"dataset.eval_path={held_out}")


def test_of_a_large_file_the_first_row_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "_LARGE", 10)
    check(write(tmp_path, "a.jsonl", [ROW, {"q": "no answer"}]), eval_rows=2)
    with pytest.raises(RecipeError, match="has no column"):
        check(write(tmp_path, "b.jsonl", [{"q": "no answer"}, ROW]))


def test_many_small_files_are_as_large_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "_LARGE", 100)
    for name in ("a.jsonl", "b.jsonl"):
        write(tmp_path, name, [ROW, {"q": "no answer"}])
    check(tmp_path, eval_rows=4)
