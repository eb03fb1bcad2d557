"""Which of Hydra's launchers runs the trials of a sweep."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from hydra.core.plugins import Plugins

from runner import targets
from runner.compose.schema import Target

_PLUGINS = Path(__file__).with_name("plugins")


def prepare() -> None:
    """Register our launcher with Hydra as hydra/launcher=queue."""
    if str(_PLUGINS) not in sys.path:
        sys.path.append(str(_PLUGINS))
    Plugins.instance().register(import_module("hydra_plugins.runner_queue").QueueLauncher)


def chosen(target: Target, overrides: Sequence[str]) -> list[str]:
    """The override that chooses it for a target with a queue; none if the user chose a launcher."""
    is_chosen = any(override.startswith("hydra/launcher=") for override in overrides)
    return ["hydra/launcher=queue"] if targets.of(target).has_queue and not is_chosen else []
