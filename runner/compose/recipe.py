"""Recipe file + config groups + overrides → one typed, validated Recipe.

Hydra composes; `runner.compose.validate` checks what Hydra accepts (unknown keys in YAML or behind `+`, types, ranges).
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from runner.compose import overrides as command_line
from runner.compose import path_defaults
from runner.compose.composed import Composed
from runner.compose.groups import config_folders, option_file, recipe_folders, recipe_names
from runner.compose.schema import Recipe
from runner.compose.text_values import RecipeFiles, load_yaml, text_of
from runner.compose.validate import InvalidKey, build
from runner.compose.yaml_limits import Unusable
from runner.errors import RecipeError, did_you_mean
from runner.paths import CONFIGS, RECIPES

_LONGEST_NAME = 150  # characters; folders have the name and a time, of 255 bytes


class _ConfigFolders(SearchPathPlugin):
    """Lets a recipe in any folder choose from `config_folders`."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        main = next(item for item in search_path.get_path() if item.provider == "main")
        recipes = Path(main.path.removeprefix("file://"))
        main.path = f"{RecipeFiles.scheme()}://{recipes}"
        for folder in config_folders(recipes):
            search_path.append("runner", f"{RecipeFiles.scheme()}://{folder}")


def compose(name: str, overrides: Sequence[str] = ()) -> Composed:
    """Compose the recipe at the path `name`, or of that name in recipes/, with Hydra overrides.

    Raises RecipeError for the first mistake.

    >>> compose("quickstart", ["tp_size=4"]).recipe.parallel.tp_size
    4
    """
    source = locate(name)
    command_line.check_overrides(overrides, source)
    command_line.refuse_sweep(overrides)
    prepare_hydra()
    try:
        with initialize_config_dir(config_dir=str(source.parent), version_base="1.3"):
            args = command_line.hydra_overrides(overrides)
            config = hydra_compose(source.name, args, return_hydra_config=True)
        choices = _choices(config.hydra)
        if "hardware" not in choices:
            raise RecipeError(f"{source}: does not include base; begin the file with `defaults: [base, _self_]`")
    except (HydraException, OmegaConfBaseException) as error:
        raise RecipeError(f"{source}: {one_line(error)}") from error
    except yaml.YAMLError as error:
        raise RecipeError(_yaml_problem(source, error)) from error
    return _from_config(config, source, overrides, choices)


def from_hydra(config: DictConfig, hydra_config: Any, source: Path) -> Composed:
    """The validated recipe of a job of Hydra; `hydra_config` is the job's `hydra` section. Raises RecipeError."""
    return _from_config(config, source, hydra_config.overrides.task, _choices(hydra_config))


def _choices(hydra_config: Any) -> dict[str, str]:
    """The option of each group."""
    return {group: str(option) for group, option in hydra_config.runtime.choices.items()}


def _from_config(config: DictConfig, source: Path, overrides: Sequence[str], choices: Mapping[str, str]) -> Composed:
    """The validated recipe of a config that Hydra has composed. Raises RecipeError."""
    plain = {name: config._get_node(name) for name in config if name != "hydra"}
    try:
        values: Any = OmegaConf.to_container(OmegaConf.create(plain), resolve=True)
        precedence = functools.cache(lambda key: _precedence(key, source, overrides, choices))
        notes = path_defaults.drop_stale(values, precedence)
        recipe = build(Recipe, values)
    except InvalidKey as error:
        raise RecipeError(f"{_origin(error.key, source, overrides, choices)}: {error}") from error
    except OmegaConfBaseException as error:
        raise RecipeError(f"{source}: {one_line(error)}") from error
    command_line.check_shorthands(values, source, overrides)
    recipe = dataclasses.replace(recipe, name=recipe.name or source.stem)
    _check_name(recipe.name)
    return Composed(recipe, source, tuple(overrides), choices, (*notes, *_left_out(recipe)))


def _left_out(recipe: Recipe) -> Iterator[str]:
    """A note on a stage that the recipe chooses and cannot have."""
    if recipe.serve.engine != "none" and recipe.serve.mode != "foreground" and not recipe.evaluate.enabled:
        yield (
            f"serve={recipe.serve.engine}: left out: its test compares the answers with the evaluation, which "
            "evaluate=none leaves out; `runner serve` serves the run when it has finished"
        )


