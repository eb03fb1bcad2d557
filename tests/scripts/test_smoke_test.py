from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

import evaluate
import smoke_test
from common import program
from common.data.template import Template
from common.data.tokenizer import PromptTokenizer
from common.program import StageFailed
from common.serving.openai_client import Client

ROOT = Path(__file__).parents[2]
SCRIPTS, ASSETS = ROOT / "scripts", ROOT / "recipes" / "assets"

# A server of the standard library that answers as it is told: `answers` maps a model to its text.
STAND_IN = """
import json, os, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

port, answers, options = int(sys.argv[1]), json.loads(sys.argv[2]), json.loads(sys.argv[3])

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.reply(200, {})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if options.get("dies_on_the_prompts") and body["max_tokens"] > 1:
            print("engine lost", flush=True)
            os._exit(7)
        text = answers.get(body["model"], options.get("anybody"))
        found = {"choices": [{"text": text, **options.get("extra", {})}]}
        self.reply(200, found) if text is not None else self.reply(404, {"error": {"message": "no"}})

    def reply(self, status, content):
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())

    def log_message(self, *_):
        pass

ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(evaluation: Path, output: Path, port: int, server: list, *flags: str) -> subprocess.Popen[str]:
    command = [sys.executable, SCRIPTS / "smoke_test.py", "--evaluation", evaluation, "--output", output]
    command += ["--port", str(port), "--timeout", "120", "--prompts", "3", *flags, "--", *map(str, server)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def run(*args, **kwargs) -> tuple[int, str]:
    process = start(*args, **kwargs)
    errors = process.communicate(timeout=180)[1]
    return process.returncode, errors.splitlines()[-1] if errors else ""


@pytest.fixture(scope="module")
def evaluation(tiny_model, tiny_adapter, tiny_tokens, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("smoke") / "evaluation"
    folders = {"--model": tiny_model, "--adapter": tiny_adapter, "--tokens": tiny_tokens, "--output": output}
    argv = [str(word) for pair in folders.items() for word in pair] + ["--max-new-tokens", "8", "--examples", "4"]
    assert program.main(evaluate.run, evaluate.flags(), argv) == 0
    return output


def scaled(adapter: Path, factor: float, folder: Path) -> Path:
    """The adapter with `factor` times its scale."""
    shutil.copytree(adapter, folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    config["lora_alpha"] *= factor
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def sql_adapter(seed: int, folder: Path) -> Path:
    """A random LoRA on the quickstart's model, strong enough to change most of its answers."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaForCausalLM

    torch.manual_seed(seed)
    targets = ["q_proj", "v_proj", "down_proj"]
    config = LoraConfig(r=4, lora_alpha=8, target_modules=targets, init_lora_weights=False, task_type="CAUSAL_LM")
    get_peft_model(LlamaForCausalLM.from_pretrained(ASSETS / "tiny_llama"), config).save_pretrained(folder)
    return folder


def sql_tokens(folder: Path, count: int) -> Path:
    """The first questions of the quickstart, as evaluate.py reads them."""
    template = Template(sections=("{context}", "-- {question}\n"), answer="{answer}", separator="\n")
    tokenizer = PromptTokenizer(ASSETS / "tiny_llama", template)
    folder.mkdir()
    (folder / "template.json").write_text(template.to_json())
    with (folder / "eval.jsonl").open("w") as examples, (ASSETS / "sql" / "eval.jsonl").open() as rows:
        for row in map(json.loads, itertools.islice(rows, count)):
            prompt, response = tokenizer.texts(row)[0].prompt, template.response(row)
            example = {"prompt": prompt, "prompt_ids": tokenizer.prompt_ids([prompt])[0], "response": response}
            example |= {"response_ids": tokenizer.response_ids([prompt], [response])[0], "fields": row}
            examples.write(json.dumps(example) + "\n")
    return folder


