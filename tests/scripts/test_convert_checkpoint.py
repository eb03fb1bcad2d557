from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch.nn import functional

import convert_checkpoint
from common import program
from common.formats import streaming
from common.shards import layout
from common.shards.layout import EMBEDDING, LM_HEAD, ModelShape, ShardLayout
from tests.data.nxd_trn1 import make as nxd_trn1
from tests.scripts.common.shards.test_layout import cuts
from tests.scripts.llama_files import TINY, random_state, read_model, same_bits, write_model

PROGRAM = Path(convert_checkpoint.__file__)
DTYPES = st.sampled_from([torch.float32, torch.float16, torch.bfloat16])


@pytest.fixture(autouse=True, scope="module")
def small_tiles() -> Iterator[None]:
    """So that the tensors of tiny models are copied in several tiles, as large ones are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streaming, "TILE_BYTES", 50)
        yield


def convert(source: Path, output: Path, shards: ShardLayout, *more: str) -> int:
    """Run the program's main in this process."""
    argv = ["--input", str(source), "--output", str(output), "--tp-size", str(shards.tp_size)]
    argv += ["--kv-size-multiplier", str(shards.kv_size_multiplier), "--layout", shards.layout, *more]
    return program.main(convert_checkpoint.run, convert_checkpoint.flags(), argv)


def read_shards(folder: Path, tp_size: int) -> list[dict[str, torch.Tensor]]:
    return [torch.load(folder / "model" / layout.shard_name(rank), weights_only=True) for rank in range(tp_size)]


def tensor_parallel_logits(
    shape: ModelShape, ranks: list[dict[str, torch.Tensor]], ids: torch.Tensor, rotary: tuple[torch.Tensor, ...]
) -> torch.Tensor:
    """A Llama's forward pass, each rank with its own tensors, sums and concatenations where NxD communicates."""
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    def norm(name: str, hidden: torch.Tensor) -> torch.Tensor:
        return functional.rms_norm(hidden, (shape.hidden_size,), ranks[0][name], 1e-6)

    def attention(rank: dict[str, torch.Tensor], prefix: str, hidden: torch.Tensor) -> torch.Tensor:
        query, key, value = (
            (hidden @ rank[f"{prefix}qkv_proj.weight_{part}"].T).unflatten(-1, (-1, shape.head_dim)).transpose(1, 2)
            for part in "qkv"
        )
        query, key = apply_rotary_pos_emb(query, key, *rotary)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
        return mixed.transpose(1, 2).flatten(2) @ rank[f"{prefix}o_proj.weight"].T

    def mlp(rank: dict[str, torch.Tensor], prefix: str, hidden: torch.Tensor) -> torch.Tensor:
        gate, up = (hidden @ rank[f"{prefix}gate_up_proj.weight"].T).chunk(2, dim=-1)
        return (functional.silu(gate) * up) @ rank[f"{prefix}down_proj.weight"].T

    hidden = torch.cat([rank[EMBEDDING] for rank in ranks])[ids]
    for layer in range(shape.num_hidden_layers):
        prefix = f"model.layers.{layer}."
        normed = norm(f"{prefix}input_layernorm.weight", hidden)
        hidden = hidden + sum(attention(rank, f"{prefix}self_attn.", normed) for rank in ranks)
        normed = norm(f"{prefix}post_attention_layernorm.weight", hidden)
        hidden = hidden + sum(mlp(rank, f"{prefix}mlp.", normed) for rank in ranks)
    hidden = norm("model.norm.weight", hidden)
    return torch.cat([hidden @ rank[LM_HEAD].T for rank in ranks], dim=-1)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(cuts(), st.integers(1, 3))
