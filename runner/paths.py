"""Folders of the project that the control plane reads."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONFIGS, RECIPES = ROOT / "configs", ROOT / "recipes"
