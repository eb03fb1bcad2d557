"""The table of what stage programs import is true: it is compared with the imports in scripts/, found by parsing them.

What an import asks for is a package that pip installs; the table names it so.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from packaging.requirements import Requirement

from runner.compose.recipe import compose
from runner.execute import requirements
from runner.paths import ROOT
from runner.plan import packages
from runner.plan.build import build
from runner.plan.command import Place

SCRIPTS = ROOT / "scripts"
DISTRIBUTIONS = {"optimum": "optimum-neuron", "tqdm": "huggingface-hub"}  # import → what pip calls it, or brings it
# In functions of modules that a program imports for other functions; vLLM itself runs in a Python of its own.
NOT_REACHED = {
    "serve_vllm.py": {"torch", "transformers", "safetensors"},
    "generate.py": {"vllm", "pyarrow", "jinja2"},
    "ask_server.py": {"pyarrow"},
    "stream_answers.py": {"pyarrow"},
    "evaluate.py": {"jinja2"},
    "fetch_model.py": {"jinja2"},
}
# What is needed without an import: libraries that others ask for, pinned because the program works with those alone.
BESIDE_IMPORTS = {"train_optimum.py": {"trl"}}


def imported(program: Path) -> set[str]:
    """Packages that a program and the modules beside it import, to any depth, anywhere in the code."""
    found, todo, seen = set(), [program], set()
    while todo:
        path = todo.pop()
        if path in seen:
            continue
        seen.add(path)
        for module in modules(path):
            local = SCRIPTS / f"{module.replace('.', '/')}.py"
            if local.is_file():
                todo.append(local)
            elif module.partition(".")[0] not in sys.stdlib_module_names | {"common"}:
                name = module.partition(".")[0]
                found.add(DISTRIBUTIONS.get(name, requirements.canonical(name)))
    return found


@cache
def modules(path: Path) -> tuple[str, ...]:
    return tuple(_modules(ast.parse(path.read_text(encoding="utf-8"))))


def _modules(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))


def in_table(program: str) -> set[str]:
    everything = packages.needed(program, packages._FOR)
    names = {requirements.parsed(text)[0] for text in everything} - {requirements.PYTHON}
    optional = {requirements.parsed(text)[0] for texts in packages._FOR.values() for text in texts}
    always = {requirements.parsed(text)[0] for text in packages._ALWAYS[program]}
    return names - (optional - always - imported(SCRIPTS / program))


def test_every_stage_program_is_in_the_table() -> None:
    assert {path.name for path in SCRIPTS.glob("*.py")} == set(packages._ALWAYS)


@pytest.mark.parametrize("program", sorted(packages._ALWAYS))
def test_the_table_has_what_a_program_imports_and_nothing_else(program: str) -> None:
    found = imported(SCRIPTS / program) - NOT_REACHED.get(program, set()) | BESIDE_IMPORTS.get(program, set())
    assert in_table(program) - NOT_REACHED.get(program, set()) == found


@pytest.mark.parametrize("program", sorted(packages._ALWAYS))
def test_every_requirement_has_bounds(program: str) -> None:
    for text in packages.needed(program, packages._FOR):
        bounds = {clause.operator for clause in Requirement(text).specifier}
        assert bounds & {"==", ">=", "<"}, text
        assert bounds & {"==", "<"} or requirements.parsed(text)[0] == requirements.PYTHON, f"{text}: no upper bound"


def test_what_make_setup_installs_is_within_the_bounds() -> None:
    import importlib.metadata

    here = {each.metadata["Name"]: each.version for each in importlib.metadata.distributions()}
    here[requirements.PYTHON] = "{}.{}.{}".format(*sys.version_info)
    on_a_cpu = [name for name in packages._ALWAYS if name not in ("train_nxd.py", "train_optimum.py")]
    uses = packages._FOR.keys() - {packages.S3}  # an extra of its own
    for program in on_a_cpu:
        assert list(requirements.unmet(packages.needed(program, uses), here)) == [], program


NUMBERS = st.lists(st.integers(0, 12), min_size=1, max_size=4)
TEXTS = NUMBERS.map(lambda numbers: ".".join(map(str, numbers)))


@example("0", "==", "0.0", True, "")
@given(TEXTS, st.sampled_from(["==", "!=", ">=", "<=", ">", "<"]), TEXTS, st.booleans(), st.sampled_from(["", "+cpu"]))
def test_versions_are_compared_as_pip_does(version: str, operator: str, wanted: str, star: bool, local: str) -> None:
    text = f"thing{operator}{wanted}{'.*' if star and operator in ('==', '!=') else ''}"
    if operator in (">", "<") and local:
        local = ""  # pip orders builds of one release; here they are the release
    fits = Requirement(text).specifier.contains(version, prereleases=True)
    assert (not list(requirements.unmet([text], {"thing": version + local}))) == fits


@pytest.mark.parametrize(
    ("text", "version", "fits"),
    [
        ("torch>=2.8,<3", "2.13.0+cpu", True),
        ("torch>=2.8,<3", "3.0.0", False),
        ("torch~=2.8.1", "2.8.5", True),
        ("torch~=2.8.1", "2.9.0", False),
        ("torch-neuronx==2.9.0.2.13.*", "2.9.0.2.13.26312+8e870898", True),
        ("transformers==4.48.*", "4.48.0.dev0", True),
        ("Jinja2", "anything", True),
        ("optimum_neuron[neuronx,training]==0.4.5", "0.4.5", True),
    ],
)
def test_a_requirement(text: str, version: str, fits: bool) -> None:
    name = requirements.parsed(text)[0]
    assert (not list(requirements.unmet([text], {requirements.canonical(name): version}))) == fits


def needs(*overrides: str) -> dict[str, dict[str, str]]:
    """Stage → Python → its requirements, of a plan on a machine of its own."""
    place = Place(Path("/code"), Path("/store"), "/train/python")
    plan = build(compose(overrides[0], overrides[1:]).recipe, place)
    return {step.stage: {python: " ".join(texts) for python, texts in step.packages.items()} for step in plan.steps}


def test_a_step_says_what_each_of_its_environments_must_hold() -> None:
    found = needs("llama3_8b_dolly_trn2")
    assert "transformers==4.48.*" in found["train"]["/train/python"]
    assert "neuronx-cc>=2.23,<2.25" in found["train"]["/train/python"]
    assert "transformers==4.48.*" in found["compile"]["/train/python"]
    assert "huggingface-hub" in found["fetch"]["/train/python"]
    serving = "/opt/aws_neuronx_venv_pytorch_inference_vllm_0_16/bin/python"
    assert "vllm==0.16.*" in found["serve"][serving]
    assert "vllm" not in found["serve"]["/train/python"]


def test_what_a_recipe_does_not_use_is_not_asked_for() -> None:
    found = needs("quickstart")
    assert "hub" not in found["fetch"]["/train/python"] and "gguf" not in found["fetch"]["/train/python"]
    assert "pyarrow" not in found["tokenize"]["/train/python"] and "jinja2" not in found["tokenize"]["/train/python"]
    assert "gguf" in needs("smollm2_sql_cpu")["fetch"]["/train/python"]
    assert "jinja2" in needs("smollm2_sql_cpu")["tokenize"]["/train/python"]
    assert "hub" in needs("quickstart", "model.tokenizer=owner/name")["fetch"]["/train/python"]


def test_a_server_in_an_image_of_its_own_needs_nothing_of_this_machine() -> None:
    found = needs("llama3_8b_dolly_trn2", "serve.image=image")
    assert list(found["serve"]) == ["/train/python"]
