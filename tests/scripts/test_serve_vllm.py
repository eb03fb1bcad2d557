"""The launcher around a stand-in for vLLM: real processes that write, listen and die as vLLM's do."""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "scripts" / "serve_vllm.py"

# Says what vLLM says, starts an engine that ignores SIGTERM and holds a named pipe open, and answers for its models.
API_SERVER = """
import json, os, subprocess, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

words, options = sys.argv, json.loads(os.environ["STAND_IN"])
open(os.environ["SEARCHED"], "w").write(os.environ["PATH"])
print("INFO [model.py:1] Starting to load model m...", flush=True)
print("Loading safetensors checkpoint shards: 100% Completed | 1/1 [00:00<00:00, 75.59it/s]", flush=True)
if options.get("fails"):
    print("ERROR [core.py:1] ValueError: no space for the cache", flush=True)
    print("RuntimeError: Engine core failed. See root cause above.", flush=True)
    sys.exit(1)
pipe = os.environ["ALIVE"]
code = f"import signal, time; signal.signal(15, signal.SIG_IGN); pipe = open({pipe!r}, 'w'); time.sleep(600)"
engine = subprocess.Popen([sys.executable, "-c", code])
open(os.environ["PIDS"], "w").write(f"{os.getpid()} {engine.pid}")
names = [words[words.index("--served-model-name") + 1]]
if "--lora-modules" in words:
    names += [word.split("=")[0] for word in words[words.index("--lora-modules") + 1:]]

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.reply(200, {"env": os.environ.get("NEURON_RT_VISIBLE_CORES")})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.reply(200 if body["model"] in names else 404, {"choices": [{"text": "a"}]})

    def reply(self, status, content):
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())

    def log_message(self, *_):
        pass

print("INFO:     Application startup complete.", flush=True)
ThreadingHTTPServer(("127.0.0.1", int(words[words.index("--port") + 1])), Handler).serve_forever()
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def stand_in(tmp_path: Path) -> dict[str, str]:
    """The environment in which `python -m vllm...` is the stand-in; its engine holds the pipe `alive` open."""
    package = tmp_path / "packages" / "vllm" / "entrypoints" / "openai"
    package.mkdir(parents=True)
    (package / "api_server.py").write_text(API_SERVER)
    os.mkfifo(tmp_path / "alive")
    told = {"ALIVE": str(tmp_path / "alive"), "PIDS": str(tmp_path / "pids"), "STAND_IN": "{}"}
    told["SEARCHED"] = str(tmp_path / "path")
    return {**os.environ, "PYTHONPATH": str(tmp_path / "packages"), **told}


def start(model: Path, output: Path, *words: object, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    command = [sys.executable, PROGRAM, "--model", model, "--output", output, *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(list(map(str, command)), text=True, env=env, **pipes)


def finished(*args, **kwargs) -> tuple[int, str, str]:
    process = start(*args, **kwargs)
    output, errors = process.communicate(timeout=60)
    return process.returncode, output, errors


def wait_for(process: subprocess.Popen[str], text: str) -> list[str]:
    lines: list[str] = []
    assert process.stderr
    for line in process.stderr:
        lines.append(line.strip())
        if text in line:
            return lines
    raise AssertionError(f"ended without {text!r}: {lines}")


def test_the_start_is_told_and_sigterm_ends_all(tiny_model, tiny_adapter, tmp_path, stand_in):
    words = ["--adapter", f"sql={tiny_adapter}", "--port", free_port()]
    process = start(tiny_model, tmp_path / "out", *words, env=stand_in)
    with Path(stand_in["ALIVE"]).open() as alive:
        lines = wait_for(process, "serving at")
        assert lines[:3] == ["info: loading the weights", "1/1 weight file", "info: the server is listening"]
        assert re.fullmatch(r"serving at http://127.0.0.1:\d+, models: base, sql", lines[-1])
        api, _ = map(int, Path(stand_in["PIDS"]).read_text().split())
        process.terminate()
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        assert alive.read() == "", "the engine is gone"
    assert "Starting to load model" in output, "what vLLM writes is passed on"
    with pytest.raises(ProcessLookupError):
        os.kill(api, 0)


def test_vllm_finds_the_tools_of_its_own_environment(tiny_model, tmp_path, stand_in):
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "venv" / "bin" / "python").symlink_to(sys.executable)
    python = tmp_path / "venv" / "bin" / "python"
    stand_in["STAND_IN"] = json.dumps({"fails": True})  # it has written its PATH by then
    finished(tiny_model, tmp_path / "out", "--python", python, "--port", free_port(), env=stand_in)
    assert (tmp_path / "path").read_text() == f"{python.parent}:{os.environ['PATH']}"


@pytest.mark.parametrize("victim", ["api", "launcher"])
def test_nothing_outlives_a_kill(tiny_model, tmp_path, stand_in, victim):
    process = start(tiny_model, tmp_path / "out", "--port", free_port(), env=stand_in)
    with Path(stand_in["ALIVE"]).open() as alive:
        wait_for(process, "serving at")
        api, engine = map(int, Path(stand_in["PIDS"]).read_text().split())
        if victim == "api":
            os.kill(api, signal.SIGKILL)
            assert "vLLM exited unexpectedly with status -9" in process.communicate(timeout=60)[1]
            assert process.returncode == 1
            assert alive.read() == ""
        else:  # vLLM's own process is told by the kernel; a real one takes its engine along
            end = os.pidfd_open(api)
            process.kill()
            process.communicate()
            assert select.select([end], [], [], 30)[0]
            os.kill(engine, signal.SIGKILL)


def test_a_failed_start_is_told_with_its_cause(tiny_model, tmp_path, stand_in):
    environment = {**stand_in, "STAND_IN": json.dumps({"fails": True})}
    status, _, errors = finished(tiny_model, tmp_path / "out", "--port", free_port(), env=environment)
    assert status == 1
    assert errors.splitlines()[-1] == (
        "serve_vllm.py: vLLM exited before it was ready, status 1; ValueError: no space for the cache"
    )


def test_a_server_that_is_never_ready_runs_out_of_time(tiny_model, tmp_path, stand_in):
    module = Path(stand_in["PYTHONPATH"]) / "vllm" / "entrypoints" / "openai" / "api_server.py"
    module.write_text("import time; print('compiling', flush=True); time.sleep(600)")
    status, _, errors = finished(tiny_model, tmp_path / "out", "--port", free_port(), "--timeout", "1", env=stand_in)
    assert status == 1
    assert "vLLM is not ready after 1 s (--timeout); compiling" in errors


def test_nxd_inference_finds_its_files(tiny_model, tiny_adapter, tmp_path, stand_in):
    words = ["--generation", "nxdi", "--adapter", f"sql={tiny_adapter}", "--tp-size", 2, "--port", free_port()]
    words += ["--no-base", "--compile-cache", tmp_path / "cache"]
    process = start(tiny_model, tmp_path / "out", *words, env=stand_in)
    with Path(stand_in["ALIVE"]).open():
        assert (tmp_path / "cache").is_dir()
        assert "models: sql" in wait_for(process, "serving at")[-1], "the base is not asked"
        listed = json.loads((tmp_path / "out" / "adapters.json").read_text())
        assert listed["lora-ckpt-paths"] == {"sql": str(tiny_adapter)}
        assert len(list((tmp_path / "out" / "artifacts").iterdir())) == 1
        process.terminate()
        process.communicate(timeout=60)


def test_the_native_plugin_keeps_programs_and_no_model(tiny_model, tmp_path):
    words = ["--generation", "native", "--artifacts", tmp_path / "compiled", "--compile-cache", tmp_path / "cache"]
    words += ["--port", 8000, "--dry-run"]
    _, output, _ = finished(tiny_model, tmp_path / "out", *words)
    assert f"VLLM_CACHE_ROOT={tmp_path}/cache " in output
    assert "NEURON_COMPILED_ARTIFACTS" not in output


def test_docker_is_asked_to_run_the_image(tiny_model, tmp_path, stand_in):
    """`docker` here writes its words down: what a machine without Docker can show."""
    (tmp_path / "bin").mkdir()
    docker = tmp_path / "bin" / "docker"
    docker.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    docker.chmod(0o755)
    environment = {**stand_in, "PATH": f"{docker.parent}:{os.environ['PATH']}"}
    words = ["--generation", "nxdi", "--image", "vllm:1", "--devices", "0,1", "--tp-size", 8, "--port", free_port()]
    assert finished(tiny_model, tmp_path / "out", *words, env=environment)[0] == 1  # it ends at once
    removed, ran = (tmp_path / "asked").read_text().splitlines()
    assert removed == f"rm --force vllm-{words[-1]}"
    assert ran.startswith("run --rm") and "--device=/dev/neuron1" in ran
    assert f"--label trainium-recipes.output={tmp_path / 'out'} " in ran, "by which what a killed client left is found"
    assert f"--volume {tiny_model}:{tiny_model}:ro" in ran
    assert "vllm:1 -m vllm.entrypoints.openai.api_server" in ran and "--host 0.0.0.0" in ran
    words[words.index("0,1")] = "x"
    assert "--devices x: no Neuron device" in finished(tiny_model, tmp_path / "out", *words, env=environment)[2]
    environment["PATH"] = "/nowhere"
    assert (
        "docker is not installed on this machine" in finished(tiny_model, tmp_path / "out", *words, env=environment)[2]
    )


def test_a_dry_run_prints_a_command_and_writes_nothing(tiny_model, tiny_adapter, tmp_path):
    words = ["--generation", "fork", "--adapter", f"sql={tiny_adapter}", "--tp-size", 32, "--port", 8000, "--dry-run"]
    status, output, _ = finished(tiny_model, tmp_path / "out", *words, "--python", "/opt/venv/bin/python")
    assert status == 0
    assert "NEURON_RT_VISIBLE_CORES=0-31" in output and "/opt/venv/bin/python -m vllm" in output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--max-lora-rank", "8", "--adapter", "big={big}"], "--adapter big: its rank 9 is above the 8 that"),
        (["--adapter", "a={adapter}", "--adapter", "a={adapter}"], "two models have the same name"),
        (["--generation", "native", "--adapter", "a={adapter}"], "has no LoRA; serve a merged model"),
        (["--no-base"], "--no-base: needs an --adapter to serve"),
        (["--spare-adapters", "2"], "--spare-adapters: needs at least one --adapter"),
        (["--adapter", "a={model}"], "adapter_config.json: no such file"),
        (["--adapter", "a={shards}"], "a sharded adapter of NxD; export_adapter.py gathers it"),
        (["--adapter", "a={wrong}"], "fits no target module of the base model"),
        (["--python", "/nowhere/python"], "/nowhere/python: no such command; `make setup-vllm`"),
        (["--neuron-config", "[1]"], "[1]: not a JSON object"),
    ],
)
def test_bad_input_is_one_line_before_anything_starts(tiny_model, tiny_adapter, tmp_path, words, message):
    folders = {"model": tiny_model, "adapter": tiny_adapter}
    for name, change in (("big", _rank_9), ("wrong", _renamed), ("shards", _sharded)):
        folders[name] = shutil.copytree(tiny_adapter, tmp_path / name)
        change(folders[name])
    words = [word.format(**folders) for word in words]
    status, output, errors = finished(tiny_model, tmp_path / "out", "--port", free_port(), *words)
    assert status == 2
    assert message in errors.splitlines()[-1]
    assert output == "" and not (tmp_path / "out").exists()


def _rank_9(folder: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"r": 9}))
    tensors = load_file(folder / "adapter_model.safetensors")
    grown = {
        name: torch.ones(9, tensor.shape[1]) if "lora_A" in name else torch.ones(tensor.shape[0], 9)
        for name, tensor in tensors.items()
    }
    save_file(grown, folder / "adapter_model.safetensors")


def _renamed(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = folder / "adapter_model.safetensors"
    save_file({name.replace("layers.0", "layers.7"): tensor for name, tensor in load_file(path).items()}, path)


def _sharded(folder: Path) -> None:
    (folder / "adapter_config.json").write_text(json.dumps({"lora_rank": 4, "target_modules": ["qkv_proj"]}))


def test_a_port_in_use_is_bad_input(tiny_model, tmp_path, stand_in):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        status, _, errors = finished(tiny_model, tmp_path / "out", "--port", port, env=stand_in)
    assert status == 2
    assert f"--port {port}: cannot listen on 127.0.0.1" in errors
