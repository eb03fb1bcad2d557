"""Send the same questions to the models of a running server and compare their answers.

Input:   the address of an OpenAI-compatible server, and a JSONL, JSON, CSV or Parquet file of questions. A row with
         a column of --template is rendered with the template; of any other row the column `prompt` is sent.
Output:  answers.jsonl, each row with every model's answer; summary.json, counts of truncated and identical answers.

    python scripts/ask_server.py --port 8000 --prompts rows.jsonl --template tokens/template.json --output answers
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from common import program
from common.inference.questions import Answer, Question, add_flags, collect_answers, read_questions
from common.program import BadInput
from common.serving.openai_client import Client


def flags() -> argparse.ArgumentParser:
    """The program's flags."""
    parser = program.parser(__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="host of the server")
    parser.add_argument("--port", type=program.at_least(1), required=True, help="port of the server")
    add_flags(parser)
    parser.add_argument("--models", nargs="+", metavar="NAME", help="models to ask (default: all that it serves)")
    parser.add_argument("--together", type=program.at_least(1), default=8, help="concurrent requests")
    parser.add_argument("--timeout", type=program.at_least(0, float), default=300.0, help="seconds per answer")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    return parser


def run(args: argparse.Namespace) -> None:
    """Ask every model every question and write the answers."""
    questions = read_questions(args.prompts, args.template)
    client = Client(args.host, args.port, args.timeout)
    served = client.models()
    for name in args.models or []:
        if name not in served:
            raise BadInput(f"--models {name}: the server serves {', '.join(served)}")
    models = args.models or served
    options = {"max_tokens": args.max_tokens, "temperature": args.temperature}
    tasks = [(model, question) for model in models for question in questions]

    def ask(task: tuple[str, Question]) -> Answer:
        return client.complete(task[0], task[1].body(), options)

    with collect_answers(args.output, questions, models) as answers, ThreadPoolExecutor(args.together) as pool:
        for (model, _), answer in zip(tasks, pool.map(ask, tasks), strict=True):
            answers.add(model, [answer])


if __name__ == "__main__":
    sys.exit(program.main(run, flags()))