@pytest.fixture(scope="module")
def rounding(tmp_path_factory):
    """Samples evaluated in fp32, and the port of a server in bf16 with the adapter and wrong ones."""
    folder = tmp_path_factory.mktemp("rounding")
    model, right = ASSETS / "tiny_llama", sql_adapter(1, folder / "right")
    folders = {"--model": model, "--adapter": right, "--tokens": sql_tokens(folder / "tokens", 8)}
    argv = [str(word) for pair in folders.items() for word in pair]
    argv += ["--output", str(folder / "evaluation"), "--max-new-tokens", "24"]
    assert program.main(evaluate.run, evaluate.flags(), argv) == 0
    adapters = {
        "right": right,
        "half": scaled(right, 0.5, folder / "half"),
        "double": scaled(right, 2, folder / "double"),
        "other": sql_adapter(7, folder / "other"),
    }
    port = free_port()
    named = [word for name, path in adapters.items() for word in ("--adapter", f"{name}={path}")]
    server = [sys.executable, SCRIPTS / "serve_embedded.py", "--model", model, "--port", port, "--dtype", "bf16"]
    process = subprocess.Popen(list(map(str, [*server, *named])), stderr=subprocess.PIPE, text=True)
    assert process.stderr and "serving at" in process.stderr.readline()
    yield smoke_test.read_samples(folder / "evaluation" / "samples.jsonl", 8), port
    process.terminate()
    process.communicate(timeout=60)


@pytest.fixture
def stand_in(tmp_path):
    """The command of a server that answers every prompt of `written` as told, on a free port."""
    program_file = tmp_path / "stand_in.py"
    program_file.write_text(STAND_IN)

    def command(port: int, answers: dict, **options) -> list:
        return [sys.executable, program_file, port, json.dumps(answers), json.dumps(options)]

    return command


@pytest.fixture
def written(tmp_path) -> Path:
    """An evaluation in which the base says "b" and the adapter "a"."""
    answers = {side: {"text": side[0], "token_ids": [ord(side[0])]} for side in ("base", "adapter")}
    line = json.dumps({"prompt": "p", "prompt_token_ids": [1, 2], "max_new_tokens": 4, **answers})
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "samples.jsonl").write_text(f"{line}\n" * 4)
    return tmp_path / "evaluation"


GOOD = {"base": "b", "adapter": "a"}


def test_the_embedded_server_serves_what_was_evaluated(evaluation, tiny_model, tiny_adapter, tmp_path):
    port = free_port()
    server = [sys.executable, SCRIPTS / "serve_embedded.py", "--model", tiny_model, "--port", port]
    status, line = run(evaluation, tmp_path / "out", port, [*server, "--adapter", f"adapter={tiny_adapter}"])
    assert status == 0, line
    report = json.loads((tmp_path / "out" / "smoke.json").read_text())
    assert (report["prompts"], report["equal_to_evaluation"]) == (3, 3)
    assert report["differs_from_base"] >= 1
    assert report["startup_seconds"] > 0
    assert len(report["samples"]) == 3
    assert "serving at" in (tmp_path / "out" / "server.log").read_text()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", port))


@pytest.mark.parametrize(
    ("answers", "options", "flags", "status", "message"),
    [
        (GOOD, {}, [], 0, "3/3 prompt"),
        (GOOD, {"extra": {"token_ids": [97]}}, ["--no-base"], 0, "3/3 prompt"),
        ({"adapter": "a"}, {}, ["--no-base"], 0, "3/3 prompt"),
        ({"base": "b", "adapter": "b"}, {}, [], 1, "like the base model: is it applied?"),
        ({"adapter": "b"}, {}, ["--no-base"], 1, "like the base model: is it applied?"),
        ({"base": "b", "adapter": "c"}, {}, [], 1, "first difference: adapter: served 'c', evaluated 'a'"),
        ({"base": "b", "adapter": "c"}, {}, ["--min-equal", "0"], 0, "3/3 prompt"),
        ({"base": "c", "adapter": "a"}, {}, [], 1, "first difference: base: served 'c', evaluated 'b'"),
        (GOOD, {"extra": {"prompt_token_ids": [9, 1, 2]}}, [], 1, "prompt to 3 tokens, which are not the 2 evaluated"),
        (GOOD, {"anybody": "x"}, [], 1, "unknown model no-such-model returned status 200"),
        ({"base": "b"}, {}, [], 1, "the server rejects model adapter"),
        ({"adapter": "a"}, {}, [], 1, "the server responded for base with status 404"),
        (GOOD, {"dies_on_the_prompts": True}, [], 1, "engine lost"),
    ],
)
def test_what_a_server_says_decides(stand_in, written, tmp_path, answers, options, flags, status, message):
    port = free_port()
    found, line = run(written, tmp_path / "out", port, stand_in(port, answers, **options), *flags)
    assert found == status
    assert message in line


