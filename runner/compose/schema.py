"""The keys of a recipe, each with its type, range, default and one line of help.

`runner.compose.validate` reads the field metadata that `key` writes. The help of a key that defaults to None says how
the value is derived, if it is.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from runner.metrics import RANKING

BACKENDS = ("torch", "nxd", "optimum")
FAMILIES = ("cpu", "trn1", "trn2", "trn3", "inf2")
LAYOUTS = ("trn1", "trn2")
NXD_RELEASES = ("2.26", "2.27", "2.28", "2.29")  # those that fetch_nxd_model.py knows
DATA_SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow")  # of a local data set
ROW_FORMATS = ("messages", "conversations", "prompt_completion", "alpaca", "dolly", "question_answer", "text")
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def key(
    help: str,
    default: Any,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[str, ...] | None = None,
) -> Any:
    """A dataclass field with its help and its valid values, bounds included; `minimum` is a list's least length."""
    metadata = {"help": help, "minimum": minimum, "maximum": maximum, "choices": choices}
    if isinstance(default, list | dict):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def section(kind: type, help: str) -> Any:
    """A dataclass field that holds another section of the recipe."""
    return field(default_factory=kind, metadata={"help": help})


@dataclass
class Hardware:
    name: str = key("the instance type, or cpu", "cpu")
    device: str = key("what the trainer and the server compute on", "cpu", choices=("cpu", "neuron"))
    layout: str = key("order of heads in tensor-parallel shards", "trn2", choices=LAYOUTS)
    lnc: int | None = key(
        "Logical NeuronCore configuration: physical NeuronCores per logical one; sets cores and core_memory_gb", None,
        minimum=1, maximum=2,
    )  # fmt: skip
    lnc_supported: list[int] = key("values of lnc that the chips support; empty = they have no such setting", [])
    cores: int | None = key("NeuronCores (logical) of one machine; none on a CPU", None, minimum=1)
    devices: int | None = key("Neuron devices (chips) of one machine, which share its cores", None, minimum=1)
    core_tflops: float | None = key("peak of one NeuronCore in bf16, dense, TFLOPS", None, minimum=1)
    core_memory_gb: float | None = key("HBM of one NeuronCore, GiB", None, minimum=1)
    host_memory_gb: float | None = key("memory of the host, GiB", None, minimum=1)
    disk_gb: float | None = key("local NVMe disks together, GB", None, minimum=1)
    processes: list[int] = key("how many processes the Neuron runtime starts together; empty = any number", [])
    efa: int | None = key("Elastic Fabric Adapters, for several machines", None, minimum=0)
    price_per_hour: float | None = key("price of one machine, US dollars an hour", None, minimum=0)
    price_kind: str = key("how it is bought", "on demand", choices=("on demand", "spot", "Capacity Block"))
    price_region: str | None = key("AWS region of the price", None)
    price_date: str | None = key("day of the price, year-month-day", None)


@dataclass
class Sdk:
    name: str = key("the Neuron SDK release, or cpu", "cpu")
    train_python: str | None = key("Python that runs the stage programs; default: the one that runs the runner", None)
    train_packages: list[str] = key("packages that train_python must have, as pip requirements", [])
    train_packages_expected: list[str] = key(
        "packages on which AWS's documents disagree: another version in train_python is a warning", []
    )
    trains: list[str] = key("trainers that it includes", ["torch"], choices=BACKENDS)
    trains_on: list[str] = key("hardware that it supports for training", ["cpu"], choices=FAMILIES)
    serve_python: str | None = key(
        "Python with vLLM; default: train_python, or the one of `make setup-vllm` on a CPU", None
    )
    serve_packages: list[str] = key("packages that serve_python must have, as pip requirements", [])
    serves_on: list[str] = key("hardware that vLLM serves on", ["cpu"], choices=FAMILIES)
    vllm: str = key(
        "generation of vLLM: on a CPU; AWS's fork (0.9); the plugin over NxD Inference (0.11 to 0.16); the native "
        "plugin (0.21 and newer)", "cpu", choices=("cpu", "fork", "nxdi", "native")
    )  # fmt: skip
    vllm_install: str | None = key("how to install vLLM in serve_python if no AMI includes it", None)
    vllm_lora: bool = key("whether its vLLM serves LoRA adapters; if not, the merged model is served", True)
    vllm_base: bool = key("whether its vLLM serves the base model next to adapters", True)
    images: dict[str, str] = key("Dockerfiles for this release, by what they contain: torch, nxd, optimum, vllm", {})
    async_exec: int | None = key(
        "NEURON_RT_ASYNC_EXEC_MAX_INFLIGHT_REQUESTS for training; null if the runtime ignores it", None, minimum=0
    )


