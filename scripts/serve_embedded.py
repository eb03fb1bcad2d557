"""Serve a base model and its LoRA adapters with an OpenAI-compatible HTTP API, on this machine's CPU.

Input:   a Hugging Face model folder and any number of PEFT folders.
Output:  GET /health and /v1/models; POST /v1/completions and /v1/chat/completions, streaming or not.
         On SIGTERM it exits with status 0.

VLLM_API_KEY in the environment, as for vLLM, is the API key that clients must send.

It replaces vLLM where there is no accelerator. Greedy answers equal those of evaluate.py token for token.

    python scripts/serve_embedded.py --model model --adapter sql=adapter/adapter --port 8000
    curl localhost:8000/v1/completions -H 'Content-Type: application/json' \\
        -d '{"model": "sql", "prompt": "Hello", "max_tokens": 20, "temperature": 0}'
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
from typing import TYPE_CHECKING

from common import events, program
from common.data import tokenizer
from common.formats.dtypes import DTYPES
from common.formats.peft_folder import BASE
from common.inference import loading
from common.serving.processes import exit_on_signals
from common.serving.server_flags import bound_socket, check_names, named_folder, reachable

if TYPE_CHECKING:
    from starlette.applications import Starlette

_GRACE = 5  # seconds for unfinished answers once the server has been asked to stop


def flags() -> argparse.ArgumentParser:
    """The program's flags."""
    parser = program.parser(__doc__)
    parser.add_argument("--model", type=program.existing_folder, required=True, help="Hugging Face folder of the base")
    parser.add_argument("--served-model-name", default="base", help="the base model's name in requests")
    parser.add_argument(
        "--adapter", type=named_folder, action="append", default=[], metavar="NAME=DIR", help="PEFT folder; repeatable"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=program.at_least(1), required=True, help="port to listen on")
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="fp32", help="data type of the weights")
    parser.add_argument("--max-batch", type=program.at_least(1), default=16, help="answers generated at a time")
    return parser


def run(args: argparse.Namespace) -> None:
    """Check the input, take the port, load the models and serve them until a signal arrives."""
    exit_on_signals()  # uvicorn shuts down on a signal, then raises it again
    check_names(args.served_model_name, args.adapter)
    loading.check_model(args.model, [folder for _, folder in args.adapter])
    _warn_if_open(args.host)
    with bound_socket(args.host, args.port) as listener:
        serve(app(args), listener, [args.served_model_name, *(name for name, _ in args.adapter)])


def _warn_if_open(host: str) -> None:
    from common.serving.access import API_KEY, is_local

    if not is_local(host) and not os.environ.get(API_KEY):
        events.log(f"--host {host}: whoever reaches this port can use the server; set {API_KEY}", "warning")


def app(args: argparse.Namespace) -> Starlette:
    """The web application, with the model and its adapters loaded."""
    decoder = tokenizer.load(args.model)
    stop_ids = loading.stop_token_ids(args.model, decoder)
    limits = loading.limits(args.model)
    adapters = dict(args.adapter)

    from common.data.chat_template import ChatTemplate
    from common.serving.engine import Engine
    from common.serving.openai_server import ModelServer

    chat = ChatTemplate.of(args.model)
    model = loading.load_model(args.model, adapters, args.dtype)
    names = {args.served_model_name: BASE} | {name: name for name in adapters}
    return ModelServer(Engine(model, stop_ids, args.max_batch), names, decoder, chat, limits).app(args.host)


def serve(app: Starlette, listener: socket.socket, models: list[str]) -> None:
    """Serve `app` on a bound socket and report that `models` are available."""
    import uvicorn

    host, port = listener.getsockname()[:2]
    listener.listen()  # from now on connections wait instead of being refused
    events.serving(f"http://{reachable(host)}:{port}", models)
    uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=_GRACE)).run(sockets=[listener])


if __name__ == "__main__":
    sys.exit(program.main(run, flags()))
