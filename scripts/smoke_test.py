"""Start a server, ask it what the evaluation asked, and stop it: does it serve the adapter that was evaluated?

Input:   the folder of evaluate.py (samples.jsonl) and the server's command line, after `--`.
Output:  smoke.json and server.log.

The server must speak OpenAI's protocol, as vLLM and serve_embedded.py do. Fails when an answer is not the
evaluation's, when no answer differs from the base model's, or when an unknown model is answered. The server's whole
process group is ended in any case.

Where the server computes otherwise than the evaluation did (bf16, another device, a merged model), its rounding decides
a token on which the evaluation was nearly undecided, and the rest of that answer is another text: of correct long
answers many are not equal. With --near-tie such an answer counts as the evaluation's. A wrong adapter, another scale or
the base model part from the evaluation where it was sure. This needs no log-probabilities, which servers on Neuron do
not give: evaluate.py has noted the near ties of its own answers.

    python scripts/smoke_test.py --evaluation evaluation --output smoke --port 8000 --prompts 4 --timeout 60 -- \\
        python scripts/serve_embedded.py --model model --adapter adapter=adapter/adapter --port 8000
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from types import FrameType
from typing import Any

from common import events, program
from common.program import BadInput, StageFailed
from common.serving.openai_client import Client, NoAnswer, Refused
from common.serving.processes import end_with_parent, search_path
from common.serving.server_flags import check_port

_HOST = "127.0.0.1"
_UNKNOWN_MODEL = "no-such-model"
_BETWEEN_PROBES = 0.1  # seconds
_STOP_GRACE = 60  # seconds from SIGTERM to SIGKILL: time to give an accelerator back in order
_FORK_LIMIT = 10  # seconds that starting a process takes at the very most
_LOG_LINES = 5  # of the server's last words in an error
_SIGNALS = (signal.SIGTERM, signal.SIGINT)

Answer = dict[str, Any]


def flags() -> argparse.ArgumentParser:
    parser = program.parser(__doc__)
    parser.add_argument("--evaluation", type=program.existing_folder, required=True, help="folder of evaluate.py")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--base-name", default="base", help="the base model's name on the server")
    parser.add_argument("--adapter-name", default="adapter", help="the adapter's name on the server")
    parser.add_argument("--no-base", action="store_true", help="never ask for the base model: the server cannot answer")
    parser.add_argument("--port", type=program.at_least(1), required=True, help="the server's, on 127.0.0.1")
    parser.add_argument("--prompts", type=program.at_least(1), default=4, help="how many of the evaluation's to ask")
    parser.add_argument(
        "--min-equal", type=program.at_least(0, float), default=1.0, metavar="FRACTION",
        help="share of prompts that must be answered as evaluated",
    )  # fmt: skip
    parser.add_argument(
        "--near-tie", type=program.at_least(0, float), default=0.0, metavar="NATS",
        help="where rounding differs: also accept an answer that parts from the evaluation's at a token that the "
        "evaluation found at most this much less likely than its own; 0 accepts equal answers alone",
    )  # fmt: skip
    parser.add_argument(
        "--timeout", type=program.at_least(0, float), default=900.0, metavar="SECONDS",
        help="for the server's start, and for each answer",
    )  # fmt: skip
    parser.add_argument("command", nargs="+", metavar="COMMAND", help="the server's command line, after --")
    return parser


def run(args: argparse.Namespace) -> None:
    samples = read_samples(args.evaluation / "samples.jsonl", args.prompts)
    check_port(_HOST, args.port)
    if shutil.which(args.command[0]) is None:
        raise BadInput(f"{args.command[0]}: no such command")
    args.output.mkdir(parents=True, exist_ok=True)
    for number in _SIGNALS:
        signal.signal(number, _exit_on_signal)
    client = Client(_HOST, args.port, args.timeout)
    with Server(args.command, args.output / "server.log", client) as server, server.explained():
        server.start()
        startup_seconds = server.wait_until_ready(args.adapter_name)
        results = []
        for done, sample in enumerate(samples, start=1):
            results.append(ask(client, sample, args))
            events.progress(done, len(samples), "prompt")
        check_unknown_model(client)
    report = summary(results, startup_seconds)
    (args.output / "smoke.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    warn_of_cut_answers(report, samples[0]["max_new_tokens"])
    check(report, args.min_equal)


def read_samples(path: Path, count: int) -> list[dict[str, Any]]:
    """The first `count` lines of samples.jsonl."""
    if not path.is_file():
        raise BadInput(f"--evaluation: {path}: no such file; give the folder made by evaluate.py")
    try:
        samples = [json.loads(line) for line in path.read_bytes().splitlines()[:count]]
        complete = all({"prompt", "max_new_tokens", "base", "adapter"} <= sample.keys() for sample in samples)
    except (ValueError, AttributeError):
        raise BadInput(f"{path}: not JSON lines as evaluate.py writes them") from None
    if not samples or not complete:
        raise BadInput(f"{path}: no samples, or samples without prompt, max_new_tokens, base and adapter")
    return samples


def _exit_on_signal(number: int, _: FrameType | None) -> None:
    _ignore_signals()  # a second one must not interrupt the end of the server
    sys.exit(128 + number)


def _ignore_signals() -> None:
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


class Server:
    """A command in a process group of its own, for the time of a `with`; its output goes to `log`.

    A thread starts it and waits for its end: signals are handled in the main thread alone, so that none can come
    between the process's start and the moment it is known here.
    """

    def __init__(self, command: list[str], log: Path, client: Client) -> None:
        self._command, self._log, self._client = command, log, client
        self._process: subprocess.Popen[bytes] | None = None
        self._started, self._ended = Event(), Event()
        self._watcher = Thread(target=self._watch, name="server")

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        """SIGTERM to the group, SIGKILL to what is left: a server may end before the processes that it started."""
        _ignore_signals()
        if not self._started.wait(_FORK_LIMIT):
            return  # a signal came before the start
        self._signal(signal.SIGTERM)
        self._ended.wait(_STOP_GRACE)
        self._signal(signal.SIGKILL)
        self._watcher.join()

    def start(self) -> None:
        self._watcher.start()

    def wait_until_ready(self, model: str) -> float:
        """Seconds until the server has answered for `model`."""
        start = time.monotonic()
        deadline = start + self._client.timeout
        while not self._client.is_ready([model], deadline):
            if self._ended.wait(_BETWEEN_PROBES):
                raise self._failure("the server ended before it was ready")
            if time.monotonic() > deadline:
                raise self._failure(f"the server is not ready after {self._client.timeout:g} s (--timeout)")
        return time.monotonic() - start

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Has a connection that breaks told with the server's last words."""
        try:
            yield
        except (NoAnswer, Refused) as error:
            raise self._failure(str(error)) from None

    def _watch(self) -> None:
        with self._log.open("wb") as log:
            try:
                self._process = subprocess.Popen(
                    self._command, env={**os.environ, "PATH": search_path(self._command[0])},
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                    preexec_fn=end_with_parent,
                )  # fmt: skip
                self._started.set()
                self._process.wait()
            except OSError as error:
                log.write(str(error).encode())
            finally:
                self._started.set()
                self._ended.set()

    def _signal(self, number: int) -> None:
        if self._process:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def _failure(self, what: str) -> StageFailed:
        """The error, with how the server ended, if it did, and its last words, in one line."""
        lines = self._log.read_text(errors="replace", encoding="utf-8").split("\n") if self._log.is_file() else []
        words = " | ".join([line.strip() for line in lines if line.strip()][-_LOG_LINES:])
        status = self._process.poll() if self._process else None
        ended = "" if status is None else f", status {status}"
        return StageFailed(f"{what}{ended}; {self._log}: {words or 'empty'}")


