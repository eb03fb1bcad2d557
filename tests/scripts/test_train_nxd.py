"""What train_nxd.py, compile_nxd.py and fetch_nxd_model.py refuse and do without neuronx_distributed.

That it trains is proven with the real package: `make test-nxd`, and test_nxd_reference.py for its figures.
"""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

import compile_nxd
import fetch_nxd_model
import train_nxd
from common import program
from common.data import padded_batch
from common.data.token_dataset import TokenSet
from common.formats.peft_folder import LoraConfig
from common.shards.layout import read_layout, read_shape
from common.training.lora import Adapter
from common.training.optimizer import Plan, Schedule
from tests.scripts.training_files import make_model, make_shards, make_tokens, train_command

SECRET = "hf_thisisasecret"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nxd")
    make_model(folder / "model", head_dim=8)
    make_shards(folder / "model", folder / "tp1")
    make_shards(folder / "model", folder / "tp4", 4, 2)
    make_tokens(folder / "tokens")
    (folder / "code").mkdir()
    (folder / "code" / "modeling_llama_nxd.py").write_text("")
    return folder


def refused(capsys, files: Path, *flags: object, shards: str = "tp1") -> str:
    """The one line that train_nxd.py says, having written nothing."""
    output = files / "never"
    arguments = train_command(files / shards, files / "tokens", output, "--model-code", files / "code", *flags)
    assert program.main(train_nxd.run, train_nxd.flags(), arguments) == 2
    assert not output.exists()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


def test_without_nxd_the_right_python_is_named(files, capsys):
    assert "opt/aws_neuronx_venv_pytorch_2_8_nxd_training/bin/python" in refused(capsys, files)


def test_processes_must_be_copies_of_the_model(files, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "6")
    assert "--nproc-per-node 4 or a multiple" in refused(capsys, files, shards="tp4")


def test_two_kinds_of_recomputation_are_refused(files, capsys):
    flags = ("--gradient-checkpointing", "--selective-checkpointing")
    assert "omit --selective-checkpointing" in refused(capsys, files, *flags)


