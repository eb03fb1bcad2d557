"""`runner ask`: rows are asked with the template that the served run trained with."""

from __future__ import annotations

import json
from pathlib import Path

from served_runs import a_run

from runner.commands.serve.ask import template_of
from runner.commands.serve.generate import afterwards
from runner.plan.stages.tokenize import template_json


def test_the_template_is_the_one_of_the_tokens(tmp_path: Path) -> None:
    """The recipe has none where the format of its rows was recognized."""
    for name in ("model", "adapter"):
        (tmp_path / name).mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"question": "a", "answer": "b"}\n')
    data = ["dataset=files", f"dataset.path='{rows}'", "dataset.format=question_answer"]
    run = a_run(tmp_path, tmp_path / "model", tmp_path / "adapter", *data)
    assert run.typed_recipe().dataset.template.sections == []
    assert template_of(run).sections == ["{question}"]
    served = afterwards(run, run.typed_recipe(), "serve", tmp_path)
    assert served.dataset.format is None
    written = {"sections": ["{question}"], "separator": "\n", "response": "{answer}", "system": None, "chat": False}
    assert json.loads(template_json(served.dataset.template)) == written
