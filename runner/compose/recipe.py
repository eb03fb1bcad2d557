"""Recipe file + config groups + overrides → one typed, validated Recipe.

Hydra composes; `runner.compose.validate` checks what Hydra accepts (unknown keys in YAML or behind `+`, types, ranges).
"""

from __future__ import annotations

import dataclasses
import os
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

from runner.compose import path_defaults
from runner.compose.schema import Recipe
from runner.compose.text_values import RecipeFiles, load_yaml, quoted
from runner.compose.validate import InvalidKey, build, keys
from runner.errors import RecipeError, did_you_mean

ROOT = Path(__file__).resolve().parents[2]
CONFIGS, RECIPES = ROOT / "configs", ROOT / "recipes"
OPEN = (  # below these any key may stand
    "dataset.where.", "serve.neuron_config.", "target.slurm.options.", "target.slurm.stages.", "target.ray.resources.",
)  # fmt: skip
_UNNAMED = ("local", "train_hardware")  # groups whose option follows from the others
# Groups whose options only set one plain key: the two must not disagree.
_SHORTHANDS = {"tp_size": "parallel.tp_size", "epochs": "train.epochs"}


class _ConfigFolders(SearchPathPlugin):
    """Lets a recipe in any folder choose from `config_folders`."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        main = next(item for item in search_path.get_path() if item.provider == "main")
        recipes = Path(main.path.removeprefix("file://"))
        main.path = f"{RecipeFiles.scheme()}://{recipes}"
        for folder in config_folders(recipes):
            search_path.append("runner", f"{RecipeFiles.scheme()}://{folder}")


def config_folders(recipes: Path) -> list[Path]:
    """Where the options of recipes in the folder `recipes` lie; the first folder that has one counts.

    They are configs/ beside the recipes, the folders named by RUNNER_CONFIGS (as in PATH), and the project's.
    """
    shared = [Path(name).expanduser() for name in os.environ.get("RUNNER_CONFIGS", "").split(os.pathsep) if name]
    return [folder.absolute() for folder in (recipes / "configs", *shared, CONFIGS) if folder.is_dir()]


@dataclass(frozen=True)
class Composed:
    """A recipe and how it came about; `notes` say what of it is not used."""

    recipe: Recipe
    source: Path
    overrides: tuple[str, ...]
    choices: Mapping[str, str]
    notes: tuple[str, ...] = ()


def compose(name: str, overrides: Sequence[str] = ()) -> Composed:
    """The recipe called `name` (in recipes/) or lying at the path `name`, with Hydra overrides.

    Raises RecipeError with one line for the first mistake.

    >>> compose("quickstart", ["tp_size=4"]).recipe.parallel.tp_size
    4
    """
    source = locate(name)
    check_overrides(overrides, source)
    _refuse_sweep(overrides)
    prepare_hydra()
    try:
        with initialize_config_dir(config_dir=str(source.parent), version_base="1.3"):
            config = hydra_compose(source.name, hydra_overrides(overrides), return_hydra_config=True)
        choices = {group: str(option) for group, option in config.hydra.runtime.choices.items()}
        if "hardware" not in choices:
            raise RecipeError(f"{source}: begins with no base; its first lines are `defaults: [base, _self_]`")
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
        notes = path_defaults.forget(values, lambda key: _rank(key, source, overrides, choices))
        recipe = build(Recipe, values)
    except InvalidKey as error:
        raise RecipeError(f"{_origin(error.key, source, overrides, choices)}: {error}") from error
    except OmegaConfBaseException as error:
        raise RecipeError(f"{source}: {one_line(error)}") from error
    _check_shorthands(values, source, overrides)
    named = dataclasses.replace(recipe, name=recipe.name or source.stem)
    _check_name(named.name)
    return Composed(named, source, tuple(overrides), choices, tuple(notes))


def locate(name: str) -> Path:
    """The file of a recipe, by its name in recipes/ or by its path."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else RECIPES / f"{name}.yaml"
    if path.suffix == ".yml" and path.is_file():
        raise RecipeError(f"{name}: Hydra reads .yaml alone; rename it to {path.with_suffix('.yaml').name}")
    if path.is_file():
        return path.resolve()
    if path.parent != RECIPES:
        raise RecipeError(f"{name}: no such recipe file")
    raise RecipeError(f"{name}: no such recipe; {did_you_mean(name, recipe_names())}")


def recipe_names() -> list[str]:
    """Names of the recipes that come with the project."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def groups(recipes: Path = RECIPES) -> dict[str, list[str]]:
    """Every config group with the options that recipes in the folder `recipes` can choose."""
    names = sorted(path.name for path in CONFIGS.iterdir() if path.is_dir() and path.name not in _UNNAMED)
    folders = config_folders(recipes)
    return {name: sorted({path.stem for one in folders for path in one.glob(f"{name}/*.yaml")}) for name in names}


def option_file(group: str, option: str, recipes: Path = RECIPES) -> Path:
    """The file of a group's option for recipes in the folder `recipes`."""
    files = [folder / group / f"{option}.yaml" for folder in config_folders(recipes)]
    return next((file for file in files if file.is_file()), files[-1])


def prepare_hydra() -> None:
    """Make the schema's defaults, the config folders and the resolvers known to Hydra."""
    for plugin in (_ConfigFolders, RecipeFiles):
        Plugins.instance().register(plugin)
    ConfigStore.instance().store(name="schema", node=dataclasses.asdict(Recipe()))
    OmegaConf.register_new_resolver("assets", lambda path: str(RECIPES / "assets" / path), replace=True)


