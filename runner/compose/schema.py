"""What a recipe may say: every key with its type, range, default and one line of help.

The classes are plain dataclasses; `runner.compose.validate` reads the field metadata that `key` writes.
A key that defaults to None is derived, or not used, as its help says.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from runner.metrics import RANKING

BACKENDS = ("torch", "nxd", "optimum")
FAMILIES = ("cpu", "trn1", "trn2")
NXD_RELEASES = ("2.26", "2.27", "2.28", "2.29")  # those that fetch_nxd_model.py knows
DATA_SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")  # of a local data set
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def key(
    help: str,
    default: Any,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[str, ...] | None = None,
) -> Any:
    """A dataclass field with its help and the values that it takes, bounds included; of a list its least length."""
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
    layout: str = key("order of heads in tensor-parallel shards", "trn2", choices=("trn1", "trn2"))
    cores: int | None = key("NeuronCores (logical) of one machine; none on a CPU", None, minimum=1)
    devices: int | None = key("Neuron devices (chips) of one machine, which share its cores", None, minimum=1)
    core_memory_gb: float | None = key("HBM of one NeuronCore, GiB", None, minimum=1)
    host_memory_gb: float | None = key("memory of the host, GiB", None, minimum=1)
    disk_gb: float | None = key("local NVMe disks together, GB", None, minimum=1)
    processes: list[int] = key("how many processes the Neuron runtime starts together; empty = any number", [])
    efa: int | None = key("Elastic Fabric Adapters, for several machines", None, minimum=0)
    price_per_hour: float | None = key("price of one machine, US dollars an hour, on demand", None, minimum=0)
    price_region: str | None = key("AWS region of the price", None)
    price_date: str | None = key("day of the price, year-month-day", None)


@dataclass
class Sdk:
    name: str = key("the Neuron SDK release, or cpu", "cpu")
    train_python: str | None = key("Python that runs the stage programs; default: the one that runs the runner", None)
    train_packages: list[str] = key("what train_python must hold, as pip requirements", [])
    train_packages_expected: list[str] = key(
        "what AWS's pages do not agree about: another version in train_python is a warning", []
    )
    trains: list[str] = key("training back ends that it has", ["torch"], choices=BACKENDS)
    trains_on: list[str] = key("hardware that it trains on", ["cpu"], choices=FAMILIES)
    serve_python: str | None = key("Python that has vLLM; default: train_python, on a CPU `make setup-vllm`'s", None)
    serve_packages: list[str] = key("what serve_python must hold, as pip requirements", [])
    serves_on: list[str] = key("hardware that vLLM serves on", ["cpu"], choices=FAMILIES)
    vllm: str = key(
        "generation of vLLM: on a CPU; AWS's fork (0.9); the plugin over NxD Inference (0.11 to 0.16); the native "
        "plugin (0.21 and newer)", "cpu", choices=("cpu", "fork", "nxdi", "native")
    )  # fmt: skip
    vllm_install: str | None = key("how vLLM gets into serve_python, where no AMI has it", None)
    vllm_lora: bool = key("that vLLM serves LoRA adapters; otherwise the merged model is served", True)
    vllm_base: bool = key("that vLLM answers for the base model beside adapters", True)
    images: dict[str, str] = key("Dockerfiles of this release, by what they have: torch, nxd, optimum, vllm", {})
    async_exec: int | None = key(
        "NEURON_RT_ASYNC_EXEC_MAX_INFLIGHT_REQUESTS of a training; none where the runtime ignores it", None, minimum=0
    )


@dataclass
class Architecture:
    hidden_size: int = key("width of the model", 0, minimum=1)
    intermediate_size: int = key("width of the MLP", 0, minimum=1)
    num_hidden_layers: int = key("decoder layers", 0, minimum=1)
    num_attention_heads: int = key("query heads", 0, minimum=1)
    num_key_value_heads: int = key("key/value heads", 0, minimum=1)
    vocab_size: int = key("rows of the embedding", 0, minimum=1)
    max_position_embeddings: int = key("longest sequence the model was made for", 0, minimum=1)


@dataclass
class Model:
    name: str = key("how the model is called in reports", "model")
    source: str = key("where the weights come from", "folder", choices=("folder", "hub", "gguf"))
    path: str = key("a folder, a hub id, or a GGUF file (package:NAME/FILE for one inside a Python package)", "")
    revision: str | None = key("commit, tag or branch of a hub model", None)
    tokenizer: str | None = key("hub id or folder of another model, for its tokenizer and chat template", None)
    tokenizer_revision: str | None = key("commit, tag or branch of a tokenizer on the hub", None)
    dtype: str = key("dtype that a GGUF file is expanded to", "bf16", choices=("fp32", "bf16"))
    architecture: Architecture | None = key("shapes, where they can't be read from path/config.json", None)


@dataclass
class Parallel:
    tp_size: int = key("tensor-parallel size: the model is cut over this many ranks", 1, minimum=1, maximum=1024)
    kv_size_multiplier: int | None = key("copies of each K/V head; default: as few as tp_size needs", None, minimum=1)
    dp_size: int = key("copies of the model on one machine, which share a step's batch", 1, minimum=1, maximum=1024)
    nodes: int = key(
        "machines that train together, each with dp_size copies; with train=torch_lora they share one copy", 1,
        minimum=1, maximum=1024,
    )  # fmt: skip


@dataclass
class Template:
    sections: list[str] = key(
        "parts of the prompt, {column} is filled in; one whose columns are empty is left out", [], minimum=1
    )
    separator: str = key("what stands between the sections", "\n\n")
    response: str = key("the answer that is learnt", "{response}")
    system: str | None = key("the system message of a chat", None)
    chat: bool = key("wrap the prompt in the tokenizer's chat template", False)


@dataclass
class Dataset:
    name: str = key("how the data set is called in reports", "dataset")
    source: str = key("where the rows come from", "files", choices=("files", "hub"))
    path: str = key("a JSONL, JSON, CSV or Parquet file, or a hub id", "")
    revision: str | None = key("commit, tag or branch of a hub data set", None)
    split: str = key("split of a hub data set", "train")
    eval_path: str | None = key("a file of held-out rows; default: eval_rows are taken from path", None)
    eval_rows: int = key("rows held out when there is no eval_path", 200, minimum=1)
    train_rows: int = key("rows to train on; 0 = all", 0, minimum=0)
    where: dict[str, str] = key("keep only the rows with these values, column: value", {})
    template: Template = section(Template, "the one prompt template of training, evaluation and serving")
    seq_len: int = key("length of a training sequence, tokens", 1024, minimum=8, maximum=131072)
    pack: bool = key("put several examples into one sequence", True)
    loss_on: str = key("tokens that are learnt", "response", choices=("response", "all"))
    seed: int = key("seed of shuffle and split", 42, minimum=0)


@dataclass
class Lora:
    rank: int = key("rank of the update; higher learns more and costs memory", 16, minimum=1, maximum=1024)
    alpha: float = key("scale of the update: alpha / rank, with rslora alpha / sqrt(rank)", 32.0, minimum=1e-6)
    dropout: float = key("dropout before lora_A", 0.0, minimum=0.0, maximum=0.99)
    rslora: bool = key("rank-stabilised scale", False)
    targets: list[str] = key("linear layers that get an adapter", list(LORA_TARGETS), choices=LORA_TARGETS, minimum=1)


@dataclass
class Nxd:
    release: str | None = key(
        "Neuron SDK whose modelling code is trained; default: that of sdk.name", None, choices=NXD_RELEASES
    )
    source: str | None = key("a checkout of neuronx-distributed with that code; default: download it", None)
    compile: bool = key("compile ahead, in parallel; else training compiles as it goes", True)
    compiler_flags: str = key("flags of neuronx-cc", "--model-type=transformer -O1 --auto-cast=none")
    sequence_parallel: bool = key("cut activations between the layers over the ranks", True)
    selective_checkpointing: bool = key(
        "recompute attention alone: less memory, little time; gradient_checkpointing does more", True
    )
    zero1: bool = key("cut the optimizer's state over the copies of the model", False)
    stochastic_rounding: bool = key("round to bfloat16 up or down by chance; LoRA weights are fp32 without it", False)


@dataclass
class Train:
    backend: str = key("the trainer", "torch", choices=BACKENDS)
    epochs: int = key("passes over the data", 1, minimum=1)
    max_steps: int = key("stop after so many optimizer steps; 0 = epochs decide", 0, minimum=0)
    batch_size: int = key("sequences a micro-step of one copy of the model", 8, minimum=1)
    accumulate: int = key("micro-steps an optimizer step", 1, minimum=1)
    learning_rate: float = key("peak learning rate", 2e-4, minimum=0.0, maximum=10.0)
    warmup_ratio: float = key("share of the steps that warm up", 0.05, minimum=0.0, maximum=1.0)
    schedule: str = key("learning rate after warm-up", "cosine", choices=("linear", "cosine", "constant"))
    weight_decay: float = key("AdamW weight decay", 0.0, minimum=0.0)
    max_grad_norm: float = key("gradients are clipped to this norm; 0 = never", 1.0, minimum=0.0)
    dtype: str = key("dtype of weights and activations; LoRA weights stay fp32", "bf16", choices=("fp32", "bf16"))
    gradient_checkpointing: bool = key("recompute activations: less memory, about 16 % more time", False)
    compile_cache: str | None = key(
        "folder or s3:// address of what nxd and optimum compile, and NxD Inference; default: in the store", None
    )
    checkpoint_every: int = key("optimizer steps between checkpoints; 0 = none", 50, minimum=0)
    seed: int = key("seed of LoRA weights, data order and dropout", 42, minimum=0)
    attention: str = key(
        "of optimum; masked: packed examples do not see each other; flash: the faster kernel, and they do",
        "masked",
        choices=("masked", "flash"),
    )
    lora: Lora = section(Lora, "the adapter")
    nxd: Nxd = section(Nxd, "what only the trainer nxd has")


@dataclass
class Export:
    merge: bool = key("also write the model with the adapter merged in", False)


@dataclass
class Evaluate:
    enabled: bool = key("measure base and adapter on the held-out rows", True)
    examples: int = key("held-out rows to use; 0 = all", 200, minimum=0)
    metrics: list[str] = key("scores", ["exact_match", "rouge_l"], choices=("exact_match", "rouge_l", "sql"))
    sql_schema: str = key("column that holds CREATE TABLE statements", "context")
    sql_rows: str = key("column that holds INSERT statements; rows are invented where it is absent", "rows")
    max_new_tokens: int = key("longest answer, tokens", 128, minimum=1)
    batch_size: int = key("prompts generated at once", 32, minimum=1)
    dtype: str = key("dtype of the model", "fp32", choices=("fp32", "bf16"))


@dataclass
class Serve:
    engine: str = key("what serves the model; none = nothing", "embedded", choices=("embedded", "vllm", "none"))
    mode: str = key(
        "smoke: start, ask, compare, stop; foreground: serve until Ctrl-C", "smoke", choices=("smoke", "foreground")
    )
    host: str = key("address to listen on", "127.0.0.1")
    port: int | None = key(
        "port; default: derived from the adapter, so that runs side by side differ", None, minimum=1, maximum=65535
    )
    base_name: str = key("name that asks the base model", "base")
    adapter_name: str = key("name that asks the adapter", "adapter")
    dtype: str | None = key("dtype of the model; default: fp32, on Neuron bf16", None, choices=("fp32", "bf16"))
    smoke_prompts: int = key("prompts that the smoke test asks", 8, minimum=1)
    min_equal: float | None = key(
        "share of answers that must be the evaluation's; default: all, 0.8 where rounding differs (there an answer may "
        "go on differently from a token on which the evaluation was nearly undecided)", None,
        minimum=0.0, maximum=1.0,
    )  # fmt: skip
    timeout: float = key("seconds that the server may take to start", 300.0, minimum=1)
    tp_size: int | None = key("NeuronCores that share the served model; default: parallel.tp_size", None, minimum=1)
    cores: str | None = key("NeuronCores to serve on, as 0-31; default: the first tp_size", None)
    max_model_len: int | None = key(
        "tokens of prompt and answer; default: the model's, on Neuron twice dataset.seq_len", None, minimum=8
    )
    max_num_seqs: int | None = key("answers generated together; default: the engine's, on Neuron 4", None, minimum=1)
    spare_adapters: int = key("adapters that may be loaded while the server runs", 0, minimum=0)
    neuron_config: dict[str, Any] = key("options of the generation's own, by upstream's names", {})
    image: str | None = key("Docker image to serve in", None)


@dataclass
class Slurm:
    partition: str | None = key("partition of the jobs", None)
    account: str | None = key("account that the jobs are charged to", None)
    time: str | None = key("time limit of a job, as sbatch takes it; a run that needs longer is requeued", None)
    gres: str | None = key("how the cluster calls NeuronCores as a generic resource; default: whole nodes", None)
    at_once: int | None = key("trials of a sweep that run at once; default: as many as fit", None, minimum=1)
    options: dict[str, str] = key("other options of sbatch by their long names; true for one without a value", {})
    stages: dict[str, dict[str, str]] = key("options of sbatch for one stage, which then is a job of its own", {})


@dataclass
class Ray:
    address: str = key("the dashboard of the cluster's head, as target.host sees it", "http://127.0.0.1:8265")
    cpus: float = key("CPUs of one run", 1, minimum=0)
    resources: dict[str, str] = key("other resources of one run; neuron_cores are counted by themselves", {})


@dataclass
class Kubernetes:
    context: str | None = key("context of the kubeconfig; default: the current one", None)
    namespace: str | None = key("namespace; default: the context's", None)
    image: str | None = key("container image with the environment of the stages", None)
    image_sdk: str | None = key("sdk= option whose software image has, such as neuron_2_29: its label sdk", None)
    image_trains: list[str] = key("training back ends that image has: its label trains", [], choices=BACKENDS)
    serve_image: str | None = key("container image with vLLM; default: serve.image", None)
    access_image: str | None = key("image of the small pod that brings files; Python is all it needs", None)
    claim: str | None = key("PersistentVolumeClaim for store, inputs and records, ReadWriteMany", None)
    mount: str = key("where the volume is mounted", "/shared")
    secret: str | None = key("Secret with the hub token; default: one is made of HF_TOKEN and goes with the run", None)
    secret_key: str = key("the key in it that holds the token", "HF_TOKEN")
    service_account: str | None = key("service account of the pods", None)
    devices: int | None = key("Neuron devices of one machine", None, minimum=1)
    instance_type: str | None = key("type of the nodes that have them; null = any", None)
    efa: int | None = key("Elastic Fabric Adapters of one machine, asked for by several", None, minimum=0)
    hugepages: str | None = key("hugepages-2Mi that a pod with EFA asks for; libfabric's buffers", "5120Mi")
    node_selector: dict[str, str] = key("labels that nodes must have", {})
    tolerations: list[str] = key("taints that pods tolerate, each KEY=VALUE:EFFECT or KEY:EFFECT", [])
    cpu: str | None = key("processors that a pod asks for, such as 16 or 500m", None)
    memory: str | None = key("memory that a pod asks for, such as 400Gi", None)
    shm: str | None = key("size of /dev/shm, such as 64Gi; default: half of the node's memory", None)
    backoff_limit: int = key("how many more pods are tried after one was killed", 2, minimum=0)
    ttl_seconds: int = key("how long an ended run's objects stay, for its logs", 86400, minimum=0)


@dataclass
class Target:
    kind: str = key("where the plan runs", "local", choices=("local", "ssh", "slurm", "ray", "kubernetes"))
    host: str | None = key("a host of ~/.ssh/config, or [user@]name[:port]", None)
    folder: str = key(
        "folder on that host, absolute or from the home folder; of a cluster one that all its nodes see",
        "trainium-recipes",
    )  # fmt: skip
    python: str = key("Python on that host that runs the executor; it needs no packages", "python3")
    fetch: str = key(
        "what comes back when a run has ended: results are figures, logs and samples; auto also the adapter",
        "results", choices=("results", "auto"),
    )  # fmt: skip
    forward: int | None = key(
        "port of this machine that leads to a server there; default: the server's own", None, minimum=1, maximum=65535
    )
    busy: str = key("what a run does that finds no free NeuronCores", "wait", choices=("wait", "refuse"))
    slurm: Slurm = section(Slurm, "target=slurm")
    ray: Ray = section(Ray, "target=ray")
    kubernetes: Kubernetes = section(Kubernetes, "the objects that target=kubernetes makes")


@dataclass
class Tracker:
    kind: str = key(
        "where metrics go besides the run folder", "none", choices=("none", "mlflow", "tensorboard", "wandb")
    )
    uri: str | None = key("MLflow's tracking URI; for tensorboard and wandb, a folder", None)
    project: str = key("what the runs are grouped under: an MLflow experiment, a wandb project", "trainium-recipes")


@dataclass
class Sweep:
    objective: str | None = key(
        "what trials are ranked by; default: the first of these that the recipe measures", None, choices=tuple(RANKING)
    )
    direction: str | None = key(
        "which way is better; default: more of a share, less of a loss", None, choices=("minimize", "maximize")
    )
    stop_on_failure: bool = key("end the sweep when a trial fails; otherwise the rest go on", False)


@dataclass
class Paths:
    store: str = key("folder of finished artifacts, shared by all runs", "store")
    runs: str = key("folder of run records", "runs")


@dataclass
class Recipe:
    name: str = key("how the recipe is called in reports; default: its file name", "")
    hardware: Hardware = section(Hardware, "the machine that trains and serves")
    sdk: Sdk = section(Sdk, "the software on that machine")
    model: Model = section(Model, "the base model")
    parallel: Parallel = section(Parallel, "how the model is cut")
    dataset: Dataset = section(Dataset, "the rows and their prompt template")
    train: Train = section(Train, "the trainer and its settings")
    export: Export = section(Export, "what is made of the trained adapter")
    evaluate: Evaluate = section(Evaluate, "how base and adapter are measured")
    serve: Serve = section(Serve, "the server")
    target: Target = section(Target, "where the plan runs")
    tracker: Tracker = section(Tracker, "where metrics go besides the run folder")
    sweep: Sweep = section(Sweep, "the trials of `-m`")
    paths: Paths = section(Paths, "where artifacts and records are kept")
