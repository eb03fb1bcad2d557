"""`runner gc`: frees the store by age, size and reachability from recorded runs; never what a run in progress needs.

Besides artifacts, the store holds the output of the Neuron compiler: compiled/KEY for a server, reported by the run
that served with it, and neuron-cache, the programs of trainings and servers, which is kept or removed as a whole.
"""

from __future__ import annotations

import argparse
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from runner.commands.arguments import add_runs_folder
from runner.errors import RecipeError
from runner.execute.store import Store
from runner.record.runs import Run, every

_DAY = 86400.0
_COMPILED, _CACHE = "compiled", "neuron-cache"  # see runner.plan.stages.server_options and runner.plan.command


@dataclass(frozen=True)
class Rules:
    """What to remove: unused for `days`; least recently used while the store exceeds `gb`; only the `unreachable`."""

    days: float | None
    gb: float | None
    unreachable: bool


@dataclass(frozen=True)
class _Artifact:
    path: Path
    used: float  # Unix time of the last run that used it
    size: int
    reachable: bool


def collect(root: Path, runs: Sequence[Run], rules: Rules, dry_run: bool) -> None:
    """Remove what `rules` select from the store at `root`, and print it. Raises RecipeError without rules or store."""
    if rules.days is None and rules.gb is None and not rules.unreachable:
        raise RecipeError("gc: choose what to remove: --unreachable, --days N or --gb N")
    if not root.is_dir():
        raise RecipeError(f"gc: {root}: no such store; set it with --store")
    freed = 0
    for artifact in _chosen(_artifacts(Store(root), runs), rules):
        print(f"{'would remove' if dry_run else 'removed'} {artifact.path.name}  {artifact.size / 1e6:.1f} MB")
        freed += artifact.size
        if not dry_run:
            _remove(artifact.path, root)
    print(f"{freed / 1e6:.1f} MB {'could be' if dry_run else ''} freed".replace("  ", " "))


def _artifacts(store: Store, runs: Sequence[Run]) -> list[_Artifact]:
    """All artifacts, complete or partial, that no run in progress needs."""
    used: dict[str, float] = {}
    needed: set[str] = set()
    for run in runs:
        names = _refers_to(run, store)
        used |= {name: max(used.get(name, 0), (run.folder / "events.jsonl").stat().st_mtime) for name in names}
        needed |= names if run.in_progress else set()
    folders = [path for kind in ("objects", "partial", _COMPILED) for path in (store.root / kind).glob("*")]
    folders += [path for path in [store.root / _CACHE] if path.is_dir()]
    return [
        _Artifact(path, used.get(path.name, path.stat().st_mtime), _size(path), path.name in used)
        for path in folders
        if path.name not in needed and path.parent.name not in needed
    ]


def _refers_to(run: Run, store: Store) -> set[str]:
    """Names in the store: what its steps make or read, and the compiled model of its server.

    Until the server has reported which compiled model it uses, the whole folder of them.
    """
    root = store.root.absolute()
    steps = run.plan["steps"]
    keys = {step["key"] for step in steps}
    values = {value for step in steps for value in (*step["argv"], *step["env"].values())}
    reported = {event["compiled"] for event in run.events() if event["event"] == "serving" and "compiled" in event}
    folders = {name for name in (_COMPILED, _CACHE) if any(value.startswith(str(root / name)) for value in values)}
    folders -= {_COMPILED} if reported else set()
    read = {match[1] for value in values for match in re.finditer(rf"{re.escape(str(root))}/objects/([^/]+)", value)}
    return keys | read | reported | folders


def _chosen(artifacts: Sequence[_Artifact], rules: Rules) -> Iterator[_Artifact]:
    """The artifacts to remove, least recently used first."""
    total = sum(artifact.size for artifact in artifacts)
    for artifact in sorted(artifacts, key=lambda artifact: artifact.used):
        old = rules.days is not None and time.time() - artifact.used > rules.days * _DAY
        too_much = rules.gb is not None and total > rules.gb * 1e9
        selected = old or too_much or (rules.days is None and rules.gb is None)
        if selected and not (rules.unreachable and artifact.reachable):
            total -= artifact.size
            yield artifact


def _size(path: Path) -> int:
    return sum(file.lstat().st_size for file in path.rglob("*") if not file.is_dir())


def _remove(path: Path, root: Path) -> None:
    """Rename it first: a run must never find a half-removed artifact."""
    doomed = root / "doomed" / path.name
    doomed.parent.mkdir(exist_ok=True)
    path.rename(doomed)
    shutil.rmtree(doomed)


def add_gc(parser: argparse.ArgumentParser) -> None:
    """A store and the rules."""
    add_runs_folder(parser)
    parser.add_argument("--store", type=Path, default=Path("store"), help="the store")
    parser.add_argument("--days", type=float, help="remove artifacts that no run has used for this many days")
    parser.add_argument("--gb", type=float, help="then the least recently used, until the store has this size")
    parser.add_argument("--unreachable", action="store_true", help="only artifacts that no recorded run refers to")
    parser.add_argument("--dry-run", action="store_true", help="only print what would be removed")
    parser.set_defaults(command=_gc)


def _gc(args: argparse.Namespace) -> int:
    collect(args.store, every(args.folder), Rules(args.days, args.gb, args.unreachable), args.dry_run)
    return 0
