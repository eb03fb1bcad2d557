from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaForCausalLM

from common.formats.peft_folder import BASE
from common.inference import generation
from common.inference.adapted_model import AdaptedModel
from common.inference.generation import Batch, Sequence, generate
from common.inference.loading import load_model
from common.program import BadInput

SCRIPTS = Path(__file__).parents[4] / "scripts"
EOS = frozenset({1})


@pytest.fixture(scope="module")
def rslora_adapter(tiny_model: Path, tmp_path_factory) -> Path:
    """Of another rank, scale and other modules than `tiny_adapter`."""
    folder = tmp_path_factory.mktemp("rslora")
    torch.manual_seed(2)
    targets = ["q_proj", "o_proj", "gate_proj"]
    config = LoraConfig(r=9, lora_alpha=5, use_rslora=True, target_modules=targets, init_lora_weights=False)
    get_peft_model(LlamaForCausalLM.from_pretrained(tiny_model), config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tiny_adapter: Path, rslora_adapter: Path) -> dict[str, Path]:
    return {"tuned": tiny_adapter, "rslora": rslora_adapter}


@pytest.fixture(scope="module")
def judges(tiny_model: Path, folders) -> dict[str, torch.nn.Module]:
    """The base model in transformers, and each adapter alone in PEFT."""
    models = {BASE: LlamaForCausalLM.from_pretrained(tiny_model).eval()}
    for name, folder in folders.items():
        models[name] = PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained(tiny_model), folder).eval()
    return models


@pytest.fixture(scope="module")
def model(tiny_model: Path, folders) -> AdaptedModel:
    return load_model(tiny_model, folders, "fp32")


@pytest.mark.parametrize("rows", [[BASE], ["tuned"], ["tuned"] * 3, ["rslora", BASE, "tuned", BASE, "rslora"]])
@torch.inference_mode()
def test_each_row_has_the_logits_of_peft_with_its_adapter(model, judges, rows):
    input_ids = torch.randint(2, 384, (len(rows), 17), generator=torch.Generator().manual_seed(3))
    found = model(rows, 4, input_ids=input_ids)
    for row, name in enumerate(rows):
        expected = judges[name](input_ids[row : row + 1]).logits[0, -4:]
        torch.testing.assert_close(found[row], expected, atol=2e-5, rtol=2e-5)


def test_a_name_that_was_not_loaded_is_no_base_model(model):
    with pytest.raises(KeyError, match="no adapter other"):
        model(["other"], 1, input_ids=torch.tensor([[5]]))


def test_an_adapter_that_does_not_fit_is_refused(tiny_model, tiny_adapter, tmp_path):
    adapter = shutil.copytree(tiny_adapter, tmp_path / "adapter")
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "target_modules": ["q_proj"]}))
    with pytest.raises(BadInput, match="fits no target module"):
        load_model(tiny_model, {"tuned": adapter}, "fp32")


def test_an_adapter_of_the_embedding_is_refused(tiny_model, tmp_path):
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["embed_tokens"]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    from safetensors.torch import save_file

    prefix = "base_model.model.model.embed_tokens.lora_"
    save_file(
        {f"{prefix}A.weight": torch.ones(2, 64), f"{prefix}B.weight": torch.ones(384, 2)},
        tmp_path / "adapter_model.safetensors",
    )
    with pytest.raises(BadInput, match="model.embed_tokens is a Embedding; only linear layers"):
        load_model(tiny_model, {"tuned": tmp_path}, "fp32")


def test_bf16_rounds_the_weights_and_not_the_rotary_frequencies(tiny_model, tiny_adapter):
    model = load_model(tiny_model, {"tuned": tiny_adapter}, "bf16").model
    exact = LlamaForCausalLM.from_pretrained(tiny_model).model.rotary_emb.inv_freq
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert torch.equal(model.model.rotary_emb.inv_freq, exact)


def test_peft_is_not_needed(tiny_model, tiny_adapter):
    """A Deep Learning AMI has none."""
    code = (
        "import sys; sys.modules['peft'] = None\n"
        "from pathlib import Path\n"
        "from common.inference.loading import load_model\n"
        f"load_model(Path({str(tiny_model)!r}), {{'tuned': Path({str(tiny_adapter)!r})}}, 'fp32')\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=SCRIPTS, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_a_cache_that_forgets_stops_the_generation(tiny_model, monkeypatch):
    """As the one of transformers 4.48, whose constructor ignores keys and values."""
    chance = random.Random(0)
    batch = Batch(load_model(tiny_model, {}, "fp32"), EOS)
    batch.add([Sequence([chance.randrange(2, 384) for _ in range(9)], 20)])
    monkeypatch.setattr(generation, "_cache_of", lambda layers: generation.DynamicCache())
    batch.add([Sequence([chance.randrange(2, 384) for _ in range(4)], 20)])
    with pytest.raises(RuntimeError, match="the K/V cache holds 1 tokens, expected 10"):
        batch.step()


@pytest.mark.parametrize("rope", [{"rope_type": "default", "rope_theta": 700.0}, None])
def test_positions_are_those_of_the_config_in_the_words_of_either_transformers(tiny_model, tmp_path, rope):
    """Transformers 4 reads rope_theta alone, so that is what load_model shows it."""
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config.pop("rope_parameters", None)
    (folder / "config.json").write_text(
        json.dumps({**config, **({"rope_parameters": rope} if rope else {"rope_theta": 700.0})})
    )
    prompt = list(range(30, 60))
    (found,) = generate(load_model(folder, {}, "fp32"), [Sequence(prompt, 12)], 1, EOS)
    judge = LlamaForCausalLM.from_pretrained(folder).eval()
    expected = judge.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False, pad_token_id=1)
    assert found.token_ids == expected[0, 30:].tolist()
    (other,) = generate(load_model(tiny_model, {}, "fp32"), [Sequence(prompt, 12)], 1, EOS)
    assert found.token_ids != other.token_ids


@pytest.mark.parametrize(("tokens", "threads"), [(1, 1), (2**12, 3)])
def test_little_work_is_done_on_one_thread(tiny_model: Path, monkeypatch, tokens: int, threads: int) -> None:
    """All threads of the caller are its own again afterwards."""
    model = load_model(tiny_model, {}, "fp32")
    used = []
    monkeypatch.setattr(model, "model", lambda **_: used.append(torch.get_num_threads()) or SimpleNamespace(logits=ids))
    monkeypatch.setattr(model, "_parameters", 2**17)
    ids, before = torch.zeros(1, tokens, 1, dtype=torch.long), torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        model([BASE], 1, input_ids=ids)
        assert (used, torch.get_num_threads()) == ([threads], 3)
    finally:
        torch.set_num_threads(before)
