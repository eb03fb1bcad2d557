"""Another machine, over SSH."""

from __future__ import annotations

from runner.compose.schema import Target as Settings
from runner.errors import RecipeError
from runner.targets.remote import Far
from runner.targets.transport.ssh import Link


class Target(Far):
    """Runs on the machine that `target.host` names."""

    def __init__(self, settings: Settings) -> None:
        if not settings.host:
            raise RecipeError("target.host: says which machine; for example target.host=trn2-a of your ~/.ssh/config")
        super().__init__(settings, Link(settings.host))
