"""The flags for vLLM become settings that fit the files, or one line. Real servers are in test_serve_vllm.py."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

import pytest

from common.program import BadInput
from common.serving import vllm_flags
from common.serving.vllm_options import Settings


def parse(*args: object) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    vllm_flags.add(parser)
    vllm_flags.add_container(parser)
    return parser.parse_args(list(map(str, args)))


@pytest.fixture
def settings(tiny_model: Path, tiny_adapter: Path, tmp_path: Path):
    """Settings of the tiny model and its adapter, of rank 4."""

    def settings(*args: object) -> Settings:
        files = ("--model", tiny_model, "--adapter", f"sql={tiny_adapter}", "--output", tmp_path / "out")
        return vllm_flags.settings(parse(*files, *args))

    return settings


def test_a_cpu_has_no_cores_and_no_cache(settings) -> None:
    found = settings("--compile-cache", "s3://bucket/cache", "--cores", "0-3")
    assert (found.cores, found.compile_cache, found.max_num_seqs, found.adapters_file) == (None, None, None, None)
    assert list(found.adapters) == ["sql"]


def test_neuroncores_are_the_first_ones_unless_they_are_named(settings, tmp_path: Path) -> None:
    nxdi = ("--generation", "nxdi", "--tp-size", "4", "--compile-cache", "s3://bucket/cache")
    found = settings(*nxdi)
    assert (found.cores, found.max_num_seqs, found.compile_cache) == ("0-3", 4, "s3://bucket/cache")
    assert found.adapters_file == tmp_path / "out" / "adapters.json"
    assert settings(*nxdi, "--cores", "8-11").cores == "8-11"


def test_the_largest_rank_is_one_that_vllm_accepts_and_no_adapter_is_above_it(settings, tiny_adapter, tmp_path) -> None:
    assert settings().max_lora_rank == 8
    large = shutil.copytree(tiny_adapter, tmp_path / "large")
    content = json.loads((large / "adapter_config.json").read_text())
    (large / "adapter_config.json").write_text(json.dumps(content | {"r": 999}))
    with pytest.raises(BadInput):
        settings("--adapter", f"large={large}")


def test_a_generation_without_lora_refuses_adapters(settings) -> None:
    with pytest.raises(BadInput, match="--adapter: this generation of vLLM has no LoRA; serve a merged model"):
        settings("--generation", "native")


def test_two_models_of_one_name_are_refused(settings) -> None:
    with pytest.raises(BadInput, match="same name"):
        settings("--served-model-name", "sql")


def test_options_of_neuron_are_a_json_object(settings, capsys: pytest.CaptureFixture[str]) -> None:
    assert settings("--neuron-config", '{"a": [1]}').neuron_config == {"a": [1]}
    with pytest.raises(SystemExit, match="2"):
        settings("--neuron-config", "[1")
    assert "--neuron-config: [1: not a JSON object" in capsys.readouterr().err


def test_a_compiled_model_has_a_folder_of_its_own(settings, tmp_path: Path, tiny_model: Path) -> None:
    config = settings("--generation", "nxdi")
    args = parse("--model", tiny_model, "--output", tmp_path / "out", "--generation", "nxdi", "--artifacts", tmp_path)
    one, two = (vllm_flags.with_artifacts(args, config, {"vllm": version}) for version in ("0.16", "0.17"))
    assert one.artifacts and two.artifacts and one.artifacts != two.artifacts
    assert one.artifacts.parent == tmp_path
    vllm_flags.write_files(one)
    assert one.artifacts.is_dir() and config.adapters_file and "sql" in config.adapters_file.read_text()


def test_an_environment_without_vllm_is_refused_with_how_to_make_one() -> None:
    with pytest.raises(BadInput, match="no-such-python: no such command; `make setup-vllm`"):
        vllm_flags.installed("no-such-python")
    with pytest.raises(BadInput, match="has no vLLM; `make setup-vllm`"):
        vllm_flags.installed(sys.executable)
