"""The Llama of neuronx-distributed's (NxD's) examples with LoRA, on Trainium or under NXD_CPU_MODE. Needs NxD.

Its modelling code is fetched (fetch_nxd_model.py), not ours. What is done otherwise than in NxD's own script:

- the shards are loaded into the base model alone, strictly by name; NxD's loader leaves out what it does not know
- attention stays within a packed example
- without sequence parallelism, gradients are summed over the ranks in the dtype of the weights: NxD loses the sum in
  another
- whether a parameter is replicated follows from its name: moving a LoRA layer to the device makes new parameters,
  and the attributes that NxD reads it from are lost
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import argparse
import importlib.util
import math
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch.nn import functional

from common.formats import model_config
from common.formats.dtypes import DTYPES
from common.program import BadInput
from common.shards import layout as layouts
from common.shards.layout import PROJECTIONS, ShardLayout
from common.training.lora import Adapter
from common.training.masks import MASKED_SCORE, masked_positions

_MIXED_PRECISION = ("use_master_weights", "use_fp32_grad_acc", "use_master_weights_in_ckpt")
_CHECKPOINTED = "_checkpoint_wrapped_module."  # torch puts it into the names of recomputed modules
_LORA = re.compile(r"model\.layers\.\d+\.(?P<module>.+)\.lora_(?P<part>[AB])\.weight(?P<projection>_[qkv])?")


class Segments:
    """Which tokens of the current micro-batch do not see each other: `hidden`, (rows, 1, seq_len, seq_len) of bool."""

    masked: torch.Tensor

    def set(self, segments: torch.Tensor) -> None:
        """Take the segment numbers of a micro-batch, (rows, seq_len)."""
        self.masked = masked_positions(segments)[:, None]


@dataclass(frozen=True)
class Trained:
    """A trained parameter; `share` of its squared norm counts on this rank, so that over the ranks it counts once."""

    name: str
    parameter: torch.nn.Parameter
    share: float


def import_modelling(folder: Path) -> ModuleType:
    """The modelling code, under the name by which it would import itself."""
    name = "modeling_llama_nxd"
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    assert spec and spec.loader
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    # Every weight is loaded: drawing random ones first takes each rank as long as the whole model.
    module._init_normal = lambda std, weight: weight  # type: ignore[attr-defined]
    return module


def configure(args: argparse.Namespace, modelling: ModuleType) -> dict[str, Any]:
    """NxD's configuration for the flags of train_nxd.py; this also forms the groups of ranks."""
    import neuronx_distributed as nxd
    from neuronx_distributed.modules.lora import LoraConfig
    from neuronx_distributed.utils.model_utils import get_platform_lnc

    targeted = [projection.module for name, projection in PROJECTIONS.items() if name.partition(".")[2] in args.targets]
    lora = LoraConfig(
        lora_rank=args.rank,
        lora_alpha=args.alpha,
        lora_dropout=args.dropout,
        use_rslora=args.rslora,
        bias="none",
        target_modules=[module.partition(".")[2] for module in targeted],
        merge_sharded_lora=False,
    )
    recomputed = modelling.CoreAttention if args.selective_checkpointing else "full"
    return nxd.neuronx_distributed_config(
        tensor_parallel_size=layouts.read_layout(args.shards).tp_size,
        optimizer_config={"zero_one_enabled": args.zero1, "grad_clipping": False},
        activation_checkpoint_config=recomputed if _recomputes(args) else None,
        sequence_parallel=args.sequence_parallel,
        # What is trained, and the optimizer's state, is float32 as it is.
        mixed_precision_config=dict.fromkeys(_MIXED_PRECISION, False),
        lora_config=lora,
        lnc_size=int(get_platform_lnc()),  # which ranks can talk to each other depends on it
    )


def build(
    args: argparse.Namespace, modelling: ModuleType, config: dict[str, Any], shard: Path, segments: Segments
) -> Any:
    """NxD's model on the device, the shard's weights in it and LoRA around its targets.

    Raises BadInput where the shard does not have just the tensors of the modelling code.
    """
    import neuronx_distributed as nxd

    make = partial(_base_model, modelling, args, shard, segments)
    return nxd.initialize_parallel_model(config, make, include_buffers=True)


def trained(model: Any, adapter: Adapter, layout: ShardLayout, sequence_parallel: bool) -> list[Trained]:
    """The LoRA parameters of `model`, marked for the reduction of their gradients.

    Under sequence parallelism a rank has the gradient of a replicated parameter for its part of the sequence alone;
    NxD sums those that are marked, and does not mark them itself. Of q, k, v or gate, up, which are one module, those
    that are no target get no gradient.
    """
    found = []
    for name, parameter in model.named_parameters():
        place = _LORA.fullmatch(name := name.replace(_CHECKPOINTED, ""))
        if place is None:
            if parameter.requires_grad:
                raise BadInput(f"--model-code: would train {name}, which is no part of the adapter")
            continue
        row_parallel = next(p.axis for p in PROJECTIONS.values() if p.module == place["module"]) == 1
        replicated = row_parallel == (place["part"] == "B")
        parameter.sequence_parallel_enabled = sequence_parallel and replicated
        copies = layout.tp_size if replicated else 1
        if place["projection"] in ("_k", "_v"):
            copies = layout.kv_size_multiplier
        found.append(Trained(name, parameter, 1 / copies))
    _check_names({one.name: one.parameter for one in found}, adapter)
    _keep_untargeted(found, adapter)
    return found


