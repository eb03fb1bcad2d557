"""The playground: the models of a running server answer the same question side by side."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

from runner.commands.serve import ask, held_out, servers
from runner.commands.serve.servers import Server
from runner.compose.schema import Template
from runner.plan.checks.row_formats import is_written
from runner.plan.checks.template import names
from runner.ui import pages, web
from runner.ui.errors import BadRequest, not_found
from runner.ui.web import Request, Response, Routes

ADDRESS = "/playground"
_LONGEST = 100_000  # tokens of an answer that may be asked for


def _page(request: Request) -> Response:
    ready = [server for server in servers.live(request.site.folder) if server.url]
    chosen = _chosen(request, ready) if ready else None
    return pages.page(
        "playground.html", title="Playground", here=ADDRESS, servers=ready, server=chosen,
        form=chosen and _form(chosen, request),
    )  # fmt: skip


def _chosen(request: Request, ready: list[Server]) -> Server:
    name = request.first("server") or ready[-1].run.name
    found = [server for server in ready if server.run.name == name]
    if not found:
        raise not_found(f"{name}: no such server is ready")
    return found[0]


def _form(server: Server, request: Request) -> dict[str, Any]:
    """What a person fills in: the columns of the training data, or the next turn of a chat."""
    recipe, template = server.run.typed_recipe(), ask.template_of(server.run)
    tables = [recipe.evaluate.sql_schema, recipe.evaluate.sql_rows] if ask.answers_sql(recipe) else []
    columns = _columns(template)
    return {
        "server": server.run.name,
        "base": recipe.serve.base_name,
        "models": list(server.models),
        "chat": _is_chat(template),
        "columns": columns,
        "tables": [] if _is_chat(template) else [column for column in tables if column not in columns],
        "has_examples": held_out.file_of(server, request.site.folder) is not None,
        "max_tokens": recipe.evaluate.max_new_tokens,
    }


def _is_chat(template: Template) -> bool:
    """Whether a person types turns: a question of several columns is a form."""
    columns = _columns(template)
    return bool(template.turns) or bool(template.chat and len(columns) == 1 and not names(template.system or "", ()))


def _columns(template: Template) -> list[str]:
    if not is_written(template):
        return ["prompt"]
    texts = [template.system or "", *template.sections]
    return list(dict.fromkeys(name for text in texts for name in names(text, ())))


def _example(request: Request) -> Response:
    server, number = _server(request.first("server"), request), request.first("number", "0")
    file = held_out.file_of(server, request.site.folder)
    if file is None or not number.isdecimal():
        raise not_found(f"{server.run.name}: its held-out rows are not on this machine")
    return web.as_json(held_out.example(file, int(number)))


def _server(name: str, request: Request) -> Server:
    """The ready server of a run. Raises RecipeError."""
    return servers.of_run(request.site.run(name))


def _answers(request: Request) -> Response:
    body = request.json()
    question, longest = body.get("question"), body.get("max_tokens")
    if not isinstance(longest, int) or not 0 < longest <= _LONGEST:
        raise BadRequest(f"the longest answer is a number of tokens, 1 to {_LONGEST:,}")
    command = ask.streaming_command(_server(str(body.get("server")), request), longest)
    return Response(_lines(command, json.dumps(question)), "application/x-ndjson")


def _lines(command: list[str], question: str) -> Iterator[bytes]:
    """What the program answers, line by line, and its error as the last one. It ends when nobody reads on."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin and process.stdout and process.stderr
        try:
            process.stdin.write(question.encode())
            process.stdin.close()
            yield from process.stdout
            problem = process.stderr.read().decode(errors="replace").strip()
            if process.wait():
                yield json.dumps({"error": problem.splitlines()[-1] if problem else "no answer"}).encode() + b"\n"
        finally:
            process.kill()


ROUTES: Routes = {
    ("GET", ADDRESS): _page,
    ("GET", "/api/playground/example"): _example,
    ("POST", "/api/playground/answers"): _answers,
}