def hydra_overrides(overrides: Sequence[str]) -> list[str]:
    """Overrides as Hydra takes them: the option of a group is a string, so `tp_size=8` is quoted; a new column
    in `dataset.where`, and the like, is no new key.

    >>> hydra_overrides(["tp_size=1,2", "train.epochs=3", "dataset.where.task=qa", "dataset.where={task: qa}"])
    ["tp_size='1','2'", 'train.epochs=3', '++dataset.where.task=qa', '++dataset.where={task: qa}']
    """
    return [_hydra_override(text) for text in overrides]


def _hydra_override(text: str) -> str:
    key = text.partition("=")[0]
    if key in _SHORTHANDS:
        return _quote_option(text)
    return quoted(f"++{text}" if f"{key}.".startswith(OPEN) else text)


def _quote_option(text: str) -> str:
    if "range(" in text or "glob(" in text:
        override = parsed(text)
        return f"{override.key_or_group}={','.join(map(repr, _choices(override, groups()[override.key_or_group])))}"
    return re.sub(r"(?<![\w'.-])(\d+)(?![\w'.])", r"'\1'", text)


def check_overrides(overrides: Sequence[str], source: Path) -> None:
    """Refuse an override that names nothing, before Hydra words it less clearly or accepts it."""
    options = groups(source.parent)
    known = {key for key, _, _ in keys(Recipe)}
    for override in map(parsed, overrides):
        if not override.key_or_group.startswith(("hydra.", "hydra/")):
            _check_override(override, options, known)


def parsed(text: str) -> Override:
    """An override as Hydra reads it. Raises RecipeError."""
    try:
        return OverridesParser.create().parse_override(text)
    except HydraException as error:
        if "=" not in text:
            raise RecipeError(f"command line: {text}: an override is KEY=VALUE or GROUP=OPTION") from error
        raise RecipeError(
            f"command line: {text}: Hydra cannot read the value; put one with special characters between quotes: "
            f"'{text.partition('=')[0]}=\"...\"'"
        ) from error


def _refuse_sweep(overrides: Sequence[str]) -> None:
    for override in map(parsed, overrides):
        if override.is_sweep_override():
            raise RecipeError(
                f"command line: {override.input_line}: several values make a sweep; add -m, or write a list as [a,b]"
            )


def _check_override(override: Override, options: Mapping[str, list[str]], known: Set[str]) -> None:
    name, text = override.key_or_group, override.input_line
    if override.is_delete() and (name in options or name in known):
        raise RecipeError(f"command line: {text}: nothing can be taken away; set it to another value")
    if name in options:
        for choice in _choices(override, options[name]):
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


def _choices(override: Override, options: list[str]) -> list[str]:
    value: Any = override.value()
    if isinstance(value, Glob):
        return value.filter(options)
    if override.is_discrete_sweep():
        return list(override.sweep_string_iterator())
    return [str(value)]


def _no_option(group: str, choice: str, options: list[str]) -> str:
    if group in _SHORTHANDS:
        there = ", ".join(sorted(options, key=int))
        return f"configs/{group}/ has {there}; for other values say {_SHORTHANDS[group]}={choice}"
    return f"no such {group}; {did_you_mean(choice, options)}"


def _check_shorthands(values: Mapping[str, Any], source: Path, overrides: Sequence[str]) -> None:
    """A recipe that sets the plain key would silently win over `tp_size=4` on the command line."""
    for group, key in _SHORTHANDS.items():
        section, leaf = key.split(".")
        asked = [text.partition("=")[2].strip("'") for text in overrides if text.startswith(f"{group}=")][-1:]
        if asked and asked[0] != str(values[section][leaf]):
            raise RecipeError(
                f"command line: {group}={asked[0]} is overruled by {key}={values[section][leaf]} in {source}; "
                f"say {key}={asked[0]}"
            )


def _check_name(name: str) -> None:
    """It stands in tables and scripts, as one line."""
    if not name.isprintable():
        raise RecipeError(f"name: {name!r}: holds a line break or another character that cannot be printed")


def _origin(key: str, source: Path, overrides: Sequence[str], choices: Mapping[str, str]) -> str:
    """Where a key was set: the override, or the YAML file, that was applied last."""
    if _overrides(overrides, key):
        return "command line"
    for path, package in [(source, ""), *_chosen(source, choices), (CONFIGS / "base.yaml", "")]:
        if _sets(path, package, key):
            return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
    return str(source)


def _rank(key: str, source: Path, overrides: Sequence[str], choices: Mapping[str, str]) -> int:
    """How late a key was set: 3 on the command line, 2 in the recipe, 1 in an option, 0 nowhere."""
    if _overrides(overrides, key):
        return 3
    if _sets(source, "", key):
        return 2
    return int(any(_sets(path, package, key) for path, package in _chosen(source, choices)))


def _chosen(source: Path, choices: Mapping[str, str]) -> list[tuple[Path, str]]:
    """The files of the chosen options with the sections that they set."""
    return [(option_file(group, option, source.parent), group) for group, option in choices.items()]


def _overrides(overrides: Sequence[str], key: str) -> bool:
    """Whether an override sets a key, or one below it."""
    for override in map(parsed, overrides):
        if any(f"{name}.".startswith(f"{key}.") for name in (override.key_or_group, *_keys_in(override))):
            return True
    return False


def _sets(path: Path, package: str, key: str) -> bool:
    if not path.is_file():
        return False
    text = path.read_text(encoding="utf-8")
    node: Any = load_yaml(text, package)
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
    """The first two lines of an exception of Hydra's or OmegaConf's, as one, in our words where theirs mislead."""
    lines = [line.strip() for line in (str(error) or str(error.__cause__)).splitlines() if line.strip()]
    unknown = re.match(r"Could not override '(hydra\..*)'", lines[0])
    if unknown:
        return f"{unknown[1]}: no such key; a sweeper or launcher brings its own, for example hydra/sweeper=optuna"
    return " ".join(lines[:2])
