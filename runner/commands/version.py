"""`runner --version`: what a report of a problem needs."""

from __future__ import annotations

import json
import platform
from importlib import metadata

from runner.paths import ROOT
from runner.record import provenance

_NAME = "trainium-recipes"


def text() -> str:
    """The version, its commit if known, and where it is; then Python and the packages beside it."""
    packages = provenance.package_versions()
    beside = ", ".join(f"{name} {version or 'missing'}" for name, version in packages.items() if name != _NAME)
    return f"runner {packages[_NAME]}{_commit()}, {ROOT}\nPython {platform.python_version()}, {beside}"


def _commit() -> str:
    """Of a checkout, or as pip recorded it for an installation from git."""
    state = provenance.git_state(ROOT)
    if state:
        return f" ({state['commit'][:12]}{', changed since' * state['changed']})"
    recorded = metadata.distribution(_NAME).read_text
    source = json.loads(recorded("direct_url.json") or "{}")
    commit = source.get("vcs_info", {}).get("commit_id", "")
    return f" ({commit[:12]})" if commit else ""
