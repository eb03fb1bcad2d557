"""Writes options.json: where each generation of vLLM knows what scripts/common/serving/vllm_options.py renders.

    python tests/data/vllm_options/make.py nxdi="vllm 0.16.0"=unpacked/wheel nxdi="vllm-neuron 0.2.0"=checkout ...

A source is GENERATION=LABEL=FOLDER, * for all generations; its *.py, *.rst and *.md files are searched. Wheels of vllm
come from PyPI (pip download --no-deps), vllm-project/vllm-neuron, aws-neuron/upstreaming-to-vllm (the fork),
aws-neuron/neuronx-distributed-inference and aws-neuron/aws-neuron-sdk (documentation) from GitHub.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common.serving import vllm_options
from common.serving.vllm_options import Settings

HERE = Path(__file__).parent
ADAPTERS = {"one": Path("/one"), "two": Path("/two")}


def every_setting(generation: str) -> Settings:
    """Settings that have everything rendered that can be."""
    adapters = {} if generation == "native" else ADAPTERS
    spare = 1 if generation in ("cpu", "nxdi") else 0
    own = {"own": True} if generation == "native" else {}
    return Settings(
        Path("/model"), adapters, Path("/adapters.json"), spare_adapters=spare, max_model_len=64, max_num_seqs=2,
        neuron_config=own, cores="0", artifacts=Path("/artifacts"),
    )  # fmt: skip


def terms(generation: str) -> set[str]:
    """Every flag, variable and key of JSON that is rendered, but for names that the user gives."""
    settings = every_setting(generation)
    words = vllm_options.command(generation, settings, "base", "127.0.0.1", 8000)
    found = {word for word in words if word.startswith("--")}
    found |= set(vllm_options.environment(generation, settings))
    found |= set(_keys(list(vllm_options.engine_arguments(generation, settings).values())))
    if generation == "nxdi":
        found |= set(vllm_options.adapters_json({}))
    return found - {"own"}


def _keys(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from value
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from _keys(each)


def place(term: str, folder: Path) -> str | None:
    """FILE:LINE where a folder's files define a flag, or mention a variable or key, quoted; else its documentation."""
    if term.startswith("--"):
        flag = term.replace("--no-", "--")  # argparse makes --no-x of --x
        field = flag[2:].replace("-", "_")  # newer versions make the server's flags of the fields of a class
        defined = _search(rf"""["']{flag}["']|^    {field}: """, folder, ("arg_utils.py", "cli_args.py"))
        return defined or _search(rf"[\s`]{flag}[\s`]", folder, ("*.rst", "*.md"))
    return _search(rf"""["'`]{term}["'`]|\b{term}=""", folder, ("*.py", "*.rst", "*.md"))


def _search(pattern: str, folder: Path, names: tuple[str, ...]) -> str | None:
    found = re.compile(pattern)
    for path in sorted(path for name in names for path in folder.rglob(name)):
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), start=1):
            if found.search(f"{line} "):
                return f"{path.relative_to(folder)}:{number}"
    return None


def main(sources: list[str]) -> None:
    found: dict[str, dict[str, dict[str, str]]] = {}
    for generation in vllm_options.GENERATIONS:
        found[generation] = {term: {} for term in sorted(terms(generation))}
        for target, label, folder in (source.split("=", 2) for source in sources):
            for term in found[generation] if target in ("*", generation) else ():
                where = place(term, Path(folder))
                if where:
                    found[generation][term][label] = where
    (HERE / "options.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