@dataclass
class Architecture:
    hidden_size: int = key("width of the model", 0, minimum=1)
    intermediate_size: int = key("width of the MLP", 0, minimum=1)
    num_hidden_layers: int = key("decoder layers", 0, minimum=1)
    num_attention_heads: int = key("query heads", 0, minimum=1)
    num_key_value_heads: int = key("key/value heads", 0, minimum=1)
    vocab_size: int = key("rows of the embedding", 0, minimum=1)
    max_position_embeddings: int = key("longest sequence that the model supports", 0, minimum=1)
    model_type: str = key("model family, as in config.json", "llama")
    head_dim: int | None = key("width of a head; default: hidden_size / num_attention_heads", None, minimum=1)

    @property
    def head_width(self) -> int:
        """Elements of a query, key or value head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads


@dataclass
class Model:
    name: str = key("name of the model in reports", "model")
    source: str = key("where the weights come from", "folder", choices=("folder", "hub", "gguf"))
    path: str = key(
        "a folder, a hub id, or a GGUF file (package:NAME/FILE for one inside a Python package); target:/PATH for what "
        "already lies on the target, s3://BUCKET/PATH for what is on S3", "",
    )  # fmt: skip
    revision: str | None = key("commit, tag or branch of a hub model", None)
    tokenizer: str | None = key("hub id or folder of another model, for its tokenizer and chat template", None)
    tokenizer_revision: str | None = key("commit, tag or branch of a tokenizer on the hub", None)
    dtype: str = key("dtype that a GGUF file is expanded to", "bf16", choices=("fp32", "bf16"))
    architecture: Architecture | None = key("shapes, if they cannot be read from path/config.json", None)


@dataclass
class Parallel:
    tp_size: int = key("tensor-parallel size: the model is sharded over this many ranks", 1, minimum=1, maximum=1024)
    kv_size_multiplier: int | None = key("copies of each K/V head; default: as few as tp_size needs", None, minimum=1)
    dp_size: int = key(
        "data-parallel size: copies of the model on one machine, which share the batch", 1, minimum=1, maximum=1024
    )
    nodes: int = key(
        "machines that train together, each with dp_size copies; with train=torch_lora, they share one copy", 1,
        minimum=1, maximum=1024,
    )  # fmt: skip


@dataclass
class Template:
    sections: list[str] = key(
        "parts of the prompt with {column} placeholders; a part is left out if its columns are empty", []
    )
    separator: str = key("text between the sections", "\n\n")
    response: str = key("the answer to learn, with {column} placeholders", "")
    system: str | None = key("the system message of a chat", None)
    chat: bool | None = key(
        "write rows with the model's chat template; default: if dataset.format is used and the model has one", None
    )
    turns: list[str] = key("columns that hold the turns of a conversation, instead of sections and response", [])
    tools: str | None = key("column that holds the tools of a conversation", None)
    history: str | None = key("of a chat, column of earlier questions and answers, [[question, answer], ...]", None)


@dataclass
class Dataset:
    name: str = key("name of the data set in reports", "dataset")
    source: str = key("where the rows come from", "files", choices=("files", "hub"))
    path: str | list[str] = key(
        "a file of rows (JSONL, JSON, CSV, TSV, Parquet; text also as .gz or .zst), a folder or pattern of such files, "
        "a folder by save_to_disk, or a hub id; target:/PATH for files on the target, s3://BUCKET/PATH for those on "
        "S3; or a list of them, to mix", "",
    )  # fmt: skip
    weights: list[float] = key(
        "share of each path of a list in the rows to train on and to hold out, such as [3,1]; default: all rows of all",
        [],
    )
    revision: str | None = key("commit, tag or branch of a hub data set", None)
    split: str = key("split of a hub data set", "train")
    config: str | None = key("configuration (subset) of a hub data set that has several: the folder of its files", None)
    eval_path: str | None = key("held-out rows, as path; default: eval_rows rows of path", None)
    eval_rows: int = key("rows to hold out if there is no eval_path", 200, minimum=1)
    train_rows: int = key("rows to train on; 0 = all", 0, minimum=0)
    where: dict[str, str] = key("keep only the rows with these values, column: value", {})
    format: str | None = key(
        "format of the rows, instead of a template; default: the template, or if there is none, recognized by the "
        "columns", None, choices=ROW_FORMATS,
    )  # fmt: skip
    template: Template = section(Template, "the prompt template for training, evaluation and serving")
    seq_len: int = key("length of a training sequence in tokens", 1024, minimum=8, maximum=131072)
    long: str = key(
        "examples of more tokens: drop; truncate, if an answer begins before; split, which is for plain text", "drop",
        choices=("drop", "truncate", "split"),
    )  # fmt: skip
    pack: bool = key("pack several examples into one sequence", True)
    loss_on: str = key(
        "tokens that contribute to the loss: the response (every answer of a conversation), its last answer, or all",
        "response",
        choices=("response", "last", "all"),
    )
    seed: int = key("seed of the shuffle and the split", 42, minimum=0)

    @property
    def paths(self) -> list[str]:
        """The one path, or those of a mixture."""
        return [self.path] if isinstance(self.path, str) else self.path


@dataclass
class Lora:
    rank: int = key("rank of the update; a higher rank learns more and needs more memory", 16, minimum=1, maximum=1024)
    alpha: float = key("scale of the update: alpha / rank, with rslora alpha / sqrt(rank)", 32.0, minimum=1e-6)
    dropout: float = key("dropout before lora_A", 0.0, minimum=0.0, maximum=0.99)
    rslora: bool = key("rank-stabilized scaling", False)
    targets: list[str] = key("linear layers that get an adapter", list(LORA_TARGETS), choices=LORA_TARGETS, minimum=1)


@dataclass
class Nxd:
    release: str | None = key(
        "Neuron SDK whose modeling code to use; default: that of sdk.name", None, choices=NXD_RELEASES
    )
    source: str | None = key("a checkout of neuronx-distributed with that code; default: download it", None)
    compile: bool = key("compile ahead of time, in parallel; otherwise during training", True)
    compiler_flags: str = key("flags of neuronx-cc", "--model-type=transformer -O1 --auto-cast=none")
    sequence_parallel: bool = key("shard the activations between layers over the ranks", True)
    selective_checkpointing: bool = key(
        "recompute attention only: saves memory, costs little time; gradient_checkpointing saves more", True
    )
    zero1: bool = key("shard the optimizer's state over the copies of the model", False)
    stochastic_rounding: bool = key("round to bfloat16 stochastically; without it, LoRA weights are fp32", False)


@dataclass
class Train:
    backend: str = key("the trainer", "torch", choices=BACKENDS)
    epochs: int = key("passes over the data", 1, minimum=1)
    max_steps: int = key("number of optimizer steps; 0 = given by epochs", 0, minimum=0)
    batch_size: int = key("sequences per micro-step and copy of the model", 8, minimum=1)
    accumulate: int = key("micro-steps per optimizer step", 1, minimum=1)
    learning_rate: float = key("peak learning rate", 2e-4, minimum=0.0, maximum=10.0)
    warmup_ratio: float = key("fraction of the steps used for warm-up", 0.05, minimum=0.0, maximum=1.0)
    schedule: str = key("learning rate after warm-up", "cosine", choices=("linear", "cosine", "constant"))
    weight_decay: float = key("AdamW weight decay", 0.0, minimum=0.0)
    max_grad_norm: float = key("gradients are clipped to this norm; 0 = no clipping", 1.0, minimum=0.0)
    dtype: str = key("dtype of weights and activations; LoRA weights stay fp32", "bf16", choices=("fp32", "bf16"))
    gradient_checkpointing: bool = key("recompute activations: less memory, about 16 % more time", False)
    compile_cache: str | None = key(
        "folder or s3:// address for the compiled programs of nxd, optimum and NxD Inference; default: in the store",
        None,
    )
    eval_every: int = key("optimizer steps between evaluations; 0 = only before and after training", 0, minimum=0)
    keep: str = key("which adapter to export; best: that of the lowest held-out loss", "last", choices=("last", "best"))
    early_stopping_patience: int = key("stop after this many evaluations without gain; 0 = never", 0, minimum=0)
    early_stopping_threshold: float = key("a gain is a fall of the held-out loss by more than this", 0.0, minimum=0.0)
    checkpoint_every: int = key("optimizer steps between checkpoints; 0 = only when interrupted", 50, minimum=0)
    seed: int = key("seed of LoRA weights, data order and dropout", 42, minimum=0)
    attention: str = key(
        "for optimum. masked: packed examples do not attend to each other; flash: a faster kernel, but they do",
        "masked",
        choices=("masked", "flash"),
    )
    init_adapter: str | None = key(
        "an adapter to continue, for torch and nxd: a PEFT folder (target:/PATH for one on the target, "
        "s3://BUCKET/PATH for one on S3), or a run that exported one; default: a new one",
        None,
    )
    lora: Lora = section(Lora, "the adapter")
    nxd: Nxd = section(Nxd, "settings of the trainer nxd")


@dataclass
class Export:
    merge: bool = key("also write the model with the adapter merged in", False)


@dataclass
class Evaluate:
    enabled: bool = key("evaluate base and adapter on the held-out rows", True)
    examples: int = key("held-out rows to use; 0 = all", 200, minimum=0)
    metrics: list[str] = key("scores to compute", ["exact_match", "rouge_l"], choices=("exact_match", "rouge_l", "sql"))
    sql_schema: str = key("column with CREATE TABLE statements", "context")
    sql_rows: str = key("column with INSERT statements; without it, rows are generated", "rows")
    max_new_tokens: int = key("longest answer in tokens", 128, minimum=1)
    batch_size: int = key("prompts generated at once", 32, minimum=1)
    dtype: str = key("dtype of the model", "fp32", choices=("fp32", "bf16"))


@dataclass
class Serve:
    engine: str = key("server to use", "embedded", choices=("embedded", "vllm", "none"))
    mode: str = key(
        "smoke: start, query, compare, stop; foreground: serve until Ctrl-C", "smoke", choices=("smoke", "foreground")
    )
    host: str = key("address to listen on", "127.0.0.1")
    port: int | None = key(
        "port; default: derived from the adapter, so that parallel runs use different ones",
        None,
        minimum=1,
        maximum=65535,
    )
    base_name: str = key("model name of the base model in requests", "base")
    adapter_name: str = key("model name of the adapter in requests", "adapter")
    dtype: str | None = key("dtype of the model; default: fp32, or bf16 on Neuron", None, choices=("fp32", "bf16"))
    smoke_prompts: int = key("number of prompts in the smoke test", 8, minimum=1)
    min_equal: float | None = key(
        "fraction of answers that must equal the evaluation's; default: all, or 0.8 where rounding differs (an answer "
        "may then diverge at a token that was nearly a tie in the evaluation)", None,
        minimum=0.0, maximum=1.0,
    )  # fmt: skip
    timeout: float = key("seconds to wait for the server to start", 300.0, minimum=1)
    tp_size: int | None = key("tensor-parallel size of the server; default: parallel.tp_size", None, minimum=1)
    cores: str | None = key("NeuronCores to serve on, such as 0-31; default: the first tp_size", None)
    max_model_len: int | None = key(
        "tokens of prompt and answer; default: the model's limit, or twice dataset.seq_len on Neuron", None, minimum=8
    )
    max_num_seqs: int | None = key(
        "answers generated at the same time; default: the engine's, or 4 on Neuron", None, minimum=1
    )
    spare_adapters: int = key("additional adapters that can be loaded while the server runs", 0, minimum=0)
    neuron_config: dict[str, Any] = key("options of the vLLM generation, with their upstream names", {})
    image: str | None = key("Docker image to serve in", None)


@dataclass
class Slurm:
    partition: str | None = key("partition of the jobs", None)
    account: str | None = key("account to charge the jobs to", None)
    time: str | None = key("time limit of a job, as for sbatch; a run that needs longer is requeued", None)
    gres: str | None = key("the cluster's name for NeuronCores as a generic resource; default: whole nodes", None)
    at_once: int | None = key("trials of a sweep to run at once; default: as many as fit", None, minimum=1)
    options: dict[str, str] = key("other sbatch options by their long names; true for flags", {})
    stages: dict[str, dict[str, str]] = key("sbatch options for a stage, which becomes a separate job", {})


@dataclass
class Ray:
    address: str = key("the dashboard of the cluster's head, as target.host sees it", "http://127.0.0.1:8265")
    cpus: float = key("CPUs of one run", 1, minimum=0)
    resources: dict[str, str] = key("other resources of one run; neuron_cores are added automatically", {})


@dataclass
class Kubernetes:
    context: str | None = key("context of the kubeconfig; default: the current one", None)
    namespace: str | None = key("namespace; default: the context's", None)
    image: str | None = key("container image with the packages of the stages", None)
    image_sdk: str | None = key("sdk option that matches the image, such as neuron_2_29: its label sdk", None)
    image_trains: list[str] = key("trainers that the image includes: its label trains", [], choices=BACKENDS)
    serve_image: str | None = key("container image with vLLM; default: serve.image", None)
    access_image: str | None = key("image of the small pod that copies files; it only needs Python", None)
    claim: str | None = key("PersistentVolumeClaim for store, inputs and records, ReadWriteMany", None)
    mount: str = key("where the volume is mounted", "/shared")
    secret: str | None = key("Secret with the hub token; default: created from HF_TOKEN and deleted with the run", None)
    secret_key: str = key("key of the token in the secret", "HF_TOKEN")
    service_account: str | None = key("service account of the pods", None)
    devices: int | None = key("Neuron devices of one machine", None, minimum=1)
    instance_type: str | None = key("instance type of the nodes with devices; null = any", None)
    efa: int | None = key("Elastic Fabric Adapters per machine, requested when several nodes train", None, minimum=0)
    hugepages: str | None = key("hugepages-2Mi to request with EFA, for libfabric's buffers", "5120Mi")
    node_selector: dict[str, str] = key("labels that nodes must have", {})
    tolerations: list[str] = key("taints that pods tolerate, each KEY=VALUE:EFFECT or KEY:EFFECT", [])
    cpu: str | None = key("CPUs that a pod requests, as 16 or 500m; default: one, or one for each Neuron process", None)
    memory: str | None = key("memory that a pod requests, such as 400Gi; default: what the plan needs", None)
    shm: str | None = key("size of /dev/shm, such as 64Gi; default: half of the node's memory", None)
    labels: dict[str, str] = key("labels of the Job, the server's Deployment and their pods", {})
    pod: dict[str, Any] = key(
        "patch of all pods: metadata and spec, merged as `kubectl patch` does; containers: run, server, access", {}
    )
    backoff_limit: int = key("number of retries after a pod was killed", 2, minimum=0)
    ttl_seconds: int = key("seconds to keep the objects of a finished run, for its logs", 86400, minimum=0)


@dataclass
class Target:
    kind: str = key("where the plan runs", "local", choices=("local", "ssh", "slurm", "ray", "kubernetes"))
    host: str | None = key("a host of ~/.ssh/config, or [user@]name[:port], such as [::1]:2222", None)
    folder: str = key(
        "folder on that host, absolute or relative to the home folder; on a cluster, one that all nodes share",
        "trainium-recipes",
    )  # fmt: skip
    python: str = key("Python on that host that runs the executor; it needs no packages", "python3")
    fetch: str = key(
        "what to copy back when a run has ended: results are metrics, logs and samples; auto adds the adapter",
        "results", choices=("results", "auto"),
    )  # fmt: skip
    forward: int | None = key(
        "local port that is forwarded to the server; default: the same port", None, minimum=1, maximum=65535
    )
    busy: str = key("what to do if no NeuronCores are free", "wait", choices=("wait", "refuse"))
    on_end: str | None = key(
        "command that sh runs where the run ended; its environment has RUNNER_RUN, RUNNER_RECIPE, RUNNER_STATE, "
        "RUNNER_REASON", None,
    )  # fmt: skip
    slurm: Slurm = section(Slurm, "target=slurm")
    ray: Ray = section(Ray, "target=ray")
    kubernetes: Kubernetes = section(Kubernetes, "target=kubernetes")


@dataclass
class Tracker:
    kind: str = key(
        "where to send metrics, in addition to the run folder",
        "none",
        choices=("none", "mlflow", "tensorboard", "wandb"),
    )
    uri: str | None = key("MLflow's tracking URI; for tensorboard and wandb, a folder", None)
    project: str = key("the MLflow experiment or wandb project of the runs", "trainium-recipes")


@dataclass
class Sweep:
    objective: str | None = key(
        "the metric that ranks trials; default: the first of these that the recipe measures",
        None,
        choices=tuple(RANKING),
    )
    direction: str | None = key(
        "which direction is better; default: higher scores, lower losses", None, choices=("minimize", "maximize")
    )
    stop_on_failure: bool = key("stop the sweep when a trial fails", False)
    pruner: str = key(
        "end trials whose held-out loss falls behind while training; needs train.eval_every",
        "none",
        choices=("none", "successive_halving"),
    )
    reduction_factor: int = key("of this many trials at a rung, the pruner lets one go on", 3, minimum=2)
    min_resource: int | None = key(
        "optimizer steps before the pruner's first rung; default: train.eval_every", None, minimum=1
    )
    max_cost: float | None = key("start no more trials when they have cost this, US dollars", None, minimum=0)
    max_hours: float | None = key("start no more trials when they have used a machine for these hours", None, minimum=0)


@dataclass
class Paths:
    store: str = key("folder of finished artifacts, shared by all runs", "store")
    remote_store: str | None = key(
        "s3://BUCKET/PREFIX, or a folder that machines share: finished artifacts and checkpoints are copied there, and "
        "from there where the store lacks them", None,
    )  # fmt: skip
    runs: str = key("folder of run records", "runs")


@dataclass
class Recipe:
    name: str = key("name of the recipe in reports; default: its file name", "")
    hardware: Hardware = section(Hardware, "the machine that trains and serves")
    sdk: Sdk = section(Sdk, "the software on that machine")
    model: Model = section(Model, "the base model")
    parallel: Parallel = section(Parallel, "how the model is parallelized")
    dataset: Dataset = section(Dataset, "the rows and their prompt template")
    train: Train = section(Train, "the trainer and its settings")
    export: Export = section(Export, "what to export")
    evaluate: Evaluate = section(Evaluate, "how to evaluate base and adapter")
    serve: Serve = section(Serve, "the server")
    target: Target = section(Target, "where the plan runs")
    tracker: Tracker = section(Tracker, "where to send metrics, in addition to the run folder")
    sweep: Sweep = section(Sweep, "the trials of `-m`")
    paths: Paths = section(Paths, "where artifacts and records are kept")