@pytest.mark.parametrize(
    ("served", "near_tie", "asks_base", "message"),
    [
        ("right", 0.5, True, None),
        ("right", 0.5, False, None),
        ("right", 0, True, "7 of 8 prompts are answered as evaluated"),
        ("half", 0.5, True, "of 8 prompts are answered as evaluated"),
        ("half", 0.5, False, "like the base model"),
        ("double", 0.5, False, "of 8 prompts are answered as evaluated"),
        ("other", 0.5, False, "of 8 prompts are answered as evaluated"),
        ("base", 0.5, True, "like the base model"),
        ("base", 0.5, False, "like the base model"),
    ],
)
def test_rounding_is_told_from_a_wrong_adapter(rounding, tmp_path, served, near_tie, asks_base, message):
    """fp32 evaluated, bf16 served."""
    samples, port = rounding
    flags = ["--evaluation", tmp_path, "--output", tmp_path, "--port", port, "--adapter-name", served]
    flags += ["--near-tie", near_tie, *([] if asks_base else ["--no-base"]), "command"]
    args = smoke_test.flags().parse_args(list(map(str, flags)))
    client = Client("127.0.0.1", port, 60)
    report = smoke_test.summary([smoke_test.ask(client, sample, args) for sample in samples], 0)
    with nullcontext() if message is None else pytest.raises(StageFailed, match=message):
        smoke_test.check(report, 0.8 if near_tie else 1.0)


def answer(text: str, near_ties: list[dict]) -> dict:
    return {"text": text, "token_ids": None, "near_ties": near_ties}


@pytest.mark.parametrize(
    ("text", "near_tie", "accepted"),
    [
        ("SELECT a, b", 0.5, True),
        ("SELECT a, b", 0.2, False),
        ("SELECT a, b", 0, False),
        ("SELECT c", 0.5, False),
        ("SELECT", 0.5, True),
        ("SELECT d", 0.5, False),
    ],
)
def test_an_answer_may_part_where_the_evaluation_was_nearly_undecided(text, near_tie, accepted):
    ties = [{"text": "SELECT a,", "ends": False, "margin": 0.3}, {"text": "SELECT", "ends": True, "margin": 0.1}]
    sample = {"adapter": answer("SELECT a FROM t", ties)}
    served = {"text": text, "token_ids": None, "prompt_token_ids": None}
    assert (smoke_test.difference_from_evaluation("adapter", served, sample, near_tie) is None) == accepted


def test_a_server_that_ends_early_is_told_with_its_last_words(written, tmp_path):
    server = [sys.executable, "-c", "print('one'); print('out of memory'); raise SystemExit(3)"]
    status, line = run(written, tmp_path / "out", free_port(), server)
    assert status == 1
    assert re.search(r"the server exited before it was ready, status 3; .*server.log: one \| out of memory$", line)


def test_a_server_finds_the_tools_of_its_own_environment(written, tmp_path):
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    python = tmp_path / "venv" / "bin" / "python"
    python.symlink_to(sys.executable)
    server = [python, "-c", "import os; print(os.environ['PATH'].split(os.pathsep)[0])"]
    _, message = run(written, tmp_path / "out", free_port(), server)
    assert message.endswith(f": {python.parent}")


