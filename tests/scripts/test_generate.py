"""A file of questions, answered offline and by a server, with the same tokens."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import ask_server
import generate
from common import program

SCRIPTS = Path(__file__).parents[2] / "scripts"
TEMPLATE = json.dumps({"sections": ["{question}", "{context}", "SQL: "], "separator": "\n", "response": "{answer}"})


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """Rows of the template's columns, and one that is a prompt already."""
    rows = [{"question": f"Older than {n}?", "context": f"CREATE TABLE t{n} (age INTEGER)", "n": n} for n in range(3)]
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"prompt": "def test"}]))
    return path


def offline(model: Path, adapter: Path, prompts: Path, output: Path, *flags: str) -> int:
    folders = {"--model": model, "--adapter": f"sql.1={adapter}", "--prompts": prompts, "--output": output}
    argv = [str(word) for pair in folders.items() for word in pair]
    argv += ["--engine", "embedded", "--template", TEMPLATE, "--max-tokens", "8", *flags]
    return program.main(generate.run, generate.flags(), argv)


def lines_of(output: Path) -> list[dict]:
    return [json.loads(line) for line in (output / "answers.jsonl").read_text().splitlines()]


def test_rows_come_back_with_every_models_answer(tiny_model, tiny_adapter, prompts, tmp_path):
    assert offline(tiny_model, tiny_adapter, prompts, tmp_path / "out") == 0
    lines = lines_of(tmp_path / "out")
    assert [line["prompt"] for line in lines] == [
        *(f"Older than {n}?\nCREATE TABLE t{n} (age INTEGER)\nSQL: " for n in range(3)), "def test"
    ]  # fmt: skip
    assert [line.get("n") for line in lines] == [0, 1, 2, None]
    for line in lines:
        assert list(line["answers"]) == ["base", "sql.1"]
        assert 1 <= len(line["answers"]["base"]["token_ids"]) <= 8
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["questions"] == 4
    cut = sum(line["answers"]["base"]["finish_reason"] == "length" for line in lines)
    assert summary["cut_off"]["base"] == cut


def test_of_the_likeliest_tokens_the_first_alone_is_greedy(tiny_model, tiny_adapter, prompts, tmp_path):
    assert offline(tiny_model, tiny_adapter, prompts, tmp_path / "greedy") == 0
    flags = ["--temperature", "1.5", "--top-k", "1"]
    assert offline(tiny_model, tiny_adapter, prompts, tmp_path / "first", *flags) == 0
    assert lines_of(tmp_path / "first") == lines_of(tmp_path / "greedy")


def test_an_image_runs_the_same_program_on_the_same_files(tiny_model, tiny_adapter, prompts, tmp_path):
    """`docker` here is a script that runs what stands behind the image: what a machine without Docker can show."""
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text(
        f'#!/bin/sh\necho "$@" > "{tmp_path}/asked"\nuntil [ "$1" = vllm:1 ]; do\n'
        f'[ "$1" = --env ] && export "$2"\nshift; done\nshift; exec "{sys.executable}" "$@"\n'
    )
    docker.chmod(0o755)
    (tmp_path / "template.json").write_text(TEMPLATE)
    words = ["--model", tiny_model, "--adapter", f"sql={tiny_adapter}", "--prompts", "prompts.jsonl", "--output", "out"]
    words += ["--template", "template.json", "--engine", "embedded", "--image", "vllm:1", "--devices", "0"]
    words += ["--max-tokens", "8"]
    environment = {**os.environ, "PATH": f"{docker.parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        [sys.executable, SCRIPTS / "generate.py", *map(str, words)], cwd=tmp_path, env=environment, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()
    assert list(lines_of(tmp_path / "out")[0]["answers"]) == ["base", "sql"]
    asked = (tmp_path / "asked").read_text()
    for mount in (f"{tiny_model}:{tiny_model}:ro", f"{prompts}:{prompts}:ro", f"{tmp_path}/out:{tmp_path}/out "):
        assert f"--volume {mount}" in asked


def test_a_server_gives_the_same_answers(tiny_model, tiny_adapter, prompts, tmp_path):
    assert offline(tiny_model, tiny_adapter, prompts, tmp_path / "offline") == 0
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, SCRIPTS / "serve_embedded.py", "--model", tiny_model, "--port", port]
    words = list(map(str, [*command, "--adapter", f"sql.1={tiny_adapter}"]))
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr and "serving at" in server.stderr.readline()
        while server.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
        argv = ["--port", str(port), "--prompts", str(prompts), "--template", TEMPLATE, "--max-tokens", "8"]
        flags = ask_server.flags()
        assert program.main(ask_server.run, flags, [*argv, "--output", str(tmp_path / "online")]) == 0
        assert lines_of(tmp_path / "online") == [
            line | {"answers": {name: answer | {"prompt_token_ids": online["answers"][name]["prompt_token_ids"]}
                                for name, answer in line["answers"].items()}}
            for line, online in zip(lines_of(tmp_path / "offline"), lines_of(tmp_path / "online"), strict=True)
        ]  # fmt: skip
        bad = [*argv, "--output", str(tmp_path / "bad"), "--models", "nobody"]
        assert program.main(ask_server.run, flags, bad) == 2
        server.send_signal(signal.SIGTERM)
    assert program.main(ask_server.run, flags, [*argv, "--output", str(tmp_path / "bad")]) == 2
    assert not (tmp_path / "bad").exists()


@pytest.mark.parametrize(
    ("rows", "flags", "message"),
    [
        ("", [], "prompts.jsonl: no rows"),
        ('{"question": "a"}\n', [], "prompts.jsonl:1: the template's '{context}' names the column 'context'"),
        ("[1]\n", [], "prompts.jsonl:1: a list, not an object"),
        ('{"prompt": "a"}\n', ["--max-tokens", "500"], "--max-tokens 500: the longest prompt has 1 tokens"),
        ('{"prompt": "a"}\n', ["--served-model-name", "sql.1"], "two models have the same name"),
        ('{"prompt": "a"}\n', ["--engine", "vllm"], "has no vLLM; `make setup-vllm`"),
    ],
)
def test_bad_input_is_one_line(tiny_model, tiny_adapter, tmp_path, capsys, rows, flags, message):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(rows)
    assert offline(tiny_model, tiny_adapter, prompts, tmp_path / "out", *flags) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_a_row_without_a_template_is_named(tiny_model, tmp_path, capsys):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "a"}\n{"question": "b"}\n')
    argv = ["--model", str(tiny_model), "--engine", "embedded", "--prompts", str(prompts)]
    argv += ["--output", str(tmp_path / "out")]
    assert program.main(generate.run, generate.flags(), argv) == 2
    assert "prompts.jsonl:2: no prompt; give rows with a prompt, or a --template" in capsys.readouterr().err
