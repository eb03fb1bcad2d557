"""Ask every model of a running server the same questions, and compare their answers.

Input:   the address of a server that speaks OpenAI's protocol, and a JSONL, JSON, CSV or Parquet file: a row
         that has a column of --template is written with it, any other row is asked its `prompt` as it is.
Output:  answers.jsonl, each row with the answer of every model; summary.json, how many were cut off or are the same.

    python scripts/ask_server.py --port 8000 --prompts rows.jsonl --template tokens/template.json --output answers
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from common import events, program
from common.data.template import Template
from common.inference import questions as answers
from common.inference.questions import Answer, Question
from common.program import BadInput, StageFailed
from common.serving.openai_client import Client


def flags() -> argparse.ArgumentParser:
    parser = program.parser(__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="the server's")
    parser.add_argument("--port", type=program.at_least(1), required=True, help="the server's")
    parser.add_argument("--prompts", type=program.existing_file, required=True, help="the questions")
    parser.add_argument("--template", type=Template.load, metavar="JSON", help="text or file, for rows of columns")
    parser.add_argument("--models", nargs="+", metavar="NAME", help="which to ask; default: all that it serves")
    parser.add_argument("--max-tokens", type=program.at_least(1), default=128, help="longest answer")
    parser.add_argument("--temperature", type=program.at_least(0, float), default=0.0, help="0 is greedy")
    parser.add_argument("--together", type=program.at_least(1), default=8, help="requests under way at once")
    parser.add_argument("--timeout", type=program.at_least(0, float), default=300.0, help="seconds for an answer")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    return parser


def run(args: argparse.Namespace) -> None:
    questions = answers.read_questions(args.prompts, args.template)
    client = Client(args.host, args.port, args.timeout)
    served = served_models(client)
    for name in args.models or []:
        if name not in served:
            raise BadInput(f"--models {name}: the server has {', '.join(served)}")
    models = args.models or served
    options = {"max_tokens": args.max_tokens, "temperature": args.temperature}
    tasks = [(model, question) for model in models for question in questions]

    def ask(task: tuple[str, Question]) -> Answer:
        return client.complete(task[0], task[1].asked(), options)

    with answers.kept(args.output, questions, models) as given, ThreadPoolExecutor(args.together) as pool:
        for done, ((model, _), answer) in enumerate(zip(tasks, pool.map(ask, tasks), strict=True), start=1):
            given[model].append(answer)
            events.progress(done, len(tasks), "answer")


def served_models(client: Client) -> list[str]:
    """Names that the server lists. Raises BadInput when none answers there."""
    try:
        status, content = client.request("GET", "/v1/models", None, client.timeout)
        names = [entry["id"] for entry in json.loads(content)["data"]]
    except (OSError, http.client.HTTPException) as error:
        raise BadInput(f"--port {client.port}: no server answers on {client.host} ({error})") from None
    except (ValueError, KeyError, TypeError):
        raise StageFailed(f"the server's list of models (status {status}) is not one") from None
    return names


if __name__ == "__main__":
    sys.exit(program.main(run, flags()))
