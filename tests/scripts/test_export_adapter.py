from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import export_adapter
from common import program
from common.formats import streaming
from common.shards import layout
from common.shards.layout import PROJECTIONS, ModelShape, ShardLayout
from tests.scripts.common.shards.test_layout import cuts
from tests.scripts.llama_files import TINY, random_state, read_model, same_bits, write_model

RANK, ALPHA = 3, 6
MODULES = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]
CUT = ShardLayout(4, 2, "trn1")
Tensors = dict[str, torch.Tensor]


@pytest.fixture(autouse=True, scope="module")
def small_tiles() -> Iterator[None]:
    """So that the tensors of tiny models are copied in several tiles, as large ones are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streaming, "TILE_BYTES", 50)
        yield


def random_adapter(shape: ModelShape, dtype: torch.dtype = torch.float32) -> Tensors:
    """A whole adapter under PEFT's names, with the lora_A that q, k, v and gate, up share."""
    torch.manual_seed(0)
    shared, adapter = {}, {}
    for layer in range(shape.num_hidden_layers):
        for name, projection in PROJECTIONS.items():
            out_features, in_features = shape.projection(name)
            lora_a = shared.setdefault((layer, projection.module), torch.randn(RANK, in_features).to(dtype))
            prefix = f"base_model.model.model.layers.{layer}.{name}"
            adapter[f"{prefix}.lora_A.weight"] = lora_a.clone()
            adapter[f"{prefix}.lora_B.weight"] = torch.randn(out_features, RANK).to(dtype)
    return adapter


