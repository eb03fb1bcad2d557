"""Start a server, send it the prompts of the evaluation, and stop it: does it serve the adapter that was evaluated?

Input:   the folder of evaluate.py (samples.jsonl) and the server's command line, after `--`.
Output:  smoke.json and server.log.

The server must be OpenAI-compatible, as vLLM and serve_embedded.py are. The test fails if an answer differs from the
evaluation's, if no answer differs from the base model's, or if the server answers for an unknown model. The server's
process group is terminated in any case.

If the server computes in another way than the evaluation did (bf16, another device, a merged model), its rounding may
decide a token that was nearly a tie, and the rest of that answer is then different: many correct long answers are not
equal. With --near-tie such an answer is accepted. A wrong adapter, a wrong scale or the base model diverges at tokens
that were no near ties. The test needs no log-probabilities, which servers on Neuron do not return: evaluate.py stores
the near ties of its answers.

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
_STOP_GRACE = 60  # seconds from SIGTERM to SIGKILL: time to release an accelerator properly
_FORK_LIMIT = 10  # seconds: an upper bound for starting a process
_LOG_LINES = 5  # of the end of the server's log, in an error message
_SIGNALS = (signal.SIGTERM, signal.SIGINT)

Answer = dict[str, Any]


def flags() -> argparse.ArgumentParser:
    """The program's flags."""
    parser = program.parser(__doc__)
    parser.add_argument("--evaluation", type=program.existing_folder, required=True, help="folder of evaluate.py")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--base-name", default="base", help="the base model's name on the server")
    parser.add_argument("--adapter-name", default="adapter", help="the adapter's name on the server")
    parser.add_argument("--no-base", action="store_true", help="the server has no base model: do not send it prompts")
    parser.add_argument("--port", type=program.at_least(1), required=True, help="port of the server, on 127.0.0.1")
    parser.add_argument("--prompts", type=program.at_least(1), default=4, help="number of evaluated prompts to send")
    parser.add_argument(
        "--min-equal", type=program.at_least(0, float), default=1.0, metavar="FRACTION",
        help="share of prompts that must be answered as evaluated",
    )  # fmt: skip
    parser.add_argument(
        "--near-tie", type=program.at_least(0, float), default=0.0, metavar="NATS",
        help="also accept an answer that diverges from the evaluation's at a token whose log-probability there was at "
        "most this much below the chosen token's; 0 only accepts equal answers",
    )  # fmt: skip
    parser.add_argument(
        "--timeout", type=program.at_least(0, float), default=900.0, metavar="SECONDS",
        help="limit for the server's start, and for each answer",
    )  # fmt: skip
    parser.add_argument("command", nargs="+", metavar="COMMAND", help="the server's command line, after --")
    return parser


