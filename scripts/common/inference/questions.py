"""Questions from a file, and the answers of several models to them side by side."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import events
from common.data import json_lines, rows
from common.data.template import Template
from common.program import BadInput

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
    """Every row of a JSONL, JSON, CSV or Parquet file, as a question.

    A row that has a column of the template is written with it; any other row is its `prompt`, as it is.
    Raises BadInput for a file without rows, and for a row that has neither.
    """
    questions = [_question(row, template) for row in rows.read([path], [])]
    if not questions:
        raise BadInput(f"--prompts: {path}: holds no rows")
    return questions


def _question(row: rows.Row, template: Template | None) -> Question:
    prompt = row.fields.get("prompt")
    for_template = template is not None and template.names_any(row.fields)
    if isinstance(prompt, str) and prompt and not for_template:
        question = Question(row.fields, prompt, None)
    elif template is None:
        raise BadInput(f"{row.place}: no prompt; give rows with a prompt, or a --template for their columns")
    else:
        question = _rendered(row, template)
    try:
        json.dumps(question.asked(), ensure_ascii=False).encode()
    except UnicodeEncodeError as error:  # half of a surrogate pair, which JSON can spell
        raise BadInput(f"{row.place}: not Unicode text: {error.reason}") from None
    return question


def _rendered(row: rows.Row, template: Template) -> Question:
    try:
        messages = template.messages(row.fields) if template.chat else None
        return Question(row.fields, template.render(row.fields), messages)
    except BadInput as error:
        raise BadInput(f"{row.place}: {error}") from None


@contextmanager
def kept(folder: Path, questions: Sequence[Question], models: Iterable[str]) -> Iterator[dict[str, list[Answer]]]:
    """Lists for the answers of each model, written in the end: what there is of them, whatever stopped the work."""
    answers: dict[str, list[Answer]] = {model: [] for model in models}
    try:
        yield answers
    finally:
        if any(answers.values()):
            _write(folder, questions, answers)


def _write(folder: Path, questions: Sequence[Question], answers: Mapping[str, Sequence[Answer]]) -> None:
    """Write answers.jsonl; and, when every model has answered every question, summary.json, and tell what it says."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").unlink(missing_ok=True)
    json_lines.write(folder / "answers.jsonl", (_line(*each, answers) for each in enumerate(questions)))
    if all(len(several) == len(questions) for several in answers.values()):
        found = summary(len(questions), answers)
        (folder / "summary.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        for text in _sentences(found):
            events.log(text)


def _line(number: int, question: Question, answers: Mapping[str, Sequence[Answer]]) -> dict[str, Any]:
    given = {model: several[number] for model, several in answers.items() if number < len(several)}
    return {**question.row, "prompt": question.prompt, "answers": given}


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