def cut_adapter(adapter: Tensors, shape: ModelShape, cut: ShardLayout, rank: int) -> Tensors:
    """What `rank` saves, as NxD does with merge_sharded_lora=False; head by head and without the code under test."""
    heads, group = shape.num_attention_heads // cut.tp_size, shape.num_attention_heads // shape.num_key_value_heads
    if cut.kv_size_multiplier > 1 and cut.layout == "trn1":
        key_values = [rank % shape.num_key_value_heads]
        first = key_values[0] * group + rank // shape.num_key_value_heads * heads
    else:
        first = rank * heads
        key_values = sorted({head // group for head in range(first, first + heads)})
    query_rows = torch.arange(first * shape.head_dim, (first + heads) * shape.head_dim)
    kv_rows = torch.arange(key_values[0] * shape.head_dim, (key_values[-1] + 1) * shape.head_dim)
    width = shape.intermediate_size // cut.tp_size
    mlp_rows = torch.arange(width) + rank * width
    state = {}
    for layer in range(shape.num_hidden_layers):
        lora = {
            (name, part): adapter[f"base_model.model.model.layers.{layer}.{name}.lora_{part}.weight"]
            for name in PROJECTIONS
            for part in "AB"
        }
        attention, mlp = f"model.layers.{layer}.self_attn.", f"model.layers.{layer}.mlp."
        state[f"{attention}qkv_proj.lora_A.weight"] = lora["self_attn.q_proj", "A"]
        state[f"{attention}qkv_proj.lora_B.weight_q"] = lora["self_attn.q_proj", "B"][query_rows]
        state[f"{attention}qkv_proj.lora_B.weight_k"] = lora["self_attn.k_proj", "B"][kv_rows]
        state[f"{attention}qkv_proj.lora_B.weight_v"] = lora["self_attn.v_proj", "B"][kv_rows]
        state[f"{attention}o_proj.lora_A.weight"] = lora["self_attn.o_proj", "A"][:, query_rows].contiguous()
        state[f"{attention}o_proj.lora_B.weight"] = lora["self_attn.o_proj", "B"]
        gate_up = [lora[f"mlp.{name}_proj", "B"][mlp_rows] for name in ("gate", "up")]
        state[f"{mlp}gate_up_proj.lora_A.weight"] = lora["mlp.gate_proj", "A"]
        state[f"{mlp}gate_up_proj.lora_B.weight"] = torch.cat(gate_up)
        state[f"{mlp}down_proj.lora_A.weight"] = lora["mlp.down_proj", "A"][:, mlp_rows].contiguous()
        state[f"{mlp}down_proj.lora_B.weight"] = lora["mlp.down_proj", "B"]
    return {name: tensor.clone() for name, tensor in state.items()}


def write_adapter(folder: Path, states: list[Tensors], cut: ShardLayout, **changes: Any) -> Path:
    """The output folder of a training."""
    (folder / "lora_adapter" / "lora" / "model").mkdir(parents=True)
    for rank, state in enumerate(states):
        torch.save(state, folder / "lora_adapter" / "lora" / "model" / layout.shard_name(rank))
    for marker in ("checkpoint", "done"):
        (folder / "lora_adapter" / "lora" / marker).write_text("1")
    config = {
        "lora_rank": RANK, "lora_alpha": ALPHA, "lora_dropout": 0.05, "use_rslora": False, "target_modules": MODULES,
        "bias": "none",
    }  # fmt: skip
    (folder / "lora_adapter" / "adapter_config.json").write_text(json.dumps({**config, **changes}))
    layout.write_layout(folder, cut)
    return folder


def sharded(folder: Path, adapter: Tensors, shape: ModelShape, cut: ShardLayout, **changes: Any) -> Path:
    states = [cut_adapter(adapter, shape, cut, rank) for rank in range(cut.tp_size)]
    return write_adapter(folder, states, cut, **changes)


def export(model: Path, adapter: Path, output: Path, *more: str) -> int:
    argv = ["--model", str(model), "--adapter", str(adapter), "--output", str(output), *more]
    return program.main(export_adapter.run, export_adapter.flags(), argv)


@settings(max_examples=40, deadline=None)
@given(cuts(), st.sampled_from([torch.float32, torch.bfloat16]))
def test_shards_become_the_whole_adapter(cut: tuple[ModelShape, ShardLayout], dtype: torch.dtype) -> None:
    shape, shards = cut
    adapter = random_adapter(shape, dtype)
    with tempfile.TemporaryDirectory() as folder:
        model = write_model(Path(folder) / "hf", shape, random_state(shape))
        trained = sharded(Path(folder) / "trained", adapter, shape, shards)
        assert export(model, trained, Path(folder) / "out") == 0
        exported = load_file(Path(folder) / "out" / "adapter" / "adapter_model.safetensors")
        assert exported.keys() == adapter.keys()
        assert all(same_bits(exported[name], tensor) for name, tensor in adapter.items())


@pytest.mark.parametrize(
    ("parameter", "untargeted"),
    [("gate_up_proj.lora_B.weight", "gate_proj"), ("qkv_proj.lora_B.weight_k", "k_proj")],
)
def test_what_was_no_target_is_not_exported(tmp_path: Path, parameter: str, untargeted: str) -> None:
    """NxD stores gate and up together: of an adapter for up alone the gate half is zero, in every layer."""
    model = write_model(tmp_path / "hf", TINY, random_state(TINY))
    states = [cut_adapter(random_adapter(TINY), TINY, CUT, rank) for rank in range(CUT.tp_size)]
    for state in states:
        for name, tensor in state.items():
            if name.endswith(parameter):
                tensor[: len(tensor) // 2 if untargeted == "gate_proj" else None] = 0
    trained = write_adapter(tmp_path / "trained", states, CUT)
    assert export(model, trained, tmp_path / "out") == 0
    config = json.loads((tmp_path / "out" / "adapter" / "adapter_config.json").read_text())
    left = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"} - {untargeted}
    assert set(config["target_modules"]) == left
    names = load_file(tmp_path / "out" / "adapter" / "adapter_model.safetensors")
    assert {name.split(".lora_")[0].rpartition(".")[2] for name in names} == left


@pytest.mark.parametrize("use_rslora", [False, True])
def test_peft_and_the_merged_model_agree(tmp_path: Path, use_rslora: bool) -> None:
    from peft import PeftModel
    from transformers import LlamaForCausalLM

    model = write_model(tmp_path / "hf", TINY, random_state(TINY), files=2)
    trained = sharded(tmp_path / "trained", random_adapter(TINY), TINY, CUT, use_rslora=use_rslora)
    assert export(model, trained, tmp_path / "out", "--merge") == 0
    ids = torch.arange(8)[None]
    with torch.no_grad():
        merged = LlamaForCausalLM.from_pretrained(tmp_path / "out" / "merged").eval()(ids).logits
        base = LlamaForCausalLM.from_pretrained(model).eval()
        plain = base(ids).logits
        adapted = PeftModel.from_pretrained(base, str(tmp_path / "out" / "adapter")).eval()(ids).logits
    torch.testing.assert_close(merged, adapted)
    assert not torch.allclose(adapted, plain, atol=0.1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_merging_adds_in_float32_and_rounds_once(tmp_path: Path, dtype: torch.dtype) -> None:
    shape = replace(TINY, tie_word_embeddings=True)
    state, adapter = random_state(shape, dtype), random_adapter(shape)
    trained = sharded(tmp_path / "trained", adapter, shape, CUT)
    assert export(write_model(tmp_path / "hf", shape, state), trained, tmp_path / "out", "--merge") == 0
    merged = read_model(tmp_path / "out" / "merged")
    assert merged.keys() == state.keys()
    for name, weight in state.items():
        prefix = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{prefix}.lora_A.weight" not in adapter:
            assert same_bits(merged[name], weight)
            continue
        delta = ALPHA / RANK * (adapter[f"{prefix}.lora_B.weight"] @ adapter[f"{prefix}.lora_A.weight"])
        expected = (weight.float() + delta).to(dtype)
        assert merged[name].dtype == dtype
        # Two matrix products may differ in the last bit of float32, and so on either side of a rounding.
        torch.testing.assert_close(merged[name].float(), expected.float(), rtol=torch.finfo(dtype).eps, atol=1e-5)


def test_files_beside_the_weights(tmp_path: Path) -> None:
    model = write_model(tmp_path / "hf", TINY, random_state(TINY), files=2)
    for name in ("tokenizer.json", "generation_config.json", "chat_template.jinja", "pytorch_model.bin", "old.gguf"):
        (model / name).write_text(name)
    trained = sharded(tmp_path / "trained", random_adapter(TINY), TINY, CUT)
    assert export(model, trained, tmp_path / "out", "--merge") == 0
    expected = {path.name for path in model.iterdir()} - {"pytorch_model.bin", "old.gguf"}
    assert {path.name for path in (tmp_path / "out" / "merged").iterdir()} == expected
    assert (tmp_path / "out" / "merged" / "tokenizer.json").read_text() == "tokenizer.json"
    assert {path.name for path in (tmp_path / "out" / "adapter").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }


def test_the_config_is_peft_s(tmp_path: Path) -> None:
    from peft import LoraConfig

    model = write_model(tmp_path / "hf", TINY, random_state(TINY))
    assert export(model, sharded(tmp_path / "trained", random_adapter(TINY), TINY, CUT), tmp_path / "out") == 0
    config = LoraConfig.from_pretrained(tmp_path / "out" / "adapter")
    assert (config.peft_type, config.task_type, config.bias) == ("LORA", "CAUSAL_LM", "none")
    assert (config.r, config.lora_alpha, config.lora_dropout, config.use_rslora) == (RANK, ALPHA, 0.05, False)
    assert config.target_modules == {name.partition(".")[2] for name in PROJECTIONS}
    assert config.base_model_name_or_path == str(model)
    assert not (tmp_path / "out" / "merged").exists()


def test_an_adapter_of_some_projections(tmp_path: Path) -> None:
    adapter = random_adapter(TINY)
    states = [cut_adapter(adapter, TINY, CUT, rank) for rank in range(4)]
    kept = ("qkv_proj.lora_A.weight", "lora_B.weight_q", "lora_B.weight_v")
    states = [{name: tensor for name, tensor in state.items() if name.endswith(kept)} for state in states]
    trained = write_adapter(tmp_path / "trained", states, CUT, target_modules=["qkv_proj"])
    assert export(write_model(tmp_path / "hf", TINY, random_state(TINY)), trained, tmp_path / "out") == 0
    exported = load_file(tmp_path / "out" / "adapter" / "adapter_model.safetensors")
    assert exported.keys() == {name for name in adapter if "q_proj" in name or "v_proj" in name}
    config = json.loads((tmp_path / "out" / "adapter" / "adapter_config.json").read_text())
    assert config["target_modules"] == ["q_proj", "v_proj"]


QUERY = "model.layers.1.self_attn.qkv_proj.lora_B.weight_q"
KEY = "model.layers.1.self_attn.qkv_proj.lora_B.weight_k"
SHARED_A = "model.layers.0.mlp.gate_up_proj.lora_A.weight"


def zero_lora_b(states: list[Tensors]) -> None:
    for state in states:
        for name in state:
            if "lora_B" in name:
                state[name].zero_()


def break_value(states: list[Tensors]) -> None:
    states[3][QUERY][0, 0] = math.nan


def overflow_value(states: list[Tensors]) -> None:
    states[3][SHARED_A][0, 0] = math.inf


def drift_shared_a(states: list[Tensors]) -> None:
    states[2][SHARED_A] += 0.1 * torch.randn_like(states[2][SHARED_A])


def drift_key_copy(states: list[Tensors]) -> None:
    states[2][KEY] *= 1.1


def as_if_trn2(states: list[Tensors]) -> None:
    states[1], states[2] = states[2], states[1]


def lose_a_tensor(states: list[Tensors]) -> None:
    del states[1][QUERY]


def foreign_tensor(states: list[Tensors]) -> None:
    states[0]["model.layers.7.mlp.down_proj.lora_A.weight"] = torch.zeros(1)


def cut_query_short(states: list[Tensors]) -> None:
    """As NxD's merge_sharded_lora=True does."""
    for state in states:
        state[QUERY] = state[QUERY][: len(state[QUERY]) // 2].clone()


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        (zero_lora_b, 1, "all lora_B are zero"),
        (break_value, 1, f"tp_rank_03_pp_rank_00.pt: {QUERY} has infinite or NaN values"),
        (overflow_value, 1, f"tp_rank_03_pp_rank_00.pt: {SHARED_A} has infinite or NaN values"),
        (drift_shared_a, 1, f"tp_rank_02_pp_rank_00.pt: {SHARED_A} differs from rank 0's copy by"),
        (drift_key_copy, 1, f"tp_rank_02_pp_rank_00.pt: {KEY} differs from rank 0's copy by 10.0%"),
        (as_if_trn2, 1, "differs from rank 0's copy"),
        (lose_a_tensor, 2, f"tp_rank_01_pp_rank_00.pt: tensor {QUERY} is missing"),
        (foreign_tensor, 2, "tensor model.layers.7.mlp.down_proj.lora_A.weight is unexpected"),
        (cut_query_short, 2, f"tensor {QUERY} has shape [1, 3], expected [2, 3]"),
    ],
)
def test_adapters_that_cannot_be_trusted(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[list[Tensors]], None],
    status: int,
    message: str,
) -> None:
    states = [cut_adapter(random_adapter(TINY), TINY, CUT, rank) for rank in range(4)]
    change(states)
    trained = write_adapter(tmp_path / "trained", states, CUT)
    model = write_model(tmp_path / "hf", TINY, random_state(TINY))
    assert export(model, trained, tmp_path / "out", "--merge") == status
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_copies_rounded_each_its_own_way_are_accepted(tmp_path: Path) -> None:
    states = [cut_adapter(random_adapter(TINY), TINY, CUT, rank) for rank in range(4)]
    states[2][KEY] *= 1 + 2**-9
    model = write_model(tmp_path / "hf", TINY, random_state(TINY))
    assert export(model, write_adapter(tmp_path / "trained", states, CUT), tmp_path / "out") == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lora_rank": None}, "lora_rank None is not a number"),
        ({"lora_rank": 0}, "lora_rank 0 is not a whole number"),
        ({"lora_alpha": "6"}, "lora_alpha '6' is not a number"),
        ({"bias": "all"}, "bias 'all' is not supported"),
        ({"target_modules": []}, "target_modules [] is not a list of module names"),
        ({"target_modules": ["q_proj"]}, "target_modules has 'q_proj', which is not one of qkv_proj, o_proj"),
        ({"target_modules": MODULES[:3]}, "lora_A.weight is unexpected"),
    ],
)
def test_adapter_configs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], message: str
) -> None:
    model = write_model(tmp_path / "hf", TINY, random_state(TINY))
    trained = sharded(tmp_path / "trained", random_adapter(TINY), TINY, CUT, **changes)
    assert export(model, trained, tmp_path / "out") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_module_without_tensors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    states = [cut_adapter(random_adapter(TINY), TINY, CUT, rank) for rank in range(4)]
    states = [{name: tensor for name, tensor in state.items() if "down_proj" not in name} for state in states]
    model = write_model(tmp_path / "hf", TINY, random_state(TINY))
    assert export(model, write_adapter(tmp_path / "trained", states, CUT), tmp_path / "out") == 2
    assert "has no lora_B for target module mlp.down_proj" in capsys.readouterr().err