def run(args: argparse.Namespace) -> None:
    """Start the server, compare its answers with the evaluation's, write the report and check it."""
    samples = read_samples(args.evaluation / "samples.jsonl", args.prompts)
    check_port(_HOST, args.port)
    if shutil.which(args.command[0]) is None:
        raise BadInput(f"{args.command[0]}: no such command")
    args.output.mkdir(parents=True, exist_ok=True)
    for number in _SIGNALS:
        signal.signal(number, _exit_on_signal)
    report = run_server(args, samples)
    (args.output / "smoke.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    warn_about_truncation(report, samples[0]["max_new_tokens"])
    check(report, args.min_equal)


def run_server(args: argparse.Namespace, samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Run the server for as long as it takes to send it all samples; returns the report."""
    client = Client(_HOST, args.port, args.timeout)
    with Server(args.command, args.output / "server.log", client) as server, server.errors_with_log():
        server.start()
        startup_seconds = server.wait_until_ready(args.adapter_name)
        results = []
        for done, sample in enumerate(samples, start=1):
            results.append(ask(client, sample, args))
            events.progress(done, len(samples), "prompt")
        check_unknown_model(client)
    return summary(results, startup_seconds)


def read_samples(path: Path, count: int) -> list[dict[str, Any]]:
    """The first `count` samples. Raises BadInput if the file is missing or not made by evaluate.py."""
    if not path.is_file():
        raise BadInput(f"--evaluation: {path}: no such file; use the output folder of evaluate.py")
    try:
        samples = [json.loads(line) for line in path.read_bytes().splitlines()[:count]]
        complete = all({"prompt", "max_new_tokens", "base", "adapter"} <= sample.keys() for sample in samples)
    except (ValueError, AttributeError):
        raise BadInput(f"{path}: not JSON lines written by evaluate.py") from None
    if not samples or not complete:
        raise BadInput(f"{path}: no samples, or samples without prompt, max_new_tokens, base and adapter")
    return samples


def _exit_on_signal(number: int, _: FrameType | None) -> None:
    _ignore_signals()  # a second signal must not interrupt the shutdown of the server
    sys.exit(128 + number)


def _ignore_signals() -> None:
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


class Server:
    """A context manager that runs a command in its own process group and writes its output to `log`.

    A thread starts the process and waits for it. Signals are only handled in the main thread, so none can arrive
    between the start of the process and the assignment of `_process`.
    """

    def __init__(self, command: list[str], log: Path, client: Client) -> None:
        self._command, self._log, self._client = command, log, client
        self._process: subprocess.Popen[bytes] | None = None
        self._started, self._ended = Event(), Event()
        self._watcher = Thread(target=self._watch, name="server")

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        """Send SIGTERM to the group, then SIGKILL: a server may exit before the processes that it started."""
        _ignore_signals()
        if not self._started.wait(_FORK_LIMIT):
            return  # a signal arrived before the start
        self._signal(signal.SIGTERM)
        self._ended.wait(_STOP_GRACE)
        self._signal(signal.SIGKILL)
        self._watcher.join()

    def start(self) -> None:
        """Start the process; returns immediately."""
        self._watcher.start()

    def wait_until_ready(self, model: str) -> float:
        """Wait until the server answers for `model`; returns the seconds. Raises StageFailed if it never does."""
        start = time.monotonic()
        deadline = start + self._client.timeout
        while not self._client.is_ready([model], deadline):
            if self._ended.wait(_BETWEEN_PROBES):
                raise self._failure("the server exited before it was ready")
            if time.monotonic() > deadline:
                raise self._failure(f"the server is not ready after {self._client.timeout:g} s (--timeout)")
        return time.monotonic() - start

    @contextmanager
    def errors_with_log(self) -> Iterator[None]:
        """Add the end of the server's log to connection errors."""
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

    def _failure(self, message: str) -> StageFailed:
        """The error in one line, with the server's exit status, if it has one, and the end of its log."""
        lines = self._log.read_text(errors="replace", encoding="utf-8").split("\n") if self._log.is_file() else []
        log_end = " | ".join([line.strip() for line in lines if line.strip()][-_LOG_LINES:])
        status = self._process.poll() if self._process else None
        exit_status = "" if status is None else f", status {status}"
        return StageFailed(f"{message}{exit_status}; {self._log}: {log_end or 'empty'}")


def ask(client: Client, sample: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """The served answers to one sample, the evaluation's, and how they compare."""
    options = {"max_tokens": sample["max_new_tokens"], "temperature": 0}
    names = {"adapter": args.adapter_name} | ({} if args.no_base else {"base": args.base_name})
    served = {side: client.complete(name, sample, options) for side, name in names.items()}
    differences = [
        difference
        for side, answer in served.items()
        if (difference := difference_from_evaluation(side, answer, sample, args.near_tie))
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
    """How the served answer differs from the evaluated one; None if it does not."""
    evaluated = sample[side]
    expected_ids, served_ids = sample.get("prompt_token_ids"), served["prompt_token_ids"]
    if expected_ids and served_ids and expected_ids != served_ids:
        return (
            f"{side}: the server tokenizes the prompt to {len(served_ids)} tokens, "
            f"which are not the {len(expected_ids)} evaluated ones"
        )
    if _same(served, evaluated) or _diverges_at_near_tie(served["text"], evaluated, near_tie):
        return None
    return f"{side}: served {served['text'][:100]!r}, evaluated {evaluated['text'][:100]!r}"


def _is_base_answer(served: dict[str, Answer], evaluated: Answer, near_tie: float) -> bool:
    """Whether the adapter's answer could be the base model's; `evaluated` is the base model's evaluated answer."""
    answer = served["adapter"]
    if "base" in served:
        return _same(answer, served["base"])
    return _same(answer, evaluated) or _diverges_at_near_tie(answer["text"], evaluated, near_tie)


def _diverges_at_near_tie(text: str, evaluated: Answer, near_tie: float) -> bool:
    """Whether `text` continues, or ends, with a token that the evaluation nearly chose."""
    ties = [tie for tie in evaluated.get("near_ties", []) if near_tie and tie["margin"] <= near_tie]
    return any(text == tie["text"] if tie["ends"] else text.startswith(tie["text"]) for tie in ties)


def _same(left: Answer, right: Answer) -> bool:
    """Compare token ids, or text if a server returns no ids (vLLM before 0.10.2)."""
    key = "token_ids" if left["token_ids"] and right["token_ids"] else "text"
    return left[key] == right[key]


def check_unknown_model(client: Client) -> None:
    """Raise StageFailed if an unknown model is answered: then any adapter's name would be, loaded or not."""
    body = {"model": _UNKNOWN_MODEL, "prompt": "a", "max_tokens": 1, "temperature": 0}
    status, _ = client.ask("/v1/completions", body)
    if status != 404:
        raise StageFailed(f"a request for the unknown model {_UNKNOWN_MODEL} returned status {status}, expected 404")


def summary(results: list[dict[str, Any]], startup_seconds: float) -> dict[str, Any]:
    """The content of smoke.json: counts over the results, and the results themselves."""
    return {
        "prompts": len(results),
        "equal_to_evaluation": sum(result["equal"] for result in results),
        "as_evaluated": sum(not result["differences"] for result in results),
        "differs_from_base": sum(result["differs_from_base"] for result in results),
        "cut_off": sum(result["served"]["adapter"]["finish_reason"] == "length" for result in results),
        "startup_seconds": round(startup_seconds, 2),
        "samples": results,
    }


def warn_about_truncation(report: dict[str, Any], max_new_tokens: int) -> None:
    """Log a warning if answers of the adapter reached the token limit."""
    if report["cut_off"]:
        events.log(
            f"{report['cut_off']} of {report['prompts']} answers of the adapter were cut off after {max_new_tokens} "
            "tokens: raise evaluate.max_new_tokens, or train longer until the adapter learns to end its answers",
            "warning",
        )


def check(report: dict[str, Any], min_equal: float) -> None:
    """Raise StageFailed if the served adapter is not the evaluated one, or behaves like the base model."""
    prompts, as_evaluated = report["prompts"], report["as_evaluated"]
    if not report["differs_from_base"]:
        raise StageFailed(f"the served adapter answers all {prompts} prompts like the base model: is it applied?")
    if as_evaluated < min_equal * prompts:
        first = next(sample for sample in report["samples"] if sample["differences"])
        raise StageFailed(
            f"only {as_evaluated} of {prompts} prompts are answered as evaluated; first difference: "
            f"{first['differences'][0]}"
        )


if __name__ == "__main__":
    sys.exit(program.main(run, flags()))
