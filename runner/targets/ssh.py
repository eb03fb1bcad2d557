"""Another machine, over SSH."""

from __future__ import annotations

from runner.errors import RecipeError
from runner.link import Link
from runner.schema import Target as Settings
from runner.targets.far import Far


class Target(Far):
    """Runs on the machine that `target.host` names."""

    def __init__(self, settings: Settings) -> None:
        if not settings.host:
            raise RecipeError("target.host: says which machine; for example target.host=trn2-a of your ~/.ssh/config")
        super().__init__(settings, Link(settings.host))