def test_a_server_that_never_answers_runs_out_of_time(written, tmp_path):
    server = [sys.executable, "-c", "import time; print('compiling', flush=True); time.sleep(600)"]
    status, line = run(written, tmp_path / "out", free_port(), server, "--timeout", "1")
    assert status == 1
    assert re.search(r"not ready after 1 s \(--timeout\); .*: compiling$", line)


@pytest.fixture
def alive(tmp_path) -> Path:
    """A named pipe that processes under test hold open: its end of file is the proof that all of them are gone."""
    os.mkfifo(tmp_path / "alive")
    return tmp_path / "alive"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_server_too(written, tmp_path, alive, number, status):
    server = [sys.executable, "-c", f"pipe = open({str(alive)!r}, 'w'); import time; time.sleep(600)"]
    process = start(written, tmp_path / "out", free_port(), server)
    with alive.open() as pipe:  # opens when the server does
        process.send_signal(number)
        assert process.wait(timeout=30) == status
        assert pipe.read() == ""
    assert "Traceback" not in process.communicate()[1]


def test_the_server_ends_when_the_smoke_test_is_killed(written, tmp_path, alive):
    server = [sys.executable, "-c", f"pipe = open({str(alive)!r}, 'w'); import time; time.sleep(600)"]
    process = start(written, tmp_path / "out", free_port(), server)
    with alive.open() as pipe:
        process.kill()
        assert pipe.read() == ""
    process.communicate()


def test_answers_that_were_cut_off_are_told(stand_in, written, tmp_path):
    port = free_port()
    process = start(written, tmp_path / "out", port, stand_in(port, GOOD, extra={"finish_reason": "length"}))
    assert "3 of 3 answers of the adapter were cut off after 4 tokens" in process.communicate(timeout=60)[1]
    assert json.loads((tmp_path / "out" / "smoke.json").read_text())["cut_off"] == 3


def test_a_process_that_outlives_the_server_is_killed(written, tmp_path, alive):
    engine = (
        f"import signal, time; signal.signal(15, signal.SIG_IGN); pipe = open({str(alive)!r}, 'w'); time.sleep(600)"
    )
    server = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {engine!r}]).wait()"
    process = start(written, tmp_path / "out", free_port(), [sys.executable, "-c", server])
    with alive.open() as pipe:
        process.terminate()
        assert process.wait(timeout=30) == 143
        assert pipe.read() == ""
    process.communicate()


def test_a_server_that_ignores_sigterm_is_killed(tmp_path, alive, monkeypatch):
    monkeypatch.setattr(smoke_test, "_STOP_GRACE", 0.1)
    monkeypatch.setattr(smoke_test, "_SIGNALS", ())  # pytest's own stay as they are
    code = f"import signal, time; signal.signal(15, signal.SIG_IGN); pipe = open({str(alive)!r}, 'w'); time.sleep(600)"
    client = Client("127.0.0.1", free_port(), 1)
    with smoke_test.Server([sys.executable, "-c", code], tmp_path / "log", client) as server:
        server.start()
        pipe = alive.open()
    assert pipe.read() == ""
    pipe.close()


@pytest.mark.parametrize("content", [None, b"", b"{", b"[1]", b'{"prompt": "a"}', b"\xff"])
def test_a_bad_evaluation_is_one_line(tmp_path, content):
    evaluation = tmp_path / "evaluation"
    evaluation.mkdir()
    if content is not None:
        (evaluation / "samples.jsonl").write_bytes(content)
    status, line = run(evaluation, tmp_path / "out", free_port(), ["true"])
    assert status == 2
    assert "samples.jsonl" in line
    assert not (tmp_path / "out").exists()


def test_a_port_in_use_and_an_unknown_command_are_bad_input(written, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"--port {port}: cannot listen" in run(written, tmp_path / "out", port, ["true"])[1]
    assert run(written, tmp_path / "out", free_port(), ["no-such-command"]) == (
        2, "smoke_test.py: no-such-command: no such command"
    )  # fmt: skip