def locate(name: str) -> Path:
    """The file of a recipe, given its name in a folder of `recipe_folders` or its path. Raises RecipeError."""
    is_path = name.endswith((".yaml", ".yml"))
    named = [folder / f"{name}.yaml" for folder in recipe_folders()]
    path = Path(name) if is_path else next((path for path in named if path.is_file()), named[-1])
    if path.suffix == ".yml" and path.is_file():
        raise RecipeError(f"{name}: Hydra reads only .yaml files; rename it to {path.with_suffix('.yaml').name}")
    if path.is_file():
        return path.resolve()
    if is_path:
        raise RecipeError(f"{name}: no such recipe file")
    raise RecipeError(f"{name}: no such recipe; {did_you_mean(name, recipe_names())}")


@functools.cache
def prepare_hydra() -> None:
    """Register the schema's defaults, the config folders and the resolvers with Hydra, once in a process."""
    for plugin in (_ConfigFolders, RecipeFiles):
        Plugins.instance().register(plugin)
    ConfigStore.instance().store(name="schema", node=dataclasses.asdict(Recipe()))
    OmegaConf.register_new_resolver("assets", lambda path: str(RECIPES / "assets" / path), replace=True)
    OmegaConf.register_new_resolver("by_lnc", _by_lnc, replace=True)


def _by_lnc(lnc: object, with_one: float, with_two: float) -> float | None:
    """`${by_lnc:${.lnc},128,64}`: the value for the Logical NeuronCore configuration; None for one that is invalid."""
    return with_one if lnc == 1 else with_two if lnc == 2 else None


def _check_name(name: str) -> None:
    """The name appears in tables and scripts, on one line."""
    if not name.isprintable():
        raise RecipeError(f"name: {name!r}: contains a line break or another character that cannot be printed")
    if len(name) > _LONGEST_NAME:
        raise RecipeError(f"name: has {len(name)} characters; a name may have {_LONGEST_NAME}")


def _origin(key: str, source: Path, overrides: Sequence[str], choices: Mapping[str, str]) -> str:
    """Where a key was set last: the command line, or a YAML file."""
    if command_line.sets(overrides, key):
        return "command line"
    for path, package in [(source, ""), *_chosen(source, choices), (CONFIGS / "base.yaml", "")]:
        if _sets(path, package, key):
            return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
    return str(source)


def _precedence(key: str, source: Path, overrides: Sequence[str], choices: Mapping[str, str]) -> int:
    """What set a key last: 3 the command line, 2 the recipe, 1 an option, 0 nothing."""
    if command_line.sets(overrides, key):
        return 3
    if _sets(source, "", key):
        return 2
    return int(any(_sets(path, package, key) for path, package in _chosen(source, choices)))


def _chosen(source: Path, choices: Mapping[str, str]) -> Iterator[tuple[Path, str]]:
    """The files of the chosen options with the sections that they set."""
    folders = config_folders(source.parent)
    return ((option_file(group, option, folders), group) for group, option in choices.items())


def _sets(path: Path, package: str, key: str) -> bool:
    """Whether a YAML file, which holds the section `package`, sets a key."""
    if not path.is_file():
        return False
    text = text_of(path)
    node: Any = load_yaml(text, package, str(path))
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
    problem = getattr(error, "problem", None) or error
    return f"{place}: {problem}" if isinstance(error, Unusable) else f"{place}: not valid YAML: {problem}"


def one_line(error: BaseException) -> str:
    """The first two lines of a Hydra or OmegaConf exception, joined; a clearer text where theirs is misleading."""
    lines = [line.strip() for line in (str(error) or str(error.__cause__)).splitlines() if line.strip()]
    unknown = re.match(r"Could not override '(hydra\..*)'", lines[0])
    if unknown:
        return f"{unknown[1]}: no such key; choose its sweeper or launcher too, for example hydra/sweeper=optuna"
    return " ".join(lines[:2])
