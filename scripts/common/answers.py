"""Questions from a file, and the answers of several models to them side by side."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import events, rows
from common.program import BadInput
from common.prompt import Template

Answer = dict[str, Any]  # text, finish_reason, token_ids


@dataclass(frozen=True)
class Question:
    """One row of the file. `messages` are the turns of a chat, None for a plain prompt."""

    row: dict[str, Any]
    prompt: str
    messages: list[dict[str, str]] | None

    def asked(self) -> dict[str, Any]:
        """The question in a request of OpenAI's protocol."""
        return {"prompt": self.prompt} if self.messages is None else {"messages": self.messages}


def read_questions(path: Path, template: Template | None) -> list[Question]:
    """Every row of a JSONL, JSON, CSV or Parquet file: its `prompt` as it is, else its columns in the template.

    Raises BadInput for a file without rows, and for a row that has neither.
    """
    questions = [_question(row, template) for row in rows.read([path], [])]
    if not questions:
        raise BadInput(f"--prompts: {path}: holds no rows")
    return questions


def _question(row: rows.Row, template: Template | None) -> Question:
    prompt = row.fields.get("prompt")
    if isinstance(prompt, str) and prompt:
        return Question(row.fields, prompt, None)
    if template is None:
        raise BadInput(f"{row.place}: no prompt; give rows with a prompt, or a --template for their columns")
    try:
        messages = template.messages(row.fields) if template.chat else None
        return Question(row.fields, template.render(row.fields), messages)
    except BadInput as error:
        raise BadInput(f"{row.place}: {error}") from None


def write(folder: Path, questions: Sequence[Question], answers: Mapping[str, Sequence[Answer]]) -> dict[str, Any]:
    """Write answers.jsonl and summary.json, tell what a person wants to know, and return the summary."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "answers.jsonl").open("w", encoding="utf-8") as lines:
        for number, question in enumerate(questions):
            given = {model: several[number] for model, several in answers.items()}
            line = {**question.row, "prompt": question.prompt, "answers": given}
            lines.write(json.dumps(line, ensure_ascii=False) + "\n")
    found = summary(len(questions), answers)
    (folder / "summary.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    for text in _sentences(found):
        events.log(text)
    return found


def summary(count: int, answers: Mapping[str, Sequence[Answer]]) -> dict[str, Any]:
    """How many answers of each model were cut off, and how many are the same between each two models."""
    cut_off = {model: sum(each["finish_reason"] == "length" for each in several) for model, several in answers.items()}
    equal = {
        f"{one} = {other}": sum(a["text"] == b["text"] for a, b in zip(answers[one], answers[other], strict=True))
        for one, other in itertools.combinations(answers, 2)
    }
    return {"questions": count, "models": list(answers), "cut_off": cut_off, "equal": equal}


def _sentences(found: dict[str, Any]) -> list[str]:
    count = found["questions"]
    same = [f"{pair}: {number} of {count} answers" for pair, number in found["equal"].items()]
    cut = [
        f"{model}: {number} of {count} answers were cut off; raise --max-tokens if they should be longer"
        for model, number in found["cut_off"].items()
        if number
    ]
    return same + cut
