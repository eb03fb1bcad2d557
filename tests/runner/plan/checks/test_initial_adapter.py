"""An adapter that cannot be continued exactly is refused when the recipe is planned."""

from __future__ import annotations

import json

import pytest

from runner.compose.recipe import compose
from runner.errors import RecipeError
from runner.paths import ROOT
from runner.plan.checks import feasibility
from tests.runner.plan.test_initial_adapter import make_adapter

TRN2 = ["hardware=trn2", "model=llama3_2_1b", "tp_size=8"]
SETTINGS = json.loads((ROOT / "scripts/common/formats/peft_folder.json").read_text())


def refusal(*overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        feasibility.check(compose("quickstart", overrides).recipe)
    return str(caught.value)


def test_an_adapter_with_the_recipes_settings_passes(tmp_path):
    adapter = make_adapter(tmp_path / "adapter", shared=False, lora_dropout=0.5, modules_to_save=None, rank_pattern={})
    feasibility.check(compose("quickstart", [f"train.init_adapter={adapter}"]).recipe)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"r": 8}, "train.lora.rank: 16, but the adapter to continue has 8"),
        ({"lora_alpha": 64}, "set train.lora.alpha=64"),
        ({"use_rslora": True}, "set train.lora.rslora=true"),
        ({"target_modules": ["q_proj", "v_proj"]}, "set train.lora.targets=[q_proj,v_proj]"),
        ({"target_modules": ".*_proj"}, "train.lora.targets: "),
        ({"peft_type": "IA3"}, "not a LoRA config of PEFT"),
        ({"hidden": 128}, "is for a model with hidden_size 128, tiny-llama has 256"),
    ],
)
def test_other_settings_are_refused_with_what_to_set(tmp_path, changes, expected):
    assert expected in refusal(f"train.init_adapter={make_adapter(tmp_path / 'adapter', **changes)}")


@pytest.mark.parametrize("key", SETTINGS)
def test_a_setting_without_an_equivalent_is_refused_with_the_reason(tmp_path, key):
    adapter = make_adapter(tmp_path / "adapter", **{key: "pissa" if key == "init_lora_weights" else ["lm_head"]})
    message = refusal(f"train.init_adapter={adapter}")
    assert f"{key} " in message and SETTINGS[key]["reason"] in message


def test_nxd_continues_only_what_shares_a_lora_a(tmp_path):
    own, shared = (make_adapter(tmp_path / str(s), shared=s, hidden=2048) for s in (False, True))
    nxd = [*TRN2, "train=nxd_lora"]
    assert "has one for each; continue it with train=torch_lora" in refusal(*nxd, f"train.init_adapter={own}")
    assert "layers 4" in refusal(*nxd, f"train.init_adapter={shared}")


def test_optimum_continues_none(tmp_path):
    adapter = make_adapter(tmp_path / "adapter")
    assert "only trains new adapters" in refusal(
        *TRN2, "train=optimum_lora", "sdk=neuron_2_26", f"train.init_adapter={adapter}"
    )
