"""Another machine, over SSH."""

from __future__ import annotations

from runner.compose.schema import Target as Settings
from runner.errors import RecipeError
from runner.targets.remote import RemoteTarget
from runner.targets.transport.ssh import SSHTransport


class SSHTarget(RemoteTarget):
    """Runs on the machine that `target.host` names."""

    def __init__(self, settings: Settings) -> None:
        if not settings.host:
            raise RecipeError(
                "target.host: missing; name a machine, such as a host of ~/.ssh/config: target.host=trn2-a"
            )
        super().__init__(settings, SSHTransport(settings.host))

    @property
    def where(self) -> str:
        return str(self._settings.host)
