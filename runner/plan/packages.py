"""What each stage program imports, with the versions that it works with: the one table of it.

tests/runner/plan/test_packages.py compares it with the imports in scripts/. The bounds are wide, as the programs run in
the environments of several years of Neuron AMIs as well as in that of `make setup`; exact requirements of a trainer
are separate rows. What a Neuron release itself brings (`sdk.train_packages`, `sdk.serve_packages`) is in configs/sdk.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

_PYTHON = "python>=3.10"
_NUMPY = "numpy>=1.26,<3"
_TORCH = "torch>=2.8,<3"
_TOKENIZERS = "tokenizers>=0.21,<1"
_TRANSFORMERS = ("transformers>=4.48,<6", "safetensors>=0.4,<1")
_JINJA = "jinja2>=3.1,<4"
_NXD = "neuronx-distributed>=0.15,<0.20"  # the first and the last release that is known to train with LoRA

# What is only needed for some recipes: the hub, GGUF files, chat templates, Parquet files, shared folders, s3://.
HUB, GGUF, CHAT, PARQUET, FOLDER, S3 = "hub", "gguf", "chat", "parquet", "folder", "s3"
_FOR: Mapping[str, tuple[str, ...]] = {
    HUB: ("huggingface-hub>=0.24,<3",),
    GGUF: ("gguf>=0.17,<0.20",),
    CHAT: (_JINJA,),
    PARQUET: ("pyarrow>=14,<27",),
    FOLDER: ("fsspec>=2023.1,<2028",),
    S3: ("s3fs>=2023.1,<2028",),
}
_ALWAYS: Mapping[str, tuple[str, ...]] = {
    "fetch_nxd_model.py": (),
    "fetch_model.py": (_NUMPY, _TOKENIZERS),
    "tokenize_dataset.py": (_NUMPY, _TOKENIZERS),
    "convert_checkpoint.py": (_NUMPY,),
    "compile_nxd.py": (),
    "train_torch.py": (_NUMPY, _TORCH),
    # modeling_llama_nxd.py of NxD's examples imports what transformers 4.52 no longer has.
    "train_nxd.py": (_NUMPY, _TORCH, _NXD, "torch-neuronx>=2.8,<3", "torch-xla>=2.8,<3", "transformers==4.48.*"),
    # What optimum-neuron 0.4.5 was written for; scripts/common/training/optimum/trainer.py calls all of them.
    "train_optimum.py": (
        "python<3.12", _NUMPY, _TORCH, _NXD, "torch-xla>=2.8,<3", "transformers==4.57.*",
        "optimum-neuron==0.4.5", "trl==0.24.*", "peft==0.17.*",
    ),
    "export_adapter.py": (_NUMPY,),
    "remote_store.py": (),
    "download.py": (),
    "evaluate.py": (_NUMPY, _TORCH, *_TRANSFORMERS, _TOKENIZERS),
    "generate.py": (_NUMPY, _TORCH, *_TRANSFORMERS, _TOKENIZERS),
    "smoke_test.py": (),
    "ask_server.py": (),
    "chat_with_server.py": (),
    "stream_answers.py": (),
    "serve_embedded.py": (
        _NUMPY, _TORCH, *_TRANSFORMERS, _TOKENIZERS, _JINJA, "starlette>=0.47,<2", "uvicorn>=0.34,<1",
    ),
    "serve_vllm.py": (_NUMPY, _TOKENIZERS),
}  # fmt: skip


def needed(program: str, uses: Collection[str] = ()) -> tuple[str, ...]:
    """Requirements of a stage program, as pip writes them, for a recipe that `uses` some of what not all do.

    >>> needed("fetch_model.py", ["hub"])
    ('python>=3.10', 'numpy>=1.26,<3', 'tokenizers>=0.21,<1', 'huggingface-hub>=0.24,<3')
    """
    return (_PYTHON, *_ALWAYS[program], *(text for one in uses for text in _FOR[one]))