def test_shards_compute_what_hugging_face_computes(cut: tuple[ModelShape, ShardLayout], files: int) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    shape, shards = cut
    ids = torch.arange(7).reshape(1, -1) % shape.vocab_size
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        source = write_model(Path(folder) / "hf", shape, random_state(shape), files)
        assert convert(source, Path(folder) / "shards", shards) == 0
        model = LlamaForCausalLM(LlamaConfig.from_pretrained(source)).eval()
        model.load_state_dict(random_state(shape), strict=not shape.tie_word_embeddings)
        rotary = model.model.rotary_emb(torch.zeros(1), torch.arange(7)[None])
        ranks = read_shards(Path(folder) / "shards", shards.tp_size)
        logits = tensor_parallel_logits(shape, ranks, ids, rotary)
        of_tokens, of_padding = logits.tensor_split([shape.vocab_size], dim=-1)
        torch.testing.assert_close(of_tokens, model(ids).logits, rtol=1e-3, atol=1e-3)  # a wrong head is off by more
        assert not of_padding.any()


@settings(max_examples=40, deadline=None)
@given(cuts(), DTYPES, st.integers(1, 3))
def test_there_and_back_changes_no_bit(cut: tuple[ModelShape, ShardLayout], dtype: torch.dtype, files: int) -> None:
    shape, shards = cut
    with tempfile.TemporaryDirectory() as folder:
        state = random_state(shape, dtype)
        source = write_model(Path(folder) / "hf", shape, state, files)
        assert convert(source, Path(folder) / "shards", shards) == 0
        assert convert(Path(folder) / "shards", Path(folder) / "back", shards, "--to-hf") == 0
        back = read_model(Path(folder) / "back")
        assert back.keys() == state.keys()
        assert all(same_bits(back[name], state[name]) for name in state)
        assert (Path(folder) / "back" / "config.json").read_bytes() == (source / "config.json").read_bytes()


@pytest.mark.parametrize("case", nxd_trn1.CASES)
def test_trn1_shards_equal_those_of_neuronx_distributed(tmp_path: Path, case: str) -> None:
    """reference.json was made by the real converter: see tests/data/nxd_trn1/make.py."""
    reference = json.loads((Path(nxd_trn1.__file__).parent / "reference.json").read_text())[case]
    heads, key_value_heads, copies = nxd_trn1.CASES[case]
    shape = nxd_trn1.case_shape(heads, key_value_heads, copies)
    source = write_model(tmp_path / "hf", shape, random_state(shape, torch.bfloat16))
    assert convert(source, tmp_path / "shards", ShardLayout(key_value_heads * copies, copies, "trn1")) == 0
    assert nxd_trn1.checksums(tmp_path / "shards" / "model") == reference


def test_output_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNNER_EVENTS", str(tmp_path / "events.jsonl"))
    source = write_model(tmp_path / "hf", TINY, random_state(TINY))
    argv = ["--input", str(source), "--output", str(tmp_path / "new" / "shards"), "--tp-size", "4", "--layout", "trn2"]
    assert program.main(convert_checkpoint.run, convert_checkpoint.flags(), argv) == 0
    files = {str(path.relative_to(tmp_path / "new" / "shards")) for path in (tmp_path / "new").rglob("*.*")}
    assert files == {"config.json", "layout.json", *(f"model/{layout.shard_name(rank)}" for rank in range(4))}
    assert layout.read_layout(tmp_path / "new" / "shards") == ShardLayout(4, 2, "trn2")
    last = json.loads((tmp_path / "events.jsonl").read_text().splitlines()[-1])
    size = sum(tensor.nbytes for tensor in random_state(TINY).values())
    assert (last["event"], last["done"], last["total"], last["unit"]) == ("progress", size, size, "byte")