def test_an_unfinished_adapter_and_an_output_in_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = write_model(tmp_path / "hf", TINY, random_state(TINY))
    trained = sharded(tmp_path / "trained", random_adapter(TINY), TINY, CUT)
    (tmp_path / "out" / "merged").mkdir(parents=True)
    assert export(model, trained, tmp_path / "out") == 2
    assert "already contains merged" in capsys.readouterr().err
    (trained / "lora_adapter" / "lora" / "done").unlink()
    assert export(model, trained, tmp_path / "new") == 2
    assert "the adapter was not saved completely" in capsys.readouterr().err


def test_another_model_s_adapter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shape = replace(TINY, intermediate_size=32)
    trained = sharded(tmp_path / "trained", random_adapter(TINY), TINY, CUT)
    assert export(write_model(tmp_path / "hf", shape, random_state(shape)), trained, tmp_path / "out") == 2
    assert "gate_up_proj.lora_B.weight has shape [8, 3], expected [16, 3]" in capsys.readouterr().err


def test_a_merge_that_rounds_away_or_overflows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = write_model(tmp_path / "hf", TINY, random_state(TINY, torch.float16))
    for factor, message in (
        (1e-9, "too small to change any weight"),
        (1e6, "overflows F16 when the adapter is merged"),
    ):
        adapter = {name: tensor * factor for name, tensor in random_adapter(TINY).items()}
        trained = sharded(tmp_path / f"trained-{factor}", adapter, TINY, CUT)
        assert export(model, trained, tmp_path / f"out-{factor}", "--merge") == 1
        assert message in capsys.readouterr().err


