"""What is rendered for each generation: known to its sources, and complete."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import util
from pathlib import Path

import pytest

from common.serving import vllm_options
from common.serving.vllm_options import GENERATIONS, Container, Settings

DATA = Path(__file__).parents[3] / "data" / "vllm_options"
_spec = util.spec_from_file_location("make_vllm_options", DATA / "make.py")
assert _spec and _spec.loader
make = util.module_from_spec(_spec)
_spec.loader.exec_module(make)

KNOWN = json.loads((DATA / "options.json").read_text())
LORA = Settings(Path("/m"), {"sql": Path("/a/sql")}, Path("/out/adapters.json"), 16, tp_size=32, max_num_seqs=2)


def value_of(words: list[str], flag: str) -> str:
    return words[words.index(flag) + 1]


@pytest.mark.parametrize("generation", GENERATIONS)
def test_the_sources_know_everything_that_is_rendered(generation: str) -> None:
    assert set(KNOWN[generation]) == make.terms(generation)
    versions = {label for places in KNOWN[generation].values() for label in places if label.startswith("vllm ")}
    for term, places in KNOWN[generation].items():
        assert places, f"{term} was found in no source"
        assert not term.startswith("--") or versions <= set(places), f"{term} is not known to every version"


def test_a_cpu_has_its_adapters_by_name() -> None:
    words = vllm_options.command("cpu", LORA, "base", "127.0.0.1", 8000)
    assert words[:2] == ["-m", "vllm.entrypoints.openai.api_server"]
    assert value_of(words, "--lora-modules") == "sql=/a/sql"
    assert value_of(words, "--max-lora-rank") == "16"
    assert value_of(words, "--max-loras") == "2", "the last place stays empty, for the base model"
    assert "--enforce-eager" in words and "--tensor-parallel-size" not in words


def test_the_fork_takes_its_adapters_in_the_neuron_config() -> None:
    words = vllm_options.command("fork", replace(LORA, neuron_config={"skip_warmup": True}), "base", "h", 1)
    assert json.loads(value_of(words, "--override-neuron-config")) == {
        "sequence_parallel_enabled": False,
        "skip_warmup": True,
        "lora_modules": [{"name": "sql", "path": "/a/sql"}],
    }
    assert value_of(words, "--device") == "neuron"


def test_nxd_inference_reads_its_adapters_from_a_file() -> None:
    words = vllm_options.command("nxdi", LORA, "base", "h", 1)
    assert json.loads(value_of(words, "--additional-config")) == {
        "override_neuron_config": {"lora_ckpt_json": "/out/adapters.json"}
    }
    assert "--no-enable-prefix-caching" in words
    assert value_of(words, "--num-gpu-blocks-override") == value_of(words, "--max-num-seqs") == "2"
    listed = vllm_options.adapters_json(LORA.adapters)
    assert listed["lora-ckpt-paths"] == listed["lora-ckpt-paths-cpu"] == {"sql": "/a/sql"}


def test_nxd_inference_always_gets_its_config() -> None:
    """The plugin takes lora_ckpt_json out of override_neuron_config without asking whether it is there."""
    merged = Settings(Path("/m"), tp_size=2)
    assert vllm_options.engine_arguments("nxdi", merged)["additional_config"] == {"override_neuron_config": {}}
    assert "enable_lora" not in vllm_options.engine_arguments("nxdi", merged)


def test_spare_adapters_are_kept_in_host_memory_and_may_be_loaded() -> None:
    spare = replace(LORA, spare_adapters=3)
    arguments = vllm_options.engine_arguments("nxdi", spare)
    assert (arguments["max_loras"], arguments["max_cpu_loras"]) == (1, 4)
    assert vllm_options.environment("nxdi", spare)["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "1"
    assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING" not in vllm_options.environment("nxdi", LORA)


@pytest.mark.parametrize(
    ("generation", "variable"),
    [("fork", "NEURON_COMPILE_CACHE_URL"), ("nxdi", "NEURON_COMPILE_CACHE_URL"), ("native", "VLLM_CACHE_ROOT")],
)
def test_compiled_programs_are_kept_where_the_generation_looks(generation: str, variable: str) -> None:
    found = vllm_options.environment(generation, Settings(Path("/m"), compile_cache="/cache"))
    assert found[variable] == "/cache"
    assert "NEURON_COMPILED_ARTIFACTS" not in found


@pytest.mark.parametrize(("ranks", "limit"), [([], 8), ([4], 8), ([16, 12], 16), ([65], 128), ([500], 512)])
def test_max_lora_rank_is_one_that_vllm_takes(ranks: list[int], limit: int) -> None:
    assert vllm_options.max_lora_rank(ranks) == limit


def test_a_compiled_model_is_named_by_all_that_is_in_it(tmp_path: Path) -> None:
    model, adapter = tmp_path / "model", tmp_path / "adapter"
    for folder in (model, adapter):
        folder.mkdir()
        (folder / "weights").write_text("1")
    settings = replace(LORA, model=model, adapters={"sql": adapter})

    def name(generation: str = "nxdi", version: str = "1", **changes) -> str:
        return vllm_options.artifacts_key(generation, replace(settings, **changes), {"vllm": version})

    first = name()
    others = [
        name("fork"), name(version="2"), name(tp_size=16), name(max_num_seqs=4), name(dtype="bf16"), name(adapters={}),
        name(neuron_config={"a": 1}), name(max_lora_rank=32), name(adapters={"other": adapter}),
    ]  # fmt: skip
    assert len({first, *others}) == 10
    assert name(adapters_file=Path("/elsewhere")) == name(cores="32-63") == first
    (adapter / "weights").write_text("2")
    assert name() != first, "NxD Inference keeps the adapters' weights beside the program"


def test_a_container_gets_devices_by_name() -> None:
    container = Container("image:1", "vllm-8000", "/out", [0, 1], "32g", [Path("/m")], [Path("/c")])
    words = vllm_options.container_command(container, {"A": "b"}, "127.0.0.1:8000")
    assert "--privileged" not in words and "/dev:/dev" not in words
    assert [word for word in words if word.startswith("--device")] == ["--device=/dev/neuron0", "--device=/dev/neuron1"]
    assert [value_of(words, flag) for flag in ("--publish", "--shm-size", "--env", "--volume")] == [
        "127.0.0.1:8000:8000", "32g", "A=b", "/m:/m:ro"
    ]  # fmt: skip
    assert "/c:/c" in words
    assert words[-3:] == ["--entrypoint", "python3", "image:1"]
