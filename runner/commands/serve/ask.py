"""`runner ask`: the models of a running server answer the same prompts side by side, or one keeps a conversation."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from runner.commands import tables
from runner.commands.serve import servers
from runner.commands.serve.servers import Server
from runner.commands.tables import terminal
from runner.compose.schema import Recipe, Template
from runner.compose.validate import build
from runner.errors import RecipeError
from runner.paths import SCRIPTS
from runner.plan.checks.row_formats import is_written
from runner.plan.command import flags
from runner.plan.stages import tokenize
from runner.record.runs import Run

_SHOWN = 20  # answers


def ask(server: Server, question: str, models: Sequence[str], max_tokens: int | None, console: Console) -> int:
    """Ask a server the rows of a file, or one literal prompt; show the answers. Returns the exit status."""
    recipe = server.run.typed_recipe()
    limits = flags(max_tokens=max_tokens or recipe.evaluate.max_new_tokens, models=list(models))
    if os.path.isfile(question):  # noqa: PTH113  pathlib raises for a text that is too long for a name
        return _ask(server, Path(question), [*limits, *_template(server.run)], console)
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "question.jsonl"
        file.write_text(json.dumps({"prompt": question}) + "\n", encoding="utf-8")
        return _ask(server, file, limits, console)


def talk(server: Server, model: str | None, system: str | None, max_tokens: int | None) -> int:
    """Have a model of a server (default: an adapter) answer what is typed. Returns the exit status."""
    recipe = server.run.typed_recipe()
    adapters = [name for name in server.models if name != recipe.serve.base_name]
    host, port = servers.address(server)
    args = [
        *flags(host=host, port=port, model=model or (adapters or server.models)[0], system=system),
        *flags(max_tokens=max_tokens or recipe.evaluate.max_new_tokens),
        *_template(server.run),
    ]
    # Ctrl-C is for the program, which starts with the default handler as long as ours is a function.
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        status = subprocess.run([sys.executable, str(SCRIPTS / "chat_with_server.py"), *args], check=False).returncode
    finally:
        signal.signal(signal.SIGINT, before)
    return status if status >= 0 else 128 - status


def streaming_command(server: Server, max_tokens: int) -> list[str]:
    """The program that asks the question on its standard input, and writes the answers as they are generated."""
    recipe = server.run.typed_recipe()
    host, port = servers.address(server)
    tables = {"sql_schema": recipe.evaluate.sql_schema, "sql_rows": recipe.evaluate.sql_rows}
    return [
        sys.executable, str(SCRIPTS / "stream_answers.py"), *flags(host=host, port=port, max_tokens=max_tokens),
        *_template(server.run), *(flags(**tables) if answers_sql(recipe) else []),
    ]  # fmt: skip


def answers_sql(recipe: Recipe) -> bool:
    """Whether the model was trained to write SQL."""
    return "sql" in recipe.evaluate.metrics


def _template(run: Run) -> list[str]:
    trained_with = template_of(run)
    return flags(template=tokenize.template_json(trained_with) if is_written(trained_with) else None)


def template_of(run: Run) -> Template:
    """The template that a run trained with: where its format was recognized, the one that its rows got."""
    written = run.result("tokenize", "template.json")
    return build(Template, written) if written else run.typed_recipe().dataset.template


def _ask(server: Server, file: Path, limits: Sequence[str], console: Console) -> int:
    run: Run = server.run
    host, port = servers.address(server)
    output = run.folder / "asked" / file.stem
    args = [*limits, *flags(host=host, port=port, prompts=str(file), output=str(output))]
    # The server may be on another machine, whose Python is not here; asking takes the standard library alone.
    status = subprocess.run([sys.executable, str(SCRIPTS / "ask_server.py"), *args], check=False).returncode
    if status == 0:
        show(output / "answers.jsonl", console)
    return status


def show(file: Path, console: Console) -> None:
    """Print the answers in a file of ask_server.py or generate.py, a column per model."""
    with file.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    table = tables.table("prompt", *rows[0]["answers"], show_lines=True)
    for row in rows[:_SHOWN]:
        table.add_row(Text(row["prompt"].strip(), style="dim"), *map(_text, row["answers"].values()))
    console.print(table)
    more = f", {len(rows) - _SHOWN} more are in the file" if len(rows) > _SHOWN else ""
    console.print(Text(f"answers  {file}{more}"), soft_wrap=True)


def _text(answer: dict[str, Any]) -> Text:
    """The answer; […] marks one that reached the token limit."""
    return Text(answer["text"].strip() + " […]" * (answer["finish_reason"] == "length"))


def ask_command(args: argparse.Namespace) -> int:
    """Ask a server, or talk to it."""
    if args.question is None and len(args.models) > 1:
        raise RecipeError(f"--models {' '.join(args.models)}: a conversation is with one model; give one name")
    if args.question is not None and args.system is not None:
        raise RecipeError("--system: is for a conversation; leave FILE|TEXT out")
    server = servers.find(args.server, args.folder)
    if args.question is None:
        return talk(server, next(iter(args.models), None), args.system, args.max_tokens)
    return ask(server, args.question, args.models, args.max_tokens, terminal())
