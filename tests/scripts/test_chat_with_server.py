"""A conversation with a server: what is sent, and what a user at a terminal or behind a pipe sees."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from http_answers import Answers

from chat_with_server import Conversation
from common.data.template import Template
from common.data.tokenizer import PromptTokenizer
from common.serving.openai_client import Client

SCRIPTS = Path(__file__).parents[2] / "scripts"
TURNS = {"turns": ["messages"], "system": "Be brief.", "chat": True}
SYSTEM = {"role": "system", "content": "Be brief."}


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict:
    return {"role": "assistant", "content": text}


class Server(ThreadingHTTPServer):
    """Answers a chat with the number of its question, in two pieces; `received` are the bodies.

    After the first piece of a question `wait` it waits for `released`. `broken` is an answer instead of a stream.
    """

    received: list[dict]
    released: threading.Event
    broken: tuple[int, bytes] | None = None


class Handler(Answers, BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.answer(200, b'{"data": [{"id": "base"}, {"id": "sql"}, {"id": "chat"}]}')

    def do_POST(self) -> None:
        body = self.read_json()
        self.server.received.append(body)
        if self.server.broken:
            self.answer(*self.server.broken)
            return
        self.send_response(200)
        self.end_headers()
        pieces = [("", None), (f"answer {len(self.server.received)}", None), (", it is", "length")]
        for number, (text, reason) in enumerate(pieces):
            event = {"choices": [{"delta": {"content": text}, "finish_reason": reason}]}
            self.wfile.write(f": a comment\n\ndata: {json.dumps(event)}\n\n".encode())
            if number == 1 and body["messages"][-1]["content"] == "wait":
                self.server.released.wait()
        self.wfile.write(b'data: {"choices": []}\n\ndata: [DONE]\n\n')


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as server:
        server.received, server.released = [], threading.Event()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.released.set()
        server.shutdown()


def command(server: Server, *flags: str, template: dict | None = TURNS) -> list[str]:
    words = [sys.executable, str(SCRIPTS / "chat_with_server.py"), "--port", str(server.server_port), *flags]
    return words if template is None else [*words, "--template", json.dumps(template)]


def piped(server: Server, text: str, *flags: str, template: dict | None = TURNS) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(server, *flags, template=template), input=text, capture_output=True, text=True)


def test_earlier_turns_are_sent_along_until_they_are_cleared(server: Server) -> None:
    done = piped(server, 'One?\n\n"""Two\n\nand?"""\n/clear\nThree?\n/bye\nFour?\n', "--max-tokens", "9")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "".join(f"answer {number}, it is […]\n" for number in (1, 2, 3))
    first = [SYSTEM, user("One?")]
    assert [body["messages"] for body in server.received] == [
        first, [*first, assistant("answer 1, it is"), user("Two\n\nand?")], [SYSTEM, user("Three?")]
    ]  # fmt: skip
    [*_, last] = server.received
    assert (last["model"], last["max_tokens"], last["temperature"], last["stream"]) == ("sql", 9, 0, True)


def test_a_question_is_written_as_it_was_trained(server: Server) -> None:
    sections = {"sections": ["Be exact.", "Q: {question}"], "separator": "\n", "response": "{answer}", "chat": True}
    assert piped(server, "Why?\n", template=sections | {"system": "S {{1}}"}).returncode == 0
    system = {"role": "system", "content": "S {1}"}
    assert server.received[0]["messages"] == [system, user("Be exact.\nQ: Why?")]


def test_of_columns_that_are_not_typed_nothing_is_made_up(server: Server) -> None:
    columns = {"sections": ["{context}", "{question}"], "response": "{answer}", "chat": True, "system": "On {topic}."}
    assert piped(server, "Why?\n", template=columns).returncode == 0
    assert server.received[0]["messages"] == [user("Why?")]
    assert piped(server, "Why?\n", "--system", "On trees.", template=columns).returncode == 0
    assert server.received[1]["messages"][0]["content"] == "On trees."
    assert piped(server, "Why?\n", "--system", "").returncode == 0
    assert server.received[2]["messages"] == [user("Why?")]


def test_without_a_template_the_text_is_sent_as_it_is(server: Server) -> None:
    assert piped(server, "/usr/bin is what?\n", "--model", "chat", template=None).returncode == 0
    assert (server.received[0]["model"], server.received[0]["messages"]) == ("chat", [user("/usr/bin is what?")])


@pytest.mark.parametrize(
    ("flags", "template", "message"),
    [
        ([], {"sections": ["{q}"], "response": "{a}"}, "the model was trained on plain prompts, not on chats"),
        (["--model", "nobody"], TURNS, "--model nobody: the server serves base, sql, chat"),
        (["--port", "9"], TURNS, "--port 9: no server answers on 127.0.0.1"),
    ],
)
def test_what_is_no_conversation_is_refused_in_one_line(server: Server, flags, template, message: str) -> None:
    done = piped(server, "Why?\n", *flags, template=template)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr and len(done.stderr.splitlines()) == 1
    assert server.received == []


@pytest.mark.parametrize(
    ("status", "content", "message"),
    [
        (400, b'{"error": {"message": "too long"}}', "too long"),
        (400, b'{"object": "error", "message": "too long"}', "too long"),
        (500, b"<html>", "<html>"),
        (200, b'data: {"error": {"message": "out of memory"}}\n\n', "out of memory"),
        (200, b'data: {"choices": [{"delta": {}}]}\n\n', "no response from the server"),
        (200, b"data: 3\n\n", "is not a stream of completions"),
    ],
)
def test_an_answer_that_fails_is_one_line_behind_a_pipe(server: Server, status: int, content: bytes, message) -> None:
    server.broken = status, content
    done = piped(server, "Why?\n")
    assert done.returncode == 1
    assert message in done.stderr and len(done.stderr.splitlines()) == 1


class Terminal:
    """The program in a terminal of its own."""

    def __init__(self, words: list[str]) -> None:
        self._master, slave = pty.openpty()
        self._process = subprocess.Popen(
            words, stdin=slave, stdout=slave, stderr=slave, start_new_session=True, preexec_fn=_take_terminal
        )
        os.close(slave)
        self._rest = ""

    def until(self, text: str, again: str = "") -> str:
        """Read until this text; in each second without output, type `again`. Returns what came before it."""
        while text not in self._rest:
            if again and not select.select([self._master], [], [], 1.0)[0]:
                self.type(again)
            else:
                self._rest += os.read(self._master, 4096).decode(errors="replace")
        seen, _, self._rest = self._rest.partition(text)
        return seen

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def end(self) -> int:
        status = self._process.wait(timeout=60)
        os.close(self._master)
        return status


def _take_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def test_at_a_terminal_ctrl_c_ends_an_answer_and_ctrl_d_the_conversation(server: Server) -> None:
    terminal = Terminal(command(server, template=TURNS | {"system": "On {topic}."}))
    introduction = terminal.until(">>> ")
    assert "sql answers (the server also has base, chat)" in introduction
    assert "no system message: in training it had the columns topic; give one with --system" in introduction
    terminal.type("wait\n")
    terminal.until("answer 1")
    terminal.type("\x03")
    terminal.until("[stopped]")
    terminal.until(">>> ")
    terminal.type("half a question\x03")
    # Python does not notice a signal that arrives just before it begins to wait for a key.
    terminal.until("Use Ctrl-D or /bye to exit.", again="\x03")
    terminal.type("/x\n")
    terminal.until("/x: no such command; /? lists them")
    terminal.type("Why?\n")
    terminal.until("answer 2, it is […]")
    server.broken = 400, b'{"error": {"message": "too long"}}'
    terminal.until(">>> ")
    terminal.type("And?\n")
    assert "too long" in terminal.until("/clear forgets the conversation.")
    terminal.until(">>> ")
    terminal.type("\x04")
    assert terminal.end() == 0
    assert [body["messages"] for body in server.received] == [
        [user("wait")], [user("Why?")], [user("Why?"), assistant("answer 2, it is"), user("And?")]
    ]  # fmt: skip


def test_a_conversation_is_asked_with_the_tokens_that_were_trained(tiny_model: Path, tiny_adapter: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [sys.executable, SCRIPTS / "serve_embedded.py", "--model", tiny_model, "--port", port]
    words += ["--adapter", f"sql={tiny_adapter}"]
    template = Template.from_json(json.dumps(TURNS))
    with subprocess.Popen(list(map(str, words)), stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr and "serving at" in server.stderr.readline()
        while server.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
        client, options = Client("127.0.0.1", port, 60.0), {"max_tokens": 8, "temperature": 0}
        conversation = Conversation(client, "sql", template, None, options)
        shown = ["".join(conversation.ask(text)) for text in ("Older than 1?", "And than 2?")]
        [*asked, answer] = conversation.messages
        served = client.complete("sql", {"messages": asked}, options)
        server.send_signal(signal.SIGTERM)
    assert [turn["role"] for turn in asked] == ["system", "user", "assistant", "user"]
    assert answer["content"] == served["text"] == shown[1].removesuffix(" […]")
    tokenizer = PromptTokenizer(tiny_model, template)
    [*_, text] = tokenizer.texts({"messages": [*conversation.messages[1:-1], assistant("So.")]})
    [pieces] = tokenizer.ids([text])
    assert pieces[0] == served["prompt_token_ids"]