def peak_memory(*flags: str | Path | int) -> int:
    """Bytes that the program had resident at most, in a process where torch and its kin cannot be imported."""
    code = """if True:
        import runpy, sys
        sys.modules |= dict.fromkeys(["torch", "transformers", "safetensors", "peft"])
        del sys.argv[0]
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
        finally:
            print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
    """
    command = [sys.executable, "-c", code, str(PROGRAM), *map(str, flags)]
    environment = {**os.environ, "PYTHONPATH": str(PROGRAM.parent)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return int(done.stdout) * 1024


def test_without_torch_and_with_memory_that_does_not_grow(tmp_path: Path) -> None:
    shape = replace(TINY, vocab_size=1 << 15, hidden_size=1024, intermediate_size=1 << 13, num_hidden_layers=1)
    state = {name: torch.zeros(size, dtype=torch.bfloat16) for name, size in shape.tensors().items()}
    source = write_model(tmp_path / "hf", shape, state)
    assert (source / "model.safetensors").stat().st_size > 180e6
    cut = ["--tp-size", 2, "--layout", "trn2"]
    assert peak_memory("--input", source, "--output", tmp_path / "shards", *cut) < 100e6
    assert peak_memory("--input", tmp_path / "shards", "--output", tmp_path / "back", *cut, "--to-hf") < 100e6


def test_a_tied_output_layer_that_is_stored_all_the_same(tmp_path: Path) -> None:
    shape = replace(TINY, tie_word_embeddings=True)
    state = random_state(shape)
    state[LM_HEAD] = state[EMBEDDING].clone()
    source = write_model(tmp_path / "hf", shape, state)
    assert convert(source, tmp_path / "shards", ShardLayout(2, 1, "trn2")) == 0
    assert convert(tmp_path / "shards", tmp_path / "back", ShardLayout(2, 1, "trn2"), "--to-hf") == 0
    assert read_model(tmp_path / "back").keys() == state.keys() - {LM_HEAD}


def test_rotary_frequencies_of_old_files_are_left_out(tmp_path: Path) -> None:
    state = random_state(TINY)
    state["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(1)
    assert convert(write_model(tmp_path / "hf", TINY, state), tmp_path / "shards", ShardLayout(1, 1, "trn1")) == 0
    assert not [name for name in read_shards(tmp_path / "shards", 1)[0] if "rotary" in name]


def test_shards_saved_by_torch_with_transposed_storage_are_read(tmp_path: Path) -> None:
    """As upstream's converter saves o_proj."""
    source = write_model(tmp_path / "hf", TINY, random_state(TINY))
    assert convert(source, tmp_path / "shards", ShardLayout(4, 2, "trn1")) == 0
    for rank, state in enumerate(read_shards(tmp_path / "shards", 4)):
        saved = {name: tensor.T.contiguous().T if "o_proj" in name else tensor for name, tensor in state.items()}
        torch.save(saved, tmp_path / "shards" / "model" / layout.shard_name(rank))
    assert convert(tmp_path / "shards", tmp_path / "back", ShardLayout(4, 2, "trn1"), "--to-hf") == 0
    back = read_model(tmp_path / "back")
    assert all(same_bits(back[name], tensor) for name, tensor in random_state(TINY).items())


Q_PROJ = "model.layers.1.self_attn.q_proj.weight"


def drop(state: dict[str, torch.Tensor]) -> None:
    del state[Q_PROJ]


def add(state: dict[str, torch.Tensor]) -> None:
    state["model.layers.2.mlp.up_proj.weight"] = torch.zeros(1)


def reshape(state: dict[str, torch.Tensor]) -> None:
    state[Q_PROJ] = state[Q_PROJ][:4]


def integer(state: dict[str, torch.Tensor]) -> None:
    state[Q_PROJ] = state[Q_PROJ].to(torch.int8)


def mix(state: dict[str, torch.Tensor]) -> None:
    state["model.layers.1.mlp.up_proj.weight"] = state["model.layers.1.mlp.up_proj.weight"].half()


def drop_head(state: dict[str, torch.Tensor]) -> None:
    del state[LM_HEAD]


def refused(capsys: pytest.CaptureFixture[str], source: Path, output: Path, shards: ShardLayout, *more: str) -> str:
    """The one line that a refused conversion prints; nothing was written."""
    capsys.readouterr()
    assert convert(source, output, shards, *more) == 2
    assert not output.exists()
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    return message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop, f"hf: tensor {Q_PROJ} is missing"),
        (drop_head, f"hf: tensor {LM_HEAD} is missing"),
        (add, "hf: tensor model.layers.2.mlp.up_proj.weight is unexpected"),
        (reshape, f"hf: tensor {Q_PROJ} has shape [4, 8], expected [8, 8]"),
        (integer, f"hf/model.safetensors: tensor {Q_PROJ} has type I8"),
        (mix, "tensor model.layers.1.mlp.up_proj.weight is F16 but its gate_proj is F32"),
    ],
)
def test_weights_that_do_not_fit_the_config(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[dict[str, torch.Tensor]], None],
    message: str,
) -> None:
    state = random_state(TINY)
    change(state)
    source = write_model(tmp_path / "hf", TINY, state)
    assert message in refused(capsys, source, tmp_path / "out", ShardLayout(2, 1, "trn2"))


