"""The Llama of neuronx-distributed's (NxD's) examples with LoRA, on Trainium or under NXD_CPU_MODE. Needs NxD.

The modelling code is fetched by fetch_nxd_model.py. Differences from NxD's own training script:

- the shards are loaded into the base model, strictly by name; NxD's loader ignores unknown names
- attention is masked to stay within a packed example
- without sequence parallelism, gradients are summed over the ranks in the dtype of the weights: with any other dtype,
  NxD discards the sum
- whether a parameter is replicated is derived from its name: moving a LoRA layer to the device creates new
  parameters without the attributes that NxD looks for
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
_CHECKPOINTED = "_checkpoint_wrapped_module."  # torch inserts it in the names of recomputed modules
_LORA = re.compile(r"model\.layers\.\d+\.(?P<module>.+)\.lora_(?P<part>[AB])\.weight(?P<projection>_[qkv])?")


class Segments:
    """The attention mask of the current micro-batch: `masked`, bool (rows, 1, seq_len, seq_len)."""

    masked: torch.Tensor

    def set(self, segments: torch.Tensor) -> None:
        """Set the segment numbers of the micro-batch, (rows, seq_len)."""
        self.masked = masked_positions(segments)[:, None]


@dataclass(frozen=True)
class Trained:
    """A trainable parameter. `share` is this rank's share of its squared norm; over all ranks they sum to 1."""

    name: str
    parameter: torch.nn.Parameter
    share: float


def import_modelling(folder: Path) -> ModuleType:
    """Import the modelling code under the name by which it imports itself."""
    name = "modeling_llama_nxd"
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    assert spec and spec.loader
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    # All weights are loaded from shards; drawing random ones first would take each rank as long as the full model.
    module._init_normal = lambda std, weight: weight  # type: ignore[attr-defined]
    return module


def configure(args: argparse.Namespace, modelling: ModuleType) -> dict[str, Any]:
    """NxD's configuration for the flags of train_nxd.py; also creates NxD's process groups."""
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
        # The adapter and the optimizer state are float32 anyway.
        mixed_precision_config=dict.fromkeys(_MIXED_PRECISION, False),
        lora_config=lora,
        lnc_size=int(get_platform_lnc()),  # determines which ranks can communicate
    )


def build(
    args: argparse.Namespace, modelling: ModuleType, config: dict[str, Any], shard: Path, segments: Segments
) -> Any:
    """NxD's model on the device, with the shard's weights and LoRA layers.

    Raises BadInput unless the shard has exactly the tensors of the modelling code.
    """
    import neuronx_distributed as nxd

    make = partial(_base_model, modelling, args, shard, segments)
    model = nxd.initialize_parallel_model(config, make, include_buffers=True)
    _make_scale_a_tensor(model)
    return model


def trained(model: Any, adapter: Adapter, layout: ShardLayout, sequence_parallel: bool) -> list[Trained]:
    """The LoRA parameters of `model`, marked for the reduction of their gradients.

    With sequence parallelism, a rank only has the gradient of a replicated parameter for its part of the sequence.
    NxD sums the gradients of marked parameters, but does not mark these itself. Untargeted projections of a fused
    module (q, k, v or gate, up) get no gradient.
    """
    parameters = []
    for name, parameter in model.named_parameters():
        place = _LORA.fullmatch(name := name.replace(_CHECKPOINTED, ""))
        if place is None:
            if parameter.requires_grad:
                raise BadInput(f"--model-code: would train {name}, which is not part of the adapter")
            continue
        row_parallel = next(p.axis for p in PROJECTIONS.values() if p.module == place["module"]) == 1
        replicated = row_parallel == (place["part"] == "B")
        parameter.sequence_parallel_enabled = sequence_parallel and replicated
        copies = layout.tp_size if replicated else 1
        if place["projection"] in ("_k", "_v"):
            copies = layout.kv_size_multiplier
        parameters.append(Trained(name, parameter, 1 / copies))
    _check_names({trained.name: trained.parameter for trained in parameters}, adapter)
    _freeze_untargeted_rows(parameters, adapter)
    return parameters


def write(parameters: list[Trained], tensors: Mapping[str, torch.Tensor]) -> None:
    """Copy `tensors` to the parameters of the same names."""
    with torch.no_grad():
        for trained in parameters:
            if trained.name in tensors:
                trained.parameter.data.copy_(tensors[trained.name])


def read(parameters: list[Trained]) -> dict[str, torch.Tensor]:
    """The values of the parameters by name, on the CPU."""
    return {trained.name: trained.parameter.detach().cpu() for trained in parameters}


def _recomputes(args: argparse.Namespace) -> bool:
    return args.selective_checkpointing or args.gradient_checkpointing


def _base_model(modelling: ModuleType, args: argparse.Namespace, shard: Path, segments: Segments) -> torch.nn.Module:
    """The frozen model on the CPU, with the weights of this rank's shard."""
    model = modelling.LlamaForCausalLM(_config(args))
    try:
        model.load_state_dict(torch.load(shard, map_location="cpu", mmap=True, weights_only=True), strict=True)
    except RuntimeError as error:
        raise BadInput(f"--model-code: does not fit {shard}: {' '.join(str(error).split())}") from None
    _sum_gradients_in_weight_dtype(model)
    for layer in model.model.layers:
        layer.self_attn.core_attn = _attention(modelling.CoreAttention, segments)
    if args.gradient_checkpointing:
        # A recomputed layer only gets gradients if its input requires one; the frozen embedding's output does not.
        model.model.embed_tokens.register_forward_hook(lambda module, inputs, output: output.requires_grad_())
    return model


