"""Config groups: which options a recipe can choose, and the files that define them."""

from __future__ import annotations

import os
from pathlib import Path

from runner.paths import CONFIGS, RECIPES

# Groups whose option is a number that sets one key. The group and its key must not disagree.
SHORTHANDS = {"tp_size": "parallel.tp_size", "epochs": "train.epochs"}
_INTERNAL = ("local", "train_hardware")  # groups whose option follows from other groups


def config_folders(recipes: Path) -> list[Path]:
    """The folders with options for recipes in the folder `recipes`; the first one that has an option is used.

    They are configs/ beside the recipes, the folders named by RUNNER_CONFIGS (as in PATH), and the project's.
    """
    shared = [Path(name).expanduser() for name in os.environ.get("RUNNER_CONFIGS", "").split(os.pathsep) if name]
    return [folder.absolute() for folder in (recipes / "configs", *shared, CONFIGS) if folder.is_dir()]


def list_groups(recipes: Path = RECIPES) -> dict[str, list[str]]:
    """Every config group with the options that recipes in the folder `recipes` can choose."""
    names = sorted(path.name for path in CONFIGS.iterdir() if path.is_dir() and path.name not in _INTERNAL)
    folders = config_folders(recipes)
    return {name: sorted({path.stem for folder in folders for path in folder.glob(f"{name}/*.yaml")}) for name in names}


def option_file(group: str, option: str, recipes: Path = RECIPES) -> Path:
    """The file of a group's option for recipes in the folder `recipes`."""
    files = [folder / group / f"{option}.yaml" for folder in config_folders(recipes)]
    return next((file for file in files if file.is_file()), files[-1])
