"""Questions from a file, and the answers of several models to them, for generate.py and ask_server.py."""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import events, program
from common.data import json_lines, rows
from common.data.template import Template
from common.program import BadInput

Answer = dict[str, Any]  # text, finish_reason, token_ids


@dataclass(frozen=True)
class Question:
    """One row of the file; `chat` has the messages and tools of a chat, and is empty for a plain prompt."""

    row: dict[str, Any]
    prompt: str
    chat: dict[str, Any]

    def body(self) -> dict[str, Any]:
        """The question's fields in a request to OpenAI's API."""
        return self.chat or {"prompt": self.prompt}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags for the questions and the length and choice of answers."""
    parser.add_argument("--prompts", type=program.existing_file, required=True, help="the questions")
    parser.add_argument("--template", type=Template.load, metavar="JSON", help="text or file, for rows of columns")
    parser.add_argument("--max-tokens", type=program.at_least(1), default=128, help="longest answer")
    parser.add_argument("--temperature", type=program.at_least(0, float), default=0.0, help="0 is greedy")


def read_questions(path: Path, template: Template | None) -> list[Question]:
    """Every row of a JSONL, JSON, CSV or Parquet file, as a question.

    Raises BadInput for a file without rows, and as `question` does.
    """
    questions = [question(row, template) for row in rows.read([path], [])]
    if not questions:
        raise BadInput(f"--prompts: {path}: no rows")
    return questions


def question(row: rows.Row, template: Template | None) -> Question:
    """A row as a question: rendered with the template if it has a column of it, else its column `prompt`.

    Raises BadInput for a row that has neither.
    """
    prompt = row.fields.get("prompt")
    for_template = template is not None and template.names_any(row.fields)
    if isinstance(prompt, str) and prompt and not for_template:
        asked = Question(row.fields, prompt, {})
    elif template is None:
        raise BadInput(f"{row.place}: no prompt; give rows with a prompt, or a --template for their columns")
    else:
        asked = _rendered(row, template)
    try:
        json.dumps(asked.body(), ensure_ascii=False).encode()
    except UnicodeEncodeError as error:  # half of a surrogate pair, which JSON can express
        raise BadInput(f"{row.place}: not Unicode text: {error.reason}") from None
    return asked


def _rendered(row: rows.Row, template: Template) -> Question:
    try:
        if not template.chat:
            return Question(row.fields, template.render(row.fields), {})
        chat = template.question(row.fields)
        return Question(row.fields, chat["messages"][-1]["content"], chat)
    except BadInput as error:
        raise BadInput(f"{row.place}: {error}") from None


class Answers:
    """The answers of each model so far, in the order of the questions."""

    def __init__(self, models: Iterable[str], questions: int) -> None:
        self.by_model: dict[str, list[Answer]] = {model: [] for model in models}
        self._total = questions * len(self.by_model)

    def add(self, model: str, answers: Iterable[Answer]) -> None:
        """Append a model's next answers and report progress."""
        self.by_model[model].extend(answers)
        events.progress(sum(map(len, self.by_model.values())), self._total, "answer")


@contextmanager
def collect_answers(folder: Path, questions: Sequence[Question], models: Iterable[str]) -> Iterator[Answers]:
    """An `Answers` to fill. At the end it is written to `folder`, complete or not, even after an error."""
    answers = Answers(models, len(questions))
    try:
        yield answers
    finally:
        if any(answers.by_model.values()):
            _write(folder, questions, answers.by_model)


def _write(folder: Path, questions: Sequence[Question], answers: Mapping[str, Sequence[Answer]]) -> None:
    """Write answers.jsonl and, once every model has answered every question, summary.json; log the summary."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").unlink(missing_ok=True)
    json_lines.write(folder / "answers.jsonl", (_line(*each, answers) for each in enumerate(questions)))
    if all(len(given) == len(questions) for given in answers.values()):
        content = summary(len(questions), answers)
        (folder / "summary.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        for message in _messages(content):
            events.log(message)


def _line(number: int, question: Question, answers: Mapping[str, Sequence[Answer]]) -> dict[str, Any]:
    given = {model: answers[model][number] for model in answers if number < len(answers[model])}
    return {**question.row, "prompt": question.prompt, "answers": given}


def summary(count: int, answers: Mapping[str, Sequence[Answer]]) -> dict[str, Any]:
    """The number of truncated answers of each model, and of identical answers for each pair of models."""
    cut_off = {model: sum(each["finish_reason"] == "length" for each in given) for model, given in answers.items()}
    equal = {
        f"{first} = {second}": sum(a["text"] == b["text"] for a, b in zip(answers[first], answers[second], strict=True))
        for first, second in itertools.combinations(answers, 2)
    }
    return {"questions": count, "models": list(answers), "cut_off": cut_off, "equal": equal}


def _messages(content: dict[str, Any]) -> list[str]:
    count = content["questions"]
    same = [f"{pair}: {number} of {count} answers" for pair, number in content["equal"].items()]
    cut = [
        f"{model}: {number} of {count} answers were cut off; raise --max-tokens for longer ones"
        for model, number in content["cut_off"].items()
        if number
    ]
    return same + cut
