"""`runner generate`: the command line, and answers of real runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from records import a_run

from runner.errors import RecipeError
from runner.generate import Questions, adapters, command
from runner.runs import Run


def made(run: Run, base: str = "base") -> Run:
    """The run with folders in place of what its stages would have made."""
    store = run.folder.parent / "made"
    for stage, below in (("fetch", ""), ("export", "adapter"), ("export", "merged"), ("tokenize", "")):
        (store / (base if stage == "fetch" else f"{stage}-{run.name}") / below).mkdir(parents=True, exist_ok=True)
        link = run.folder / "artifacts" / stage
        if not link.exists():
            link.symlink_to(store / (base if stage == "fetch" else f"{stage}-{run.name}"))
    (run.folder / "artifacts" / "tokenize" / "template.json").write_text("{}")
    return run


def value_of(words: list[str], flag: str) -> str:
    return words[words.index(flag) + 1]


def test_one_run_is_asked_by_the_names_of_its_recipe(tmp_path: Path) -> None:
    run = made(a_run(tmp_path))
    words = command([run], Questions(tmp_path / "rows.jsonl"), tmp_path / "out")
    assert value_of(words, "--adapter") == f"adapter={(run.folder / 'artifacts/export').resolve() / 'adapter'}"
    assert value_of(words, "--engine") == "embedded"
    assert value_of(words, "--max-tokens") == "96"
    assert value_of(words, "--template").endswith("template.json")
    assert "--no-base" not in words and "--generation" not in words


def test_several_runs_are_asked_by_their_own_names(tmp_path: Path) -> None:
    one, two = made(a_run(tmp_path)), made(a_run(tmp_path))
    assert list(adapters([one, two])) == [one.name, two.name]
    other = made(a_run(tmp_path), base="another")
    with pytest.raises(RecipeError, match=f"{other.name}: has another base model than {one.name}"):
        adapters([one, other])


def test_vllm_answers_in_the_python_that_has_it(tmp_path: Path) -> None:
    run = made(a_run(tmp_path, "serve=vllm", "sdk.serve_python=/venv/bin/python"))
    words = command([run], Questions(tmp_path / "rows.jsonl", max_tokens=7), tmp_path / "out")
    assert words[0] == "/venv/bin/python"
    assert (value_of(words, "--generation"), value_of(words, "--max-tokens")) == ("cpu", "7")


def test_a_merged_model_has_no_base_beside_it(tmp_path: Path) -> None:
    run = made(a_run(tmp_path, "serve=vllm", "sdk.serve_python=python", "sdk.vllm_lora=false"))
    words = command([run], Questions(tmp_path / "rows.jsonl"), tmp_path / "out")
    assert value_of(words, "--model").endswith("/merged") and "--adapter" not in words
    with pytest.raises(RecipeError, match="serves merged models"):
        command([run, run], Questions(tmp_path / "rows.jsonl"), tmp_path / "out")


def test_a_container_is_refused(tmp_path: Path) -> None:
    run = made(a_run(tmp_path, "serve=vllm", "sdk.serve_python=python", "serve.image=vllm:1"))
    with pytest.raises(RecipeError, match="serve.image: "):
        command([run], Questions(tmp_path / "rows.jsonl"), tmp_path / "out")
