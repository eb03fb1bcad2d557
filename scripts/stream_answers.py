"""Ask several models of a running server the same question at once, and pass on the answers as they are generated.

Input:   the address of an OpenAI-compatible server, and one JSON object on standard input: the `models` to ask, and
         either the `fields` of a row, which is written as ask_server.py writes it, or the `text` that a user types,
         with the earlier `turns` of each model's conversation. `reference` may hold the answer that is right.
Output:  JSON Lines on standard output: {"prompt": ...}, what is asked; {"model": ..., "text": ...}, the next piece of
         an answer; {"model": ..., "finish_reason": ...}, its end, or {"model": ..., "error": ...}. With --sql-schema
         {"model": ..., "result": ...}: what its query finds in the tables of the row. The reference's is of model null.

    echo '{"models": ["base"], "fields": {"prompt": "Hello"}}' | python scripts/stream_answers.py --port 8000
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from common import program
from common.data.rows import Row
from common.data.template import Template
from common.inference import questions
from common.inference.sql_scores import SqlChecker
from common.program import BadInput, StageFailed
from common.serving import chat
from common.serving.openai_client import Client

_PLACE = "the question"
_KINDS = {"models": list, "fields": dict, "text": str, "turns": dict, "reference": str}


@dataclass(frozen=True)
class Asked:
    """A question on standard input."""

    models: Sequence[str]
    fields: Mapping[str, Any] | None = None
    text: str = ""
    turns: Mapping[str, Any] = field(default_factory=dict)
    reference: str = ""


def flags() -> argparse.ArgumentParser:
    """The program's flags."""
    parser = program.parser(__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="host of the server")
    parser.add_argument("--port", type=program.at_least(1), required=True, help="port of the server")
    parser.add_argument("--template", type=Template.load, metavar="JSON", help="of the training data, text or file")
    parser.add_argument("--max-tokens", type=program.at_least(1), default=128, help="longest answer")
    parser.add_argument("--timeout", type=program.at_least(0, float), default=300.0, help="seconds without a token")
    parser.add_argument("--sql-schema", metavar="COLUMN", help="column of CREATE TABLE statements: answers are SQL")
    parser.add_argument("--sql-rows", metavar="COLUMN", help="column of INSERT statements")
    return parser


def run(args: argparse.Namespace) -> None:
    """Read the question, ask all models, and write what they answer."""
    asked = read(sys.stdin.read())
    client = Client(args.host, args.port, args.timeout)
    served = client.models()
    for name in asked.models:
        if name not in served:
            raise BadInput(f"{name}: no such model; the server serves {', '.join(served)}")
    bodies = bodies_of(asked, args.template)
    output = Output()
    output.write({"prompt": prompt_of(bodies[asked.models[0]])})
    options = {"max_tokens": args.max_tokens, "temperature": 0.0}
    with SqlChecker() as checker, ThreadPoolExecutor(len(asked.models)) as pool:
        find = finder(asked, checker, args)
        if asked.reference:
            find(None, asked.reference, output)
        answering = Answering(client, options, output, find)
        list(pool.map(answering.answer, asked.models, bodies.values()))


class Output:
    """Lines of JSON on standard output, written by several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def write(self, line: dict[str, Any]) -> None:
        """Write a line."""
        with self._lock:
            print(json.dumps(line), flush=True)


Find = Callable[["str | None", str, Output], None]


@dataclass(frozen=True)
class Answering:
    """Has models answer, and writes what they say."""

    client: Client
    options: Mapping[str, Any]
    output: Output
    find: Find

    def answer(self, model: str, body: dict[str, Any]) -> None:
        """Write the pieces of a model's answer, and what its query finds."""
        text, reason = "", None
        try:
            with closing(self.client.stream(model, body, dict(self.options))) as pieces:
                for piece, reason in pieces:  # noqa: B007  the last reason is what is left
                    text += piece
                    self.output.write({"model": model, "text": piece})
        except StageFailed as error:
            self.output.write({"model": model, "error": str(error)})
            return
        self.output.write({"model": model, "finish_reason": reason})
        self.find(model, text, self.output)


def finder(asked: Asked, checker: SqlChecker, args: argparse.Namespace) -> Find:
    """What writes the result of the query in an answer; nothing where answers are not SQL or the row has no tables."""
    fields = asked.fields or {}
    schema, rows = (fields.get(column) or "" for column in (args.sql_schema, args.sql_rows))
    lock = threading.Lock()  # one process executes the queries of all models

    def find(model: str | None, text: str, output: Output) -> None:
        if schema:
            with lock:
                result = checker.result(str(schema), str(rows), asked.reference, text)
            output.write({"model": model, "result": result})

    return find


def read(text: str) -> Asked:
    """The question in a JSON text. Raises BadInput."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        raise BadInput(f"{_PLACE}: not JSON") from None
    kinds = _KINDS.items()
    if not isinstance(values, dict) or not values.keys() <= _KINDS.keys():
        raise BadInput(f"{_PLACE}: not an object with some of the keys {', '.join(_KINDS)}")
    for key, kind in kinds:
        if not isinstance(values.get(key, kind()), kind):
            raise BadInput(f"{_PLACE}: {key} has the wrong type")
    if not values.get("models"):
        raise BadInput(f"{_PLACE}: models are missing")
    if ("fields" in values) == ("text" in values):
        raise BadInput(f"{_PLACE}: give either the fields of a row, or a text")
    return Asked(**values)


def bodies_of(asked: Asked, template: Template | None) -> dict[str, dict[str, Any]]:
    """The question's fields in the request to each model. Raises BadInput."""
    if asked.fields is not None:
        question = questions.question(Row(_PLACE, dict(asked.fields)), template)
        return dict.fromkeys(asked.models, question.body())
    if template and not template.chat:
        raise BadInput(f"{_PLACE}: the model was trained on plain prompts, not on chats: give the fields of a row")
    return {model: _chat(asked, model, template or Template()) for model in asked.models}


def _chat(asked: Asked, model: str, template: Template) -> dict[str, Any]:
    turns = asked.turns.get(model) or []
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise BadInput(f"{_PLACE}: the turns of {model} are no list of messages")
    starts = turns[:1] and turns[0].get("role") == "system"
    return {"messages": chat.with_question(turns if starts else chat.opening(template) + turns, asked.text, template)}


def prompt_of(body: dict[str, Any]) -> str:
    """The text that is asked: the prompt, or the last turn."""
    return body["prompt"] if "prompt" in body else body["messages"][-1]["content"]


if __name__ == "__main__":
    sys.exit(program.main(run, flags()))