def write(parameters: list[Trained], tensors: Mapping[str, torch.Tensor]) -> None:
    """Set the parameters that `tensors` names."""
    with torch.no_grad():
        for one in parameters:
            if one.name in tensors:
                one.parameter.data.copy_(tensors[one.name])


def read(parameters: list[Trained]) -> dict[str, torch.Tensor]:
    """The parameters by name, on the CPU."""
    return {one.name: one.parameter.detach().cpu() for one in parameters}


def _recomputes(args: argparse.Namespace) -> bool:
    return args.selective_checkpointing or args.gradient_checkpointing


def _base_model(modelling: ModuleType, args: argparse.Namespace, shard: Path, segments: Segments) -> torch.nn.Module:
    """The frozen model on the CPU with this rank's shard in it."""
    model = modelling.LlamaForCausalLM(_config(args))
    try:
        model.load_state_dict(torch.load(shard, map_location="cpu", mmap=True, weights_only=True), strict=True)
    except RuntimeError as error:
        raise BadInput(f"--model-code: does not fit {shard}: {' '.join(str(error).split())}") from None
    _sum_gradients_in_weight_dtype(model)
    for layer in model.model.layers:
        layer.self_attn.core_attn = _attention(modelling.CoreAttention, segments)
    if args.gradient_checkpointing:
        # A recomputed layer gets gradients only if its input has one, and the frozen embedding's has none.
        model.model.embed_tokens.register_forward_hook(lambda module, inputs, output: output.requires_grad_())
    return model


def _sum_gradients_in_weight_dtype(model: Any) -> None:
    """Have column-parallel layers sum the gradient of their input over the ranks as it is, in the dtype of the weights.

    NxD (0.15 to 0.18) sums a copy in reduce_dtype, float32 unless told, and passes the unsummed original on: of a
    bfloat16 model each rank then has its own part of the gradient for all that lies below. That is without sequence
    parallelism; with it, and in the layer of q, k and v, NxD takes what was summed, and float32 is better there.
    """
    from neuronx_distributed.parallel_layers import ColumnParallelLinear

    for module in model.modules():
        if isinstance(module, ColumnParallelLinear) and not module.sequence_parallel_enabled:
            module.reduce_dtype = module.weight.dtype


def _attention(base: type, segments: Segments) -> torch.nn.Module:
    """Attention within each example; a kind of `base`, so that selective checkpointing finds it."""

    class SegmentAttention(base):
        def forward(self, query, key, value):
            scores = query @ key.transpose(2, 3) / math.sqrt(query.shape[-1])
            scores = scores.masked_fill(segments.masked, MASKED_SCORE)
            return functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype) @ value

    return SegmentAttention()


def _config(args: argparse.Namespace) -> Any:
    """The shards' config.json, for the transformers 4 that NxD's code needs."""
    from transformers import LlamaConfig

    content = model_config.with_old_names(model_config.read(args.shards, trainer="nxd"))
    same = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "hidden_act")
    same += ("num_key_value_heads", "max_position_embeddings", "rms_norm_eps", "rope_theta", "rope_scaling")
    settings = {
        "tie_word_embeddings": False,  # the shards hold both
        "use_cache": False,
        "torch_dtype": getattr(torch, DTYPES[args.dtype].torch),
    }
    return LlamaConfig(**{name: content[name] for name in same if name in content}, **settings, **_options(args))


def _options(args: argparse.Namespace) -> dict[str, Any]:
    """What the modelling code reads from the configuration besides."""
    return {
        "qkv_linear": True,
        "fuse_qkv": False,  # LoRA does not know it
        "kv_shared_group_size": layouts.read_layout(args.shards).kv_size_multiplier,
        "sequence_parallel_enabled": args.sequence_parallel,
        "selective_checkpoint_enabled": args.selective_checkpointing,
        "use_flash_attention": False,  # its kernel sees the whole sequence
        "transpose_nki_inputs": False,
    }


def _check_names(parameters: Mapping[str, torch.nn.Parameter], adapter: Adapter) -> None:
    """BadInput unless the model has just the adapter's parameters; q, k and v always come together."""
    expected = adapter.tensors()
    beside = {f"{module}.lora_B.weight_{part}" for module in adapter.modules() if "qkv" in module for part in "qkv"}
    for name in sorted(expected.keys() ^ parameters.keys()):
        if name not in beside or name not in parameters:
            raise BadInput(f"--model-code: the parameter {name} is in the adapter or the model, but not in both")
    for name, tensor in expected.items():
        if tensor.shape != parameters[name].shape:
            shape = list(parameters[name].shape)
            raise BadInput(f"--model-code: the model's {name} has shape {shape}, expected {list(tensor.shape)}")


def _keep_untargeted(parameters: list[Trained], adapter: Adapter) -> None:
    """Keep at zero what no target names."""
    rows = dict(_targeted_rows(adapter))
    for one in parameters:
        kept = rows.get(one.name)
        if kept is not None and not kept.all():
            mask = kept.to(one.parameter.device, one.parameter.dtype)[:, None]
            one.parameter.register_hook(lambda gradient, mask=mask: gradient * mask)


def _targeted_rows(adapter: Adapter) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, which rows have a target) of every lora_B."""
    for module, lora in adapter.modules().items():
        for parameter in {PROJECTIONS[name].parameter for name in lora.widths}:
            sharing = [name for name in lora.widths if PROJECTIONS[name].parameter == parameter]
            rows = [torch.full((lora.widths[name],), name in lora.parts) for name in sharing]
            yield f"{module}.lora_B.{parameter}", torch.cat(rows)
