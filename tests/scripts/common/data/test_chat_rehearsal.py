"""A chat template that takes too much time or memory is found before it is rendered."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from common.data.chat_rehearsal import Unbounded, rehearse
from tests.scripts.chat_templates import ALL

SCRIPTS = Path(__file__).parents[4] / "scripts"
LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
TWICE = "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}"
DOUBLED = "{% set ns = namespace(x='ab') %}{% for _ in range(40) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}"
SLOW = {
    "a power": "{{ 9 ** (9 ** 9) }}",
    "macros": TWICE,
    "loops after an answer": "{% if messages[-1].role == 'assistant' %}" + LOOPS + "{% endif %}",
}
LARGE = {
    "a width": "{{ '%1000000000d' % 1 }}",
    "a filter": "{{ 'a' | center(1000000000) }}",
    "a method": "{{ 'a'.ljust(1000000000) }}",
    "a product": "{{ 'a' * 1000000000 }}",
    "a list": "{{ (range(99999) | list * 99999) | join }}",
    "doubled": DOUBLED,
    "its text": "{{ 'a' * 2000000 }}",
}
REFUSING = ["{{ 1 / 0 }}", "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "{{ raise_exception('never') }}", "{% if"]


@pytest.mark.parametrize("name", SLOW)
def test_a_template_that_takes_too_long(tmp_path: Path, name: str) -> None:
    with pytest.raises(Unbounded, match="its chat template takes more than 2 s for a short conversation"):
        rehearse(tmp_path, SLOW[name], {})


@pytest.mark.parametrize("name", LARGE)
def test_a_template_that_takes_too_much_memory(tmp_path: Path, name: str) -> None:
    with pytest.raises(Unbounded, match="takes more than 512 MB, or writes more than 1,000,000 characters"):
        rehearse(tmp_path, LARGE[name], {})


@pytest.mark.parametrize("source", [*ALL.values(), *REFUSING])
def test_other_templates_pass(tmp_path: Path, source: str) -> None:
    rehearse(tmp_path, source, {"bos_token": "<s>", "eos_token": "</s>"})


@pytest.mark.parametrize(
    "line",
    [
        "fetch_model.py --folder MODEL --output OUT",
        "tokenize_dataset.py --model MODEL --input ROWS --format auto --seq-len 9 --eval-rows 1 --output OUT",
        "serve_embedded.py --model MODEL --port 9",
    ],
    ids=lambda line: line.split()[0],
)
def test_programs_say_so_in_one_line(tiny_model: Path, tmp_path: Path, line: str) -> None:
    places = {name: str(tmp_path / name) for name in ("MODEL", "OUT", "ROWS")} | {"ROWS": str(tmp_path / "rows.jsonl")}
    Path(places["ROWS"]).write_text('{"prompt": "a", "completion": "b"}\n' * 20, encoding="utf-8")
    shutil.copytree(tiny_model, places["MODEL"])
    Path(places["MODEL"], "chat_template.jinja").write_text(LARGE["a width"], encoding="utf-8")
    program, *flags = [places.get(word, word) for word in line.split()]
    result = subprocess.run(
        [sys.executable, SCRIPTS / program, *flags], capture_output=True, encoding="utf-8", check=False
    )
    assert result.returncode == 2
    *_, last = result.stderr.splitlines()
    assert last.startswith(f"{program}: {places['MODEL']}: its chat template takes more than 512 MB")
    assert "Traceback" not in result.stderr
    assert not Path(places["OUT"]).exists()
