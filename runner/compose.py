"""Recipe file + config groups + overrides → one typed, validated Recipe.

Hydra composes; `runner.validate` checks what Hydra lets pass (unknown keys in YAML or behind `+`, types, ranges).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from runner.errors import RecipeError, did_you_mean
from runner.schema import Recipe
from runner.validate import InvalidKey, build, keys

ROOT = Path(__file__).resolve().parent.parent
CONFIGS, RECIPES = ROOT / "configs", ROOT / "recipes"
OPEN = ("dataset.where.", "serve.neuron_config.")  # below these any key may stand
# Groups whose options only set one plain key: the two must not disagree.
_SHORTHANDS = {"tp_size": "parallel.tp_size", "epochs": "train.epochs"}


class _ConfigFolders(SearchPathPlugin):
    """Lets a recipe in any folder choose from configs/."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append("runner", f"file://{CONFIGS}")


@dataclass(frozen=True)
class Composed:
    """A recipe and how it came about."""

    recipe: Recipe
    source: Path
    overrides: tuple[str, ...]
    choices: Mapping[str, str]


def compose(name: str, overrides: Sequence[str] = ()) -> Composed:
    """The recipe called `name` (in recipes/) or lying at the path `name`, with Hydra overrides.

    Raises RecipeError with one line for the first mistake.

    >>> compose("quickstart", ["tp_size=4"]).recipe.parallel.tp_size
    4
    """
    source = locate(name)
    check_overrides(overrides)
    _refuse_sweep(overrides)
    prepare_hydra()
    try:
        with initialize_config_dir(config_dir=str(source.parent), version_base="1.3"):
            config = hydra_compose(source.stem, quote_options(overrides), return_hydra_config=True)
        choices = {group: str(option) for group, option in config.hydra.runtime.choices.items()}
    except (HydraException, OmegaConfBaseException) as error:
        raise RecipeError(f"{source}: {one_line(error)}") from error
    except yaml.YAMLError as error:
        raise RecipeError(_yaml_problem(source, error)) from error
    return from_config(config, source, overrides, choices)


def from_config(config: DictConfig, source: Path, overrides: Sequence[str], choices: Mapping[str, str]) -> Composed:
    """The validated recipe of a config that Hydra has composed."""
    plain = {name: config._get_node(name) for name in config if name != "hydra"}
    try:
        values: Any = OmegaConf.to_container(OmegaConf.create(plain), resolve=True)
        recipe = build(Recipe, values)
    except InvalidKey as error:
        raise RecipeError(f"{_origin(error.key, source, overrides, choices)}: {error}") from error
    except OmegaConfBaseException as error:
        raise RecipeError(f"{source}: {one_line(error)}") from error
    _check_shorthands(values, source, overrides)
    return Composed(dataclasses.replace(recipe, name=recipe.name or source.stem), source, tuple(overrides), choices)


def locate(name: str) -> Path:
    """The file of a recipe, by its name in recipes/ or by its path."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else RECIPES / f"{name}.yaml"
    if path.is_file():
        return path.resolve()
    if path.parent != RECIPES:
        raise RecipeError(f"{name}: no such recipe file")
    raise RecipeError(f"{name}: no such recipe; {did_you_mean(name, recipe_names())}")


def recipe_names() -> list[str]:
    """Names of the recipes that come with the project."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def groups() -> dict[str, list[str]]:
    """Every config group with its options."""
    folders = sorted(path for path in CONFIGS.iterdir() if path.is_dir() and path.name != "local")
    return {folder.name: sorted(path.stem for path in folder.glob("*.yaml")) for folder in folders}


def prepare_hydra() -> None:
    """Make the schema's defaults, the config folders and the resolvers known to Hydra."""
    Plugins.instance().register(_ConfigFolders)
    ConfigStore.instance().store(name="schema", node=dataclasses.asdict(Recipe()))
    OmegaConf.register_new_resolver("assets", lambda path: str(RECIPES / "assets" / path), replace=True)


def quote_options(overrides: Sequence[str]) -> list[str]:
    """Overrides as Hydra takes them: it wants the option of a group to be a string, so `tp_size=8` is quoted.

    >>> quote_options(["tp_size=1,2", "train.epochs=3"])
    ["tp_size='1','2'", 'train.epochs=3']
    """
    return [_quote_option(text) if text.partition("=")[0] in _SHORTHANDS else text for text in overrides]