def test_a_tied_output_layer_that_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = random_state(TINY)
    source = write_model(tmp_path / "hf", replace(TINY, tie_word_embeddings=True), state)
    message = refused(capsys, source, tmp_path / "out", ShardLayout(2, 1, "trn2"))
    assert f"{LM_HEAD} differs from {EMBEDDING}" in message


def header(content: object) -> bytes:
    text = json.dumps(content).encode()
    return len(text).to_bytes(8, "little") + text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"garbage", "not a safetensors file, or cut off"),
        (b"\xff" * 40, "not a safetensors file, or cut off"),
        ((5).to_bytes(8, "little") + b"{{{{{", "its header is not JSON"),
        ((9000).to_bytes(8, "little") + b"[" * 9000, "its header is not JSON"),
        (header([]), "its header is not a JSON object"),
        (header({"x": 1}), "tensor x has no usable dtype"),
        (header({"x": {"dtype": [], "shape": [], "data_offsets": [0, 0]}}), "tensor x has no usable dtype"),
        (header({"x": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}), "tensor x has no usable dtype"),
        (header({"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}), "tensor x of 8 bytes has 4"),
        (header({"x": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}) + b"12345678", "expected 0"),
        (header({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}) + b"12345", "1 bytes after the last"),
    ],
)
def test_damaged_safetensors(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, message: str) -> None:
    source = write_model(tmp_path / "hf", TINY, random_state(TINY))
    (source / "model.safetensors").write_bytes(content)
    found = refused(capsys, source, tmp_path / "out", ShardLayout(2, 1, "trn2"))
    assert "model.safetensors: " in found
    assert message in found


def test_a_truncated_file_names_a_tensor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_model(tmp_path / "hf", TINY, random_state(TINY))
    content = (source / "model.safetensors").read_bytes()
    (source / "model.safetensors").write_bytes(content[:-8])
    message = refused(capsys, source, tmp_path / "out", ShardLayout(2, 1, "trn2"))
    assert "model.safetensors: cut off 8 bytes before the end of tensor model." in message


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("{", "not JSON"),
        ("{}", "weight_map does not map"),
        ('{"weight_map": {"x": "../x.safetensors"}}', "weight_map does not map"),
        ('{"weight_map": {"x": "x.safetensors"}}', "x.safetensors: no such file"),
        ('{"weight_map": {"x": "model-00001.safetensors"}}', "tensor x is missing"),
        (None, "neither model.safetensors nor model.safetensors.index.json is there"),
    ],
)
def test_damaged_index(tmp_path: Path, capsys: pytest.CaptureFixture[str], index: str | None, message: str) -> None:
    source = write_model(tmp_path / "hf", TINY, random_state(TINY), files=2)
    (source / "model.safetensors.index.json").unlink()
    if index is not None:
        (source / "model.safetensors.index.json").write_text(index)
    assert message in refused(capsys, source, tmp_path / "out", ShardLayout(2, 1, "trn2"))


