"""Estimates how much memory and disk a recipe needs, from its shapes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from runner.compose.schema import Architecture, Recipe
from runner.plan.checks import model_config, releases
from runner.plan.trainers import trainer_of

GIB = 2**30
_BYTES = {"fp32": 4, "bf16": 2}
_STORED = 2  # bytes a parameter of a checkpoint on disk: bf16, as Llama is published
COMPILED, COMPILED_SHARE = ("fork", "nxdi"), 1.2  # vLLM generations that keep a compiled model; its relative size
_PROCESS = 0.25 * GIB  # a training of almost no size: 243 MiB in fp32, 265 in bf16 (tests/bench/memory.py)


@dataclass(frozen=True)
class Estimate:
    """Sizes in bytes.

    `weights`, `adapter` (LoRA, its gradient and AdamW's moments) and `activations` are those of one core; `host` and
    `disk` are those of one machine, by stage. Stages run one after the other, and their files stay.
    """

    weights: int
    adapter: int
    activations: int
    host: Mapping[str, int]
    disk: Mapping[str, int]

    @property
    def core(self) -> int:
        """Memory that the training needs on a NeuronCore; on a CPU, in one rank."""
        return self.weights + self.adapter + self.activations

    @property
    def peak_stage(self) -> str:
        """The stage that needs the most host memory."""
        return max(self.host, key=lambda stage: self.host[stage])


def estimate(recipe: Recipe, architecture: Architecture, kv_copies: int) -> Estimate:
    """Estimate what the recipe needs; `kv_copies` is the kv_size_multiplier.

    On a core, with t = tp_size, h = hidden_size, i = intermediate_size, s = seq_len, a = attention heads,
    k = K/V heads x kv_copies, d = head_dim, v = vocab_size, L = layers, r = LoRA rank, n = batch_size x s tokens:

    - weights: (L (2 a d h + 2 k d h + 3 h i) + 2 v h) / t, the norms, and the family's biases and norms of heads; v / t
      is rounded up, and the output layer is stored even if it is tied. An element has 2 or 4 bytes, by train.dtype.
    - adapter: as in NxD, q, k and v share a replicated lora_A (r, h) and shard lora_B over t, and so do gate and up;
      o and down shard lora_A and replicate lora_B (h, r). A parameter has 16 bytes: weight, gradient and two moments
      in fp32.
    - activations kept for the backward pass: 4 h + (2 a d + 2 k d + 4 i) / t + a s / t elements per layer and token:
      input and output of both norms, q, k, v, attention's output, gate, up, silu(gate), their product; and the scores
      of attention; where heads are normalized, q, k, v also before that. This is, for Llama with a frozen base, the
      count of Korthikanti et al. 2022 (Reducing Activation Recomputation in Large Transformer Models, sections 4 and 5)
      for GPT. Their sequence parallelism reduces 4 h to 4 h / t; their selective recomputation keeps neither scores nor
      silu(gate) (it keeps the product, the input of down's lora_A); with checkpointing, a layer keeps h. Dropout keeps
      a mask of the input of each lora_A, 2 h + (a d + i) / t. In addition, the layer being computed needs all of these,
      and as much again for gradients if it is recomputed; and the loss needs logits, their softmax and its gradient (v
      / t). Which of these apply to a trainer: `Trainer.activation_memory`.

    The Neuron runtime, compiled programs and fragmentation are not included: an estimate above a core's memory cannot
    fit, one slightly below it may not fit.
    """
    copies = recipe.parallel.tp_size * recipe.parallel.dp_size
    weights = _weights(recipe, architecture, kv_copies) * _BYTES[recipe.train.dtype]
    trained = _trained(recipe, architecture, kv_copies)
    activations = _activations(recipe, architecture, kv_copies)
    on_core = weights + 16 * trained + activations
    return Estimate(
        weights=weights,
        adapter=16 * trained,
        activations=activations,
        host=_host(recipe, architecture, copies * (on_core if recipe.hardware.device == "cpu" else weights)),
        disk=_disk(recipe, architecture, kv_copies, trained * recipe.parallel.tp_size),
    )


def parameters(architecture: Architecture) -> int:
    """Parameters of the whole model; embedding and output layer count separately, even if tied."""
    return _rank_parameters(architecture, tp_size=1, kv_copies=1)


def _weights(recipe: Recipe, architecture: Architecture, kv_copies: int) -> int:
    return _rank_parameters(architecture, recipe.parallel.tp_size, kv_copies)


def _rank_parameters(a: Architecture, tp_size: int, kv_copies: int) -> int:
    h, family = a.hidden_size, model_config.family(a.model_type)
    rows = _projection_rows(a, kv_copies)
    biases = sum(rows[name.rpartition(".")[2]] for name in family.get("biases", []))
    norms = 2 * h + a.head_width * len(family.get("head_norms", []))
    sharded = 2 * _query_width(a) * h + 2 * _kv_width(a, kv_copies) * h + 3 * h * a.intermediate_size + biases
    return a.num_hidden_layers * (sharded // tp_size + norms) + 2 * vocabulary_rows(a, tp_size) * h + h


def vocabulary_rows(a: Architecture, tp_size: int) -> int:
    """The rows of the embedding, and of the output layer, on each rank, padding included."""
    return -(-a.vocab_size // tp_size)


def _query_width(a: Architecture) -> int:
    return a.head_width * a.num_attention_heads


def _kv_width(a: Architecture, kv_copies: int) -> int:
    return a.head_width * a.num_key_value_heads * kv_copies


def _projection_rows(a: Architecture, kv_copies: int) -> dict[str, int]:
    """The rows of each column-parallel projection, which the ranks share."""
    kv, i = _kv_width(a, kv_copies), a.intermediate_size
    return {"q_proj": _query_width(a), "k_proj": kv, "v_proj": kv, "gate_proj": i, "up_proj": i}


def _trained(recipe: Recipe, a: Architecture, kv_copies: int) -> int:
    """LoRA parameters of one rank."""
    tp_size, h, i = recipe.parallel.tp_size, a.hidden_size, a.intermediate_size
    targets = set(recipe.train.lora.targets)
    rows = sum(width // tp_size for name, width in _projection_rows(a, kv_copies).items() if name in targets)
    rows += h * bool(targets & {"q_proj", "k_proj", "v_proj"}) + h * bool(targets & {"gate_proj", "up_proj"})
    rows += (_query_width(a) // tp_size + h) * ("o_proj" in targets) + (i // tp_size + h) * ("down_proj" in targets)
    return a.num_hidden_layers * recipe.train.lora.rank * rows


def _activations(recipe: Recipe, a: Architecture, kv_copies: int) -> int:
    train, tp_size, width = recipe.train, recipe.parallel.tp_size, _BYTES[recipe.train.dtype]
    kept, tokens = trainer_of(recipe).activation_memory(recipe), train.batch_size * recipe.dataset.seq_len
    between = a.hidden_size // (tp_size if kept.sequence_parallel else 1)
    query_key_value = _query_width(a) + 2 * _kv_width(a, kv_copies)
    linear = query_key_value + _query_width(a) + 3 * a.intermediate_size
    linear += query_key_value if model_config.family(a.model_type).get("head_norms") else 0
    recomputed = a.intermediate_size + int(a.num_attention_heads * recipe.dataset.seq_len * kept.scores)
    masks = 2 * a.hidden_size + (_query_width(a) + a.intermediate_size) // tp_size if train.lora.dropout else 0
    layer = 4 * between + (linear + recomputed) // tp_size + masks
    per_layer = {"": layer, "attention": layer - recomputed // tp_size, "layer": between}[kept.recomputes]
    working = 2 * layer if kept.recomputes else layer
    logits = min(tokens, kept.loss_rows or tokens) * vocabulary_rows(a, tp_size) * (width + 4 + 4)
    return tokens * (a.num_hidden_layers * per_layer + working) * width + logits


# What to try where the host lacks memory for a stage of `_host`.
HOST_ADVICE = {
    "train": "try fewer processes: a smaller parallel.dp_size or parallel.tp_size",
    "evaluate": "try evaluate.dtype=bf16, a smaller evaluate.batch_size, or evaluate=none",
    "serve": "try serve.dtype=bf16, or serve=none",
}


def _host(recipe: Recipe, a: Architecture, training: int) -> dict[str, int]:
    """Memory of the stages that load a whole model; conversion and export load one tensor at a time."""
    processes = recipe.parallel.tp_size * recipe.parallel.dp_size
    needs = {"train": training + int(processes * _PROCESS)}
    evaluate, kv = recipe.evaluate, 2 * a.num_hidden_layers * _kv_width(a, 1)
    if evaluate.enabled:
        cached = evaluate.batch_size * (recipe.dataset.seq_len + evaluate.max_new_tokens) * kv
        needs["evaluate"] = int((parameters(a) + cached) * _BYTES[evaluate.dtype] + _PROCESS)
    if recipe.serve.engine == "embedded":
        needs["serve"] = int(parameters(a) * _BYTES[recipe.serve.dtype or "fp32"] + _PROCESS)
    return needs


def _disk(recipe: Recipe, a: Architecture, kv_copies: int, trained: int) -> dict[str, int]:
    """Files of the stages: the model, its shards, adapters, checkpoints of weights and moments, the served model.

    The Neuron compiler's cache is not included: its size is not known before.
    """
    model = parameters(a) * (_BYTES[recipe.model.dtype] if recipe.model.source == "gguf" else _STORED)
    shards = _weights(recipe, a, kv_copies) * recipe.parallel.tp_size * _STORED
    state = 16 if recipe.train.keep == "best" else 12  # weights and moments, and the best weights
    checkpoints = (2 if recipe.train.checkpoint_every else 1) * state * trained
    merge = recipe.export.merge or releases.merged(recipe)
    keeps_compiled = recipe.serve.engine == "vllm" and recipe.sdk.vllm in COMPILED
    return {
        "fetch": model,
        "convert": shards if trainer_of(recipe).reads_shards else 0,
        "train": 4 * trained + checkpoints,
        "export": 4 * trained + (model if merge else 0),
        "serve": int(model * COMPILED_SHARE) if keeps_compiled else 0,
    }
