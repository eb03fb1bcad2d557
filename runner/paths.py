"""Folders of the project that the control plane reads."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
# A wheel has the folders that a checkout has beside the package in it: see pyproject.toml.
_IN_WHEEL = PACKAGE / "project"
ROOT = _IN_WHEEL if _IN_WHEEL.is_dir() else PACKAGE.parent
CONFIGS, RECIPES, SCRIPTS = ROOT / "configs", ROOT / "recipes", ROOT / "scripts"