def _make_scale_a_tensor(model: Any) -> None:
    """Make LoRA's scale an input of the compiled programs: as a number, another alpha would need other programs."""
    scale = None
    for module in model.modules():
        if hasattr(module, "lora_A"):
            scale = torch.tensor([module.scaling]).to(module.lora_A.weight.device) if scale is None else scale
            module.scaling = scale


def _sum_gradients_in_weight_dtype(model: Any) -> None:
    """Make column-parallel layers sum the gradient of their input over the ranks in the dtype of the weights.

    NxD (0.15 to 0.18) sums a copy in reduce_dtype, float32 by default, but passes on the unsummed original, so that in
    a bfloat16 model all lower layers get only this rank's part of the gradient. That happens without sequence
    parallelism; with it, and in the layer for q, k and v, NxD passes on the sum, and the more precise float32 is kept.
    """
    from neuronx_distributed.parallel_layers import ColumnParallelLinear

    for module in model.modules():
        if isinstance(module, ColumnParallelLinear) and not module.sequence_parallel_enabled:
            module.reduce_dtype = module.weight.dtype


def _attention(base: type, segments: Segments) -> torch.nn.Module:
    """Attention within each example; a subclass of `base`, so that selective checkpointing recognizes it."""

    class SegmentAttention(base):
        def forward(self, query, key, value):
            scores = query @ key.transpose(2, 3) / math.sqrt(query.shape[-1])
            scores = scores.masked_fill(segments.masked, MASKED_SCORE)
            return functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype) @ value

    return SegmentAttention()


def _config(args: argparse.Namespace) -> Any:
    """The shards' config.json for transformers 4, which NxD's code needs."""
    from transformers import LlamaConfig

    content = model_config.with_old_names(model_config.read(args.shards, trainer="nxd"))
    shape, tp_size = layouts.read_shape(args.shards), layouts.read_layout(args.shards).tp_size
    keys = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "hidden_act")
    keys += ("num_key_value_heads", "max_position_embeddings", "rms_norm_eps", "rope_theta", "rope_scaling")
    settings = {
        "vocab_size": layouts.vocabulary_rows(shape, tp_size) * tp_size,
        "tie_word_embeddings": False,  # the shards contain both
        "use_cache": False,
        "torch_dtype": getattr(torch, DTYPES[args.dtype].torch),
    }
    return LlamaConfig(**{key: content[key] for key in keys if key in content}, **settings, **_nxd_options(args))


def _nxd_options(args: argparse.Namespace) -> dict[str, Any]:
    """NxD's own options, which the modelling code reads from the same configuration."""
    return {
        "qkv_linear": True,
        "fuse_qkv": False,  # not supported by LoRA
        "kv_shared_group_size": layouts.read_layout(args.shards).kv_size_multiplier,
        "sequence_parallel_enabled": args.sequence_parallel,
        "selective_checkpoint_enabled": args.selective_checkpointing,
        "use_flash_attention": False,  # its kernel attends to the whole sequence
        "transpose_nki_inputs": False,
    }


def _check_names(parameters: Mapping[str, torch.nn.Parameter], adapter: Adapter) -> None:
    """Raise BadInput unless the model has exactly the adapter's parameters; it always has q, k and v together."""
    expected = adapter.tensors()
    optional = {f"{module}.lora_B.weight_{part}" for module in adapter.modules() if "qkv" in module for part in "qkv"}
    for name in sorted(expected.keys() ^ parameters.keys()):
        if name not in optional or name not in parameters:
            raise BadInput(f"--model-code: the parameter {name} is only in the adapter or only in the model")
    for name, tensor in expected.items():
        if tensor.shape != parameters[name].shape:
            shape = list(parameters[name].shape)
            raise BadInput(f"--model-code: the model's {name} has shape {shape}, expected {list(tensor.shape)}")


def _freeze_untargeted_rows(parameters: list[Trained], adapter: Adapter) -> None:
    """Zero the gradients of rows that are not targeted, so that they stay zero."""
    targeted = dict(_targeted_rows(adapter))
    for trained in parameters:
        rows = targeted.get(trained.name)
        if rows is not None and not rows.all():
            mask = rows.to(trained.parameter.device, trained.parameter.dtype)[:, None]
            trained.parameter.register_hook(lambda gradient, mask=mask: gradient * mask)


def _targeted_rows(adapter: Adapter) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, bool mask of targeted rows) of every lora_B."""
    for module, lora in adapter.modules().items():
        for parameter in {PROJECTIONS[name].parameter for name in lora.widths}:
            rows = [torch.full((lora.widths[name],), name in lora.parts) for name in lora.sharing(parameter)]
            yield f"{module}.lora_B.{parameter}", torch.cat(rows)