def test_a_tensor_in_two_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = random_state(TINY)
    source = write_model(tmp_path / "hf", TINY, state, files=2)
    save_file(state, source / "model-00001.safetensors")
    message = refused(capsys, source, tmp_path / "out", ShardLayout(2, 1, "trn2"))
    assert "is also in model-00001.safetensors" in message


def change_layout(folder: Path) -> None:
    layout.write_layout(folder, ShardLayout(4, 2, "trn2"))


def unlabel_and_swap(folder: Path) -> None:
    """As if the shards had been made for the other accelerator: ranks 1 and 2 change places."""
    (folder / "layout.json").unlink()
    first, second = (folder / "model" / layout.shard_name(rank) for rank in (1, 2))
    first.rename(folder / "aside")
    second.rename(first)
    (folder / "aside").rename(second)


def lose_a_rank(folder: Path) -> None:
    (folder / "model" / layout.shard_name(2)).unlink()


def gain_a_rank(folder: Path) -> None:
    shutil.copyfile(folder / "model" / layout.shard_name(2), folder / "model" / layout.shard_name(4))


def truncate(folder: Path) -> None:
    path = folder / "model" / layout.shard_name(2)
    path.write_bytes(path.read_bytes()[:-100])


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    path = folder / "model" / layout.shard_name(2)
    state = torch.load(path, weights_only=True)
    change(state)
    torch.save(state, path)


def rename_a_key(folder: Path) -> None:
    rewrite(folder, lambda state: state.update(extra=state.pop("model.norm.weight")))


def change_a_norm(folder: Path) -> None:
    rewrite(folder, lambda state: state["model.norm.weight"].add_(1))


def change_a_type(folder: Path) -> None:
    rewrite(folder, lambda state: state.update({"model.norm.weight": state["model.norm.weight"].half()}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (change_layout, "layout.json: these shards are ShardLayout"),
        (unlabel_and_swap, "try another --layout or --kv-size-multiplier"),
        (lose_a_rank, "dp_rank_00_tp_rank_02_pp_rank_00.pt: no such file"),
        (gain_a_rank, "dp_rank_00_tp_rank_04_pp_rank_00.pt: a rank file too many for tp_size 4"),
        (truncate, "dp_rank_00_tp_rank_02_pp_rank_00.pt: not a file of torch.save, or damaged or cut off"),
        (rename_a_key, "dp_rank_00_tp_rank_02_pp_rank_00.pt: tensor model.norm.weight is missing"),
        (change_a_norm, "dp_rank_00_tp_rank_02_pp_rank_00.pt: its copy of model.norm.weight differs"),
        (change_a_type, "dp_rank_00_tp_rank_02_pp_rank_00.pt: tensor model.norm.weight is F16, in rank 0 F32"),
    ],
)
def test_shards_that_do_not_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Callable[[Path], None], message: str
) -> None:
    source = write_model(tmp_path / "hf", TINY, random_state(TINY))
    shards = ShardLayout(4, 2, "trn1")
    assert convert(source, tmp_path / "shards", shards) == 0
    change(tmp_path / "shards")
    assert message in refused(capsys, tmp_path / "shards", tmp_path / "out", shards, "--to-hf")


def test_an_output_that_is_in_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_model(tmp_path / "hf", TINY, random_state(TINY))
    assert convert(source, source, ShardLayout(1, 1, "trn1")) == 2
    assert "already contains a model" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert convert(source, tmp_path / "file" / "out", ShardLayout(1, 1, "trn1")) == 2
    assert "is not a folder" in capsys.readouterr().err


def test_the_benchmark_runs_and_cleans_up(tmp_path: Path) -> None:
    bench = Path(__file__).parents[1] / "bench" / "convert.py"
    command = [sys.executable, str(bench), "--scratch", str(tmp_path), "--size", "tiny", "--rounds", "1"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert [json.loads(line)["way"] for line in lines[:3]] == ["cp", "convert", "load_whole"]
    assert lines[3].split() == ["way", "seconds", "x", "cp", "peak", "MB"]
    assert not list(tmp_path.iterdir())
