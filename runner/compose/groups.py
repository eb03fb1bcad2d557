"""Config groups: which options a recipe can choose, and the files that define them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from runner.paths import CONFIGS, RECIPES

# Groups whose option is a number that sets one key. The group and its key must not disagree.
SHORTHANDS = {"tp_size": "parallel.tp_size", "epochs": "train.epochs"}
_INTERNAL = ("local", "train_hardware")  # groups whose option follows from other groups


def recipe_folders() -> list[Path]:
    """Where a recipe is looked for by its name: recipes/ of the current folder, then those that are installed."""
    own = Path("recipes")
    return list(dict.fromkeys([*([own.absolute()] if own.is_dir() else []), RECIPES]))


def recipe_names() -> list[str]:
    """Names of the recipes in `recipe_folders` and in their subfolders: quickstart, examples/01_own_csv."""
    files = (
        (folder, path) for folder in recipe_folders() for level in ("", "*/") for path in folder.glob(f"{level}*.yaml")
    )
    return sorted({str(path.relative_to(folder).with_suffix("")) for folder, path in files})


def config_folders(recipes: Path) -> list[Path]:
    """The folders with options for recipes in the folder `recipes`; the first one that has an option is used.

    They are configs/ in that folder, configs/ beside the folder recipes/ that it is or lies in, configs/ beside
    recipes/ in the current folder, the folders named by RUNNER_CONFIGS (as in PATH), and those that are installed.
    """
    holding = [folder for folder in (recipes, *recipes.parents) if folder.name == "recipes"]
    own = [recipes / "configs", *(folder.parent / "configs" for folder in (*holding, *recipe_folders()))]
    shared = [Path(name).expanduser() for name in os.environ.get("RUNNER_CONFIGS", "").split(os.pathsep) if name]
    found = dict.fromkeys(folder.absolute() for folder in (*own, *shared) if folder.is_dir())
    return [*(folder for folder in found if folder != CONFIGS), CONFIGS]


def list_groups(recipes: Path = RECIPES) -> dict[str, list[str]]:
    """Every config group with the options that recipes in the folder `recipes` can choose."""
    names = sorted(path.name for path in CONFIGS.iterdir() if path.is_dir() and path.name not in _INTERNAL)
    folders = config_folders(recipes)
    return {name: sorted({path.stem for folder in folders for path in folder.glob(f"{name}/*.yaml")}) for name in names}


def option_file(group: str, option: str, folders: Sequence[Path] | None = None) -> Path:
    """The file of a group's option in `config_folders`, by default those of the recipes in recipes/."""
    files = [folder / group / f"{option}.yaml" for folder in folders or config_folders(RECIPES)]
    return next((file for file in files if file.is_file()), files[-1])