def peft_training(folder: Path, adapter: Path, **changes: Any) -> Path:
    """The output folder of train_optimum.py, with this PEFT folder in it."""
    shutil.copytree(adapter, folder / "adapter")
    path = folder / "adapter" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder


def test_a_peft_folder_is_exported_and_merged(tmp_path: Path, tiny_model: Path, tiny_adapter: Path) -> None:
    from peft import PeftModel
    from transformers import LlamaForCausalLM

    trained = peft_training(tmp_path / "trained", tiny_adapter, use_rslora=True)
    assert export(tiny_model, trained, tmp_path / "out", "--merge") == 0
    assert (tmp_path / "out" / "merged" / "tokenizer.json").is_file(), "a server needs it beside the weights"
    ids = torch.arange(8)[None]
    with torch.no_grad():
        merged = LlamaForCausalLM.from_pretrained(tmp_path / "out" / "merged").eval()(ids).logits
        base = LlamaForCausalLM.from_pretrained(tiny_model).eval()
        adapted = PeftModel.from_pretrained(base, str(trained / "adapter")).eval()(ids).logits
        exported = PeftModel.from_pretrained(
            LlamaForCausalLM.from_pretrained(tiny_model), str(tmp_path / "out" / "adapter")
        )
    assert torch.equal(exported.eval()(ids).logits, adapted)
    torch.testing.assert_close(merged, adapted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bias": "all"}, "bias 'all' is not supported"),
        ({"use_dora": True}, "use_dora True is not supported"),
        ({"alpha_pattern": {"q_proj": 1}}, "alpha_pattern {'q_proj': 1} is not supported"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save ['lm_head'] is not supported: vLLM"),
        ({"r": 5}, "rank 5 and the base model need"),
        ({"target_modules": ["q_proj", "v_proj", "down_proj", "o_proj"]}, "is missing"),
        ({"target_modules": ["q_proj"]}, "fits no target module"),
    ],
)
def test_a_peft_folder_that_is_no_plain_lora_of_the_model_is_refused(
    tmp_path: Path, tiny_model: Path, tiny_adapter: Path, capsys: Any, changes: dict[str, Any], message: str
) -> None:
    trained = peft_training(tmp_path / "trained", tiny_adapter, **changes)
    assert export(tiny_model, trained, tmp_path / "out") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("value", "status", "message"), [(math.nan, 1, "has infinite or NaN values"), (0.0, 2, "every lora_B is zero")]
)
def test_a_peft_folder_of_a_failed_training_is_refused(
    tmp_path: Path, tiny_model: Path, tiny_adapter: Path, capsys: Any, value: float, status: int, message: str
) -> None:
    trained = peft_training(tmp_path / "trained", tiny_adapter)
    path = trained / "adapter" / "adapter_model.safetensors"
    tensors = {name: tensor.fill_(value) if "lora_B" in name else tensor for name, tensor in load_file(path).items()}
    save_file(tensors, path)
    assert export(tiny_model, trained, tmp_path / "out") == status
    assert message in capsys.readouterr().err