def ask(client: Client, sample: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """The served answers to one sample beside the evaluation's, and whether they are the same."""
    options = {"max_tokens": sample["max_new_tokens"], "temperature": 0}
    names = {"adapter": args.adapter_name} | ({} if args.no_base else {"base": args.base_name})
    served = {side: client.complete(name, sample, options) for side, name in names.items()}
    differences = [
        difference
        for side, given in served.items()
        if (difference := difference_from_evaluation(side, given, sample, args.near_tie))
    ]
    return {
        "prompt": sample["prompt"],
        "served": served,
        "evaluated": {side: sample[side]["text"] for side in served},
        "equal": all(_same(answer, sample[side]) for side, answer in served.items()),
        "differences": differences,
        "differs_from_base": not _is_base_answer(served, sample["base"], args.near_tie),
    }


def difference_from_evaluation(side: str, served: Answer, sample: dict[str, Any], near_tie: float) -> str | None:
    """What is not as evaluated, or None."""
    evaluated = sample[side]
    asked, read = sample.get("prompt_token_ids"), served["prompt_token_ids"]
    if asked and read and asked != read:
        return f"{side}: the server reads the prompt as {len(read)} other tokens than the {len(asked)} evaluated"
    if _same(served, evaluated) or _parts_at_near_tie(served["text"], evaluated, near_tie):
        return None
    return f"{side}: served {served['text'][:100]!r}, evaluated {evaluated['text'][:100]!r}"


def _is_base_answer(served: dict[str, Answer], evaluated: Answer, near_tie: float) -> bool:
    """Whether the adapter's answer could be the base model's."""
    if "base" in served:
        return _same(served["adapter"], served["base"])
    return _same(served["adapter"], evaluated) or _parts_at_near_tie(served["adapter"]["text"], evaluated, near_tie)


def _parts_at_near_tie(text: str, evaluated: Answer, near_tie: float) -> bool:
    """Whether `text` goes on, or ends, with a token that the evaluation nearly chose."""
    ties = [tie for tie in evaluated.get("near_ties", []) if near_tie and tie["margin"] <= near_tie]
    return any(text == tie["text"] if tie["ends"] else text.startswith(tie["text"]) for tie in ties)


def _same(one: Answer, other: Answer) -> bool:
    """By token ids; by text where a server tells no ids (vLLM before 0.10.2)."""
    key = "token_ids" if one["token_ids"] and other["token_ids"] else "text"
    return one[key] == other[key]


def check_unknown_model(client: Client) -> None:
    """A server that answers any name would also answer for an adapter that it does not have."""
    body = {"model": _UNKNOWN_MODEL, "prompt": "a", "max_tokens": 1, "temperature": 0}
    status, _ = client.ask("/v1/completions", body)
    if status != 404:
        raise StageFailed(f"the unknown model {_UNKNOWN_MODEL} is answered with status {status}, expected 404")


def summary(results: list[dict[str, Any]], startup_seconds: float) -> dict[str, Any]:
    return {
        "prompts": len(results),
        "equal_to_evaluation": sum(result["equal"] for result in results),
        "as_evaluated": sum(not result["differences"] for result in results),
        "differs_from_base": sum(result["differs_from_base"] for result in results),
        "cut_off": sum(result["served"]["adapter"]["finish_reason"] == "length" for result in results),
        "startup_seconds": round(startup_seconds, 2),
        "samples": results,
    }


def warn_of_cut_answers(report: dict[str, Any], max_new_tokens: int) -> None:
    if report["cut_off"]:
        events.log(
            f"{report['cut_off']} of {report['prompts']} answers of the adapter were cut off after {max_new_tokens} "
            "tokens (evaluate.max_new_tokens): allow more, or train longer until it learns to end",
            "warning",
        )


def check(report: dict[str, Any], min_equal: float) -> None:
    """Raises StageFailed when what is served is not what was evaluated, or is the base model."""
    prompts, as_evaluated = report["prompts"], report["as_evaluated"]
    if not report["differs_from_base"]:
        raise StageFailed(f"on {prompts} prompts the served adapter answers as the base model: is it applied?")
    if as_evaluated < min_equal * prompts:
        first = next(sample for sample in report["samples"] if sample["differences"])
        raise StageFailed(
            f"{as_evaluated} of {prompts} prompts are answered as evaluated; first: {first['differences'][0]}"
        )


if __name__ == "__main__":
    sys.exit(program.main(run, flags()))