def test_sequence_parallelism_needs_a_sequence_that_can_be_cut(files, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    data = make_tokens(tmp_path / "tokens", seq_len=90)
    line = refused(capsys, files, "--sequence-parallel", "--data", data, shards="tp4")
    assert "the 4 ranks do not divide the sequence length 90" in line


def test_modelling_code_must_be_there(files, tmp_path, capsys):
    assert "run fetch_nxd_model.py first" in refused(capsys, files, "--model-code", tmp_path)


def test_heads_of_another_width_are_refused(files, tmp_path, capsys):
    make_shards(make_model(tmp_path / "model", head_dim=16), tmp_path / "shards")
    capsys.readouterr()
    assert "train it with train_torch.py" in refused(capsys, files, "--shards", tmp_path / "shards")


@pytest.mark.parametrize("word", ["--hf-token", "--token"])
def test_there_is_no_flag_for_a_token(word):
    with pytest.raises(SystemExit):
        train_nxd.flags().parse_args([word, SECRET])
    assert "token=" not in train_nxd.flags().format_help().lower()


@pytest.mark.parametrize("kind", ["linear", "cosine", "constant"])
def test_the_learning_rate_is_above_zero_after_warm_up(kind):
    plan = Plan(sequences=10, batch_size=1, accumulate=4, epochs=3, max_steps=0, seed=0)
    schedule = Schedule(kind, 1e-3, 0.2, plan.steps)
    assert plan.steps == 9
    assert all(schedule.learning_rate(step) > 0 for step in range(1, plan.steps))


def test_micro_batches_keep_their_shape_and_tell_examples_apart(files):
    tokens = TokenSet(files / "tokens", "train")
    one = padded_batch.batch(tokens, np.array([3]), rows=2)
    assert {array.shape for array in one.tensors} == {(2, 96)}
    segments, positions, weights = one.tensors.segments, one.tensors.positions, one.tensors.weights
    begins = np.flatnonzero(np.diff(segments[0])) + 1
    assert len(begins) and not positions[0, begins].any()
    assert not weights[0, begins - 1].any(), "the first token of an example is predicted by nothing"
    assert not weights[1].any() and not one.tensors.targets[1].any()
    labelled = np.flatnonzero(weights[0])
    assert np.array_equal(one.tensors.targets[0, labelled], tokens.labels[3, labelled + 1])
    assert (one.tokens, one.labelled) == (int((tokens.segment_ids[3] > 0).sum()), len(labelled))


@pytest.mark.parametrize("targets", [("self_attn.q_proj", "self_attn.v_proj"), ("mlp.up_proj", "self_attn.k_proj")])
def test_an_adapter_comes_back_from_nxds_tensors(files, targets):
    shape, layout = read_shape(files / "tp4"), read_layout(files / "tp4")
    lora = LoraConfig(4, 8, 0.0, False, tuple(target.partition(".")[2] for target in targets))
    drawn, empty = (Adapter(shape, layout, 3, lora, seed) for seed in (1, 2))
    drawn.weights.normal_()
    empty.load(drawn.tensors())
    found, expected = empty.tensors(), drawn.tensors()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def fetch(*words: object) -> int:
    return program.main(fetch_nxd_model.run, fetch_nxd_model.flags(), [str(word) for word in words])


@pytest.fixture
def release(monkeypatch) -> bytes:
    """Content that release 2.29 is said to have."""
    content = b"class LlamaForCausalLM: ...\n"
    known = fetch_nxd_model.Release("0" * 40, hashlib.sha256(content).hexdigest())
    monkeypatch.setitem(fetch_nxd_model.RELEASES, "2.29", known)
    return content


def test_modelling_code_is_downloaded_at_the_commit(release, tmp_path, monkeypatch):
    place = tmp_path / "site" / ("0" * 40) / fetch_nxd_model.INSIDE
    place.parent.mkdir(parents=True)
    place.write_bytes(release)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "site"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(fetch_nxd_model, "SITE", f"http://127.0.0.1:{server.server_port}")
        assert fetch("--release", "2.29", "--output", tmp_path / "out") == 0
        server.shutdown()
    assert (tmp_path / "out" / fetch_nxd_model.NAME).read_bytes() == release
    assert json.loads((tmp_path / "out" / "source.json").read_text())["commit"] == "0" * 40


def test_without_network_a_checkout_is_asked_for(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fetch_nxd_model, "SITE", "http://127.0.0.1:9")
    assert fetch("--release", "2.29", "--output", tmp_path / "out") == 2
    assert "name a checkout with --folder" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_changed_modelling_code_is_refused(release, tmp_path, capsys):
    (tmp_path / fetch_nxd_model.NAME).write_bytes(release + b"import os\n")
    assert fetch("--release", "2.29", "--folder", tmp_path, "--output", tmp_path / "out") == 2
    assert "SHA-256" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


COMPILER = """#!{python}
import os, subprocess, sys
print("cache", os.environ["NEURON_COMPILE_CACHE_URL"])
status = subprocess.run(sys.argv[1:], env={{**os.environ, "NEURON_EXTRACT_GRAPHS_ONLY": "1"}}).returncode
print("Total failed compilations: {failed}")
sys.exit(status)
"""


def compiled(tmp_path: Path, monkeypatch, failed: int, command: str) -> int:
    """Run compile_nxd.py with a stand-in for the SDK's neuron_parallel_compile."""
    compiler = tmp_path / "bin" / compile_nxd.COMPILER
    compiler.parent.mkdir()
    compiler.write_text(COMPILER.format(python=sys.executable, failed=failed))
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", str(compiler.parent), prepend=":")
    words = ["--cache", "s3://bucket/cache", "--output", str(tmp_path / "out"), "--", sys.executable, "-c", command]
    return program.main(compile_nxd.run, compile_nxd.flags(), words)


def test_compilation_runs_the_command_and_names_its_cache(tmp_path, monkeypatch):
    command = "import os; assert os.environ['NEURON_EXTRACT_GRAPHS_ONLY'] == '1'; print('traced')"
    assert compiled(tmp_path, monkeypatch, 0, command) == 0
    assert json.loads((tmp_path / "out" / "compile.json").read_text())["cache"] == "s3://bucket/cache"
    assert "traced" in (tmp_path / "out" / "compile.log").read_text()


@pytest.mark.parametrize(("failed", "command"), [(2, "pass"), (0, "raise SystemExit(3)")])
def test_a_failed_compilation_or_command_fails(tmp_path, monkeypatch, capsys, failed, command):
    assert compiled(tmp_path, monkeypatch, failed, command) == 1
    assert "compile.log" in capsys.readouterr().err
    assert not (tmp_path / "out" / "compile.json").exists()


def test_without_the_compiler_the_right_python_is_asked_for(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    words = ["--cache", "cache", "--output", str(tmp_path / "out"), "--", "true"]
    assert program.main(compile_nxd.run, compile_nxd.flags(), words) == 2
    assert "training environment" in capsys.readouterr().err