def _quote_option(text: str) -> str:
    if "range(" in text or "glob(" in text:
        [override] = OverridesParser.create().parse_overrides([text])
        return f"{override.get_key_element()}={','.join(map(repr, _choices(override)))}"
    return re.sub(r"(?<![\w'.-])(\d+)(?![\w'.])", r"'\1'", text)


def check_overrides(overrides: Sequence[str]) -> None:
    """Refuse an override that names nothing, before Hydra words it less clearly or accepts it."""
    options = groups()
    known = {key for key, _, _ in keys(Recipe)}
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        raise RecipeError(f"command line: {one_line(error)}") from error
    for override in parsed:
        if not override.key_or_group.startswith(("hydra.", "hydra/")):
            _check_override(override, options, known)


def _refuse_sweep(overrides: Sequence[str]) -> None:
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        if override.is_sweep_override():
            raise RecipeError(
                f"command line: {override.input_line}: several values make a sweep; add -m, or write a list as [a,b]"
            )


def _check_override(override: Override, options: Mapping[str, list[str]], known: Set[str]) -> None:
    name, text = override.key_or_group, override.input_line
    if name in options:
        for choice in _choices(override):
            if choice not in options[name]:
                raise RecipeError(f"command line: {text}: {_no_option(name, choice, options[name])}")
    for key in () if name in options else (name, *_keys_in(override)):
        if key not in known and not key.startswith(OPEN):
            where = text if key == name else f"{text}: {key}"
            raise RecipeError(f"command line: {where}: no such key; {did_you_mean(key, [*known, *options])}")


def _keys_in(override: Override) -> Iterator[str]:
    """The keys in mappings: of `train.lora={rank:4,alpha:8}` train.lora.rank and train.lora.alpha."""
    values: Any = [override.value()]
    if override.is_choice_sweep() and not isinstance(values[0], Glob):
        values = override.sweep_iterator()
    todo = [(override.key_or_group, value) for value in values]
    while todo:
        key, value = todo.pop()
        if isinstance(value, Mapping):
            todo += [(f"{key}.{name}", below) for name, below in value.items()]
            yield from (f"{key}.{name}" for name in value)


def _choices(override: Override) -> list[str]:
    value: Any = override.value()
    if isinstance(value, Glob):
        return value.filter(groups()[override.key_or_group])
    if override.is_discrete_sweep():
        return list(override.sweep_string_iterator())
    return [] if override.is_delete() else [str(value)]


def _no_option(group: str, choice: str, options: list[str]) -> str:
    if group in _SHORTHANDS:
        there = ", ".join(sorted(options, key=int))
        return f"configs/{group}/ has {there}; for other values say {_SHORTHANDS[group]}={choice}"
    return f"no such {group}; {did_you_mean(choice, options)}"


def _check_shorthands(values: Mapping[str, Any], source: Path, overrides: Sequence[str]) -> None:
    """A recipe that sets the plain key would silently win over `tp_size=4` on the command line."""
    for group, key in _SHORTHANDS.items():
        section, leaf = key.split(".")
        asked = next((text.partition("=")[2].strip("'") for text in overrides if text.startswith(f"{group}=")), None)
        if asked is not None and asked != str(values[section][leaf]):
            raise RecipeError(
                f"command line: {group}={asked} is overruled by {key}={values[section][leaf]} in {source}; "
                f"say {key}={asked}"
            )


def _origin(key: str, source: Path, overrides: Sequence[str], choices: Mapping[str, str]) -> str:
    """Where a key was set: the override, or the YAML file, that was applied last."""
    if any(text.lstrip("+~").startswith((f"{key}=", f"{key}.")) for text in overrides):
        return "command line"
    chosen = [(CONFIGS / group / f"{option}.yaml", group) for group, option in choices.items()]
    for path, package in [(source, ""), *chosen, (CONFIGS / "base.yaml", "")]:
        if path.is_file() and _sets(path, package, key):
            return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
    return str(source)


def _sets(path: Path, package: str, key: str) -> bool:
    text = path.read_text()
    node = yaml.safe_load(text)
    if package and "@package _global_" not in text:
        node = {package: node}
    for part in key.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return False
        node = node[part]
    return True


def _yaml_problem(source: Path, error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    place = f"{mark.name}:{mark.line + 1}" if mark else str(source)
    return f"{place}: not valid YAML: {getattr(error, 'problem', None) or error}"


def one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])
