"""Talk to a model of a running server: each line is a question, earlier turns are sent along, answers are streamed.

Input:   the address of an OpenAI-compatible server, and lines on standard input; three double quotes begin and end a
         question of several lines.
Output:  the answers, on standard output.

The server writes the conversation with the model's chat template. --template adds what the template of the training
data adds: its system message, and what it writes around a question.

    python scripts/chat_with_server.py --port 8000 --model adapter --template tokens/template.json
"""

from __future__ import annotations

import argparse
import re
import signal
import sys
from collections.abc import Generator, Iterator
from contextlib import closing, suppress
from typing import Any

from common import program
from common.data.template import Template
from common.program import BadInput, StageFailed
from common.serving import chat
from common.serving.openai_client import Client

_QUOTES = '"""'
_COMMAND = re.compile(r"\s*(/\w+|/\?)\s*")
_HELP = """\
/clear    forget the conversation
/bye      exit, as does Ctrl-D
\"\"\"       begin and end a question of several lines
Ctrl-C    stop an answer; the question is forgotten"""


def flags() -> argparse.ArgumentParser:
    """The program's flags."""
    parser = program.parser(__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="host of the server")
    parser.add_argument("--port", type=program.at_least(1), required=True, help="port of the server")
    parser.add_argument("--model", metavar="NAME", help="model to talk to (default: the first adapter)")
    parser.add_argument("--template", type=Template.load, metavar="JSON", help="of the training data, text or file")
    parser.add_argument("--system", metavar="TEXT", help="system message (default: the template's)")
    parser.add_argument("--max-tokens", type=program.at_least(1), default=128, help="longest answer")
    parser.add_argument("--temperature", type=program.at_least(0, float), default=0.0, help="0 is greedy")
    parser.add_argument("--timeout", type=program.at_least(0, float), default=300.0, help="seconds without a token")
    return parser


def run(args: argparse.Namespace) -> None:
    """Answer each question until there are no more."""
    template = args.template or Template()
    if args.template and not args.template.chat:
        raise BadInput("--template: the model was trained on plain prompts, not on chats: ask one prompt at a time")
    client = Client(args.host, args.port, args.timeout)
    served = client.models()
    if args.model and args.model not in served:
        raise BadInput(f"--model {args.model}: the server serves {', '.join(served)}")
    model = args.model or (served[1:2] or served)[0]
    options = {"max_tokens": args.max_tokens, "temperature": args.temperature}
    conversation = Conversation(client, model, template, args.system, options)
    if not sys.stdin.isatty():
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        for text in questions(""):
            reply(conversation, text)
        return
    for line in introduction(model, served, template, args.system):
        print(line)
    with suppress(ImportError):
        import readline  # noqa: F401  # input() then has a history, and keys that move in a line
    talk(conversation)


def introduction(model: str, served: list[str], template: Template, system: str | None) -> Iterator[str]:
    """Who answers, and what the training data had that a typed question lacks, a line each."""
    others = [name for name in served if name != model]
    yield f"{model} answers" + (f" (the server also has {', '.join(others)})" if others else "") + "; /? for help"
    if system is None and (columns := template.columns(template.system or "")):
        yield f"no system message: in training it had the columns {', '.join(columns)}; give one with --system"
    if len(columns := template.columns(*template.sections)) > 1:
        yield f"in training a question had the columns {', '.join(columns)}; type one as it would be written from them"


class Conversation:
    """The turns so far, which are sent with each question.

    Args:
        system: instead of the template's system message; empty for none.
        options: of each request.

    Attributes:
        messages: the system message, and the questions and answers.
    """

    def __init__(
        self, client: Client, model: str, template: Template, system: str | None, options: dict[str, Any]
    ) -> None:
        self._client, self._model, self._template, self._options = client, model, template, options
        self._start = chat.opening(template, system)
        self.clear()

    def clear(self) -> None:
        """Forget all turns but the system message."""
        self.messages = [*self._start]

    def ask(self, text: str) -> Generator[str, None, None]:
        """The pieces of the answer to the next question; the turns are kept when all of them were read."""
        messages = chat.with_question(self.messages, text, self._template)
        answer, reason = "", None
        with closing(self._client.stream(self._model, {"messages": messages}, self._options)) as pieces:
            for piece, reason in pieces:  # noqa: B007  the last reason is what is left
                answer += piece
                yield piece
        if reason == "length":
            yield " […]"
        self.messages = [*messages, {"role": "assistant", "content": answer}]


def talk(conversation: Conversation) -> None:
    """Answer what is typed. Errors, and Ctrl-C, end an answer and not the conversation."""
    typed = questions(">>> ")
    while True:
        try:
            if (text := next(typed, None)) is None:
                print()
                return
        except KeyboardInterrupt:
            print("\nUse Ctrl-D or /bye to exit.")
            typed = questions(">>> ")
            continue
        try:
            reply(conversation, text)
        except KeyboardInterrupt:
            print(" [stopped]")
        except StageFailed as error:
            print(f"{error}\n/clear forgets the conversation.", file=sys.stderr)


def reply(conversation: Conversation, text: str) -> None:
    """Print the answer to one question, or obey a command."""
    command = _COMMAND.fullmatch(text)
    if command is None:
        with closing(conversation.ask(text)) as pieces:
            for piece in pieces:
                print(piece, end="", flush=True)
        print("\n" if sys.stdin.isatty() else "")
    elif command[1] == "/clear":
        conversation.clear()
    elif command[1] in ("/?", "/help"):
        print(_HELP)
    else:
        print(f"{command[1]}: no such command; /? lists them", file=sys.stderr)


def questions(prompt: str) -> Iterator[str]:
    """What is typed until the end of the input or /bye: a line, or the lines between triple quotes."""
    with suppress(EOFError):
        while True:
            text = input(prompt)
            if text.lstrip().startswith(_QUOTES):
                text = text.lstrip().removeprefix(_QUOTES)
                while not text.rstrip().endswith(_QUOTES):
                    text += "\n" + input("... " if prompt else "")
                text = text.rstrip().removesuffix(_QUOTES).strip("\n")
            if text.strip() == "/bye":
                return
            if text.strip():
                yield text


if __name__ == "__main__":
    sys.exit(program.main(run, flags()))
