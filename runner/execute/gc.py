"""Frees the store by age, size and reachability from recorded runs; never what a run in progress needs.

Besides artifacts, the store holds the output of the Neuron compiler: compiled/KEY for a server, reported by the run
that served with it, and neuron-cache, the programs of trainings and servers, which is kept or removed as a whole.

Where runs were sent from elsewhere, code/DIGEST and inputs/DIGEST, which were copied with them, go by the same rules.

Standard library alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from runner.execute import files
from runner.execute.run_folder import FINAL, in_progress, last_event, last_state, read_events, recorded
from runner.execute.schedulers import job as jobs
from runner.execute.store import CACHE, COMPILED, Store, names_used

DAMAGED = 3  # exit status of a program that found damage
_DAY = 86400.0
_COPY = re.compile(r"\b(?:code|inputs)/[0-9a-f]{16}\b")  # its path, and how a plan names it
_DOOMED = ".doomed"  # suffix of a copy that is being removed
_DAMAGE = (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError)  # what a damaged file raises


class NoStore(Exception):
    """There is no store at the path."""


@dataclass(frozen=True)
class Rules:
    """What to remove: unused for `days`; least recently used while the store exceeds `gb`; only the `unreachable`."""

    days: float | None
    gb: float | None
    unreachable: bool


@dataclass(frozen=True)
class Copies:
    """The `folder` of code/ and inputs/; `active` are names of runs that a cluster may still start a pod of."""

    folder: Path
    active: Collection[str] = ()


@dataclass(frozen=True)
class _Artifact:
    path: Path
    used: float  # Unix time of the last run that used it
    size: int
    reachable: bool


def collect(root: Path, records: Path, rules: Rules, dry_run: bool, copies: Copies | None = None) -> None:
    """Remove what `rules` select from the store at `root`, and print it; `records` is the folder of recorded runs.

    `root` is written as plans write it. With `copies`, also from what was copied to this machine. Raises NoStore.
    """
    _check(root)
    if dry_run:
        _print_freed(_chosen(_artifacts(root, records, copies), rules), "would remove", "could be freed")
        return
    with _alone(root):
        _print_freed(_remove_chosen(root, _artifacts(root, records, copies), rules), "removed", "freed")


def _check(root: Path) -> None:
    if not root.is_dir():
        raise NoStore(f"{root}: no such store; set it with --store")


def _print_freed(artifacts: Sequence[_Artifact], removed: str, freed: str) -> None:
    for artifact in artifacts:
        print(f"{removed} {_name(artifact.path)}  {artifact.size / 1e6:.1f} MB")
    print(f"{sum(artifact.size for artifact in artifacts) / 1e6:.1f} MB {freed}")


@contextlib.contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Wait for another gc of the same store."""
    descriptor = files.open_lock(root / "locks" / "gc")
    try:
        files.lock(descriptor)
        yield
    finally:
        os.close(descriptor)


def _remove_chosen(root: Path, artifacts: Sequence[_Artifact], rules: Rules) -> list[_Artifact]:
    """Rename them first, while no run begins: a run must never find a half-removed artifact."""
    store, doomed = Store(root), root / "doomed"
    if doomed.exists():  # a gc that was killed left it
        shutil.rmtree(doomed)
    doomed.mkdir()
    with store.freeing() as needed:
        free = (one for one in artifacts if one.path.exists() and not _names(one.path) & needed)
        chosen = _chosen([one for one in free if not store.is_being_made(one.path.name)], rules)
        copies = [one.path for one in chosen if _is_copy(one.path)]
        moved = [path.rename(path.with_suffix(_DOOMED)) for path in copies if not _is_recent(path)]
        for number, artifact in enumerate(one for one in chosen if not _is_copy(one.path)):
            artifact.path.rename(doomed / str(number))
        store.forget_sums()
    for path in (doomed, *moved):
        shutil.rmtree(path)
    return [one for one in chosen if not one.path.exists()]


def _artifacts(root: Path, records: Path, copies: Copies | None) -> list[_Artifact]:
    """All artifacts, complete, partial or damaged, and copies, that no run in progress needs."""
    used: dict[str, float] = {}
    needed: set[str] = set()
    runs, active = recorded(records), set(copies.active if copies else ())
    for run in runs:
        names = _refers_to(run, root)
        used |= {name: max(used.get(name, 0), last_event(run)) for name in names}
        needed |= names if run.name in active or _is_in_progress(run) else set()
    folders = [
        path for kind in ("objects", "partial", "incoming", "damaged", COMPILED) for path in (root / kind).glob("*")
    ]
    folders += [path for path in [root / CACHE] if path.is_dir()]
    if copies and active <= {run.name for run in runs}:  # otherwise nothing here tells what a run needs
        folders += _unused_copies(copies.folder)
    free = (path for path in folders if not _names(path) & needed)
    return [artifact for path in free for artifact in _measured(path, used)]


def _measured(path: Path, used: Mapping[str, float]) -> Iterator[_Artifact]:
    """What is at `path`; nothing where another process moves it, or removes a part of it, meanwhile."""
    name = _name(path)
    with contextlib.suppress(FileNotFoundError):
        yield _Artifact(path, used.get(name, path.stat().st_mtime), _size(path), name in used)


def _names(path: Path) -> set[str]:
    """The names by which a run may need it: its own, or that of the compiler's folder as a whole."""
    return {_name(path), path.parent.name}


def _name(path: Path) -> str:
    """The name by which plans know an artifact or a copy."""
    return f"{path.parent.name}/{path.stem}" if _is_copy(path) else path.name


def _is_copy(path: Path) -> bool:
    return bool(_COPY.fullmatch(f"{path.parent.name}/{path.name.removesuffix(_DOOMED)}"))


def _unused_copies(folder: Path) -> list[Path]:
    """The copies that nobody brought or asked for within a day: the record of the run may come after them."""
    paths = (path for kind in ("code", "inputs") for path in files.inside(folder / kind))
    return [path for path in paths if _is_copy(path) and not _is_recent(path)]


def _is_recent(path: Path) -> bool:
    """Whether it is younger than a day, or removed meanwhile."""
    try:
        return time.time() - path.stat().st_mtime < _DAY
    except FileNotFoundError:
        return True


def _is_in_progress(run: Path) -> bool:
    """Whether its executor is alive, or its scheduler has a job that may start it: between two jobs of one run, or
    before the first, nothing but the record says what it needs. A record that does not tell counts as one in progress.
    """
    try:
        job = jobs.of_run(run)
        return in_progress(run) or bool(job and last_state(run) not in FINAL and job.state() != "gone")
    except _DAMAGE:
        return True


def _refers_to(run: Path, root: Path) -> set[str]:
    """Names in the store: what its steps make or read, and the compiled model of its server.

    Until the server has reported which compiled model it uses, the whole folder of them. Of a run whose plan is
    damaged, what it links to. Raises PermissionError where its record may not be read.
    """
    links = {path.name for link in files.inside(run / "artifacts") for path in _target(link)}
    reported = {event["compiled"] for event in read_events(run, "serving") if "compiled" in event}
    planned = _planned(run, root)
    return links | reported | (planned - {COMPILED} if reported else planned)


def _target(link: Path) -> Iterator[Path]:
    """Where a link leads; nothing of what is no link, or is removed meanwhile with its record."""
    with contextlib.suppress(FileNotFoundError):
        if link.is_symlink():
            yield link.readlink()


def _planned(run: Path, root: Path) -> set[str]:
    names: set[str] = set()
    try:
        text = (run / "plan.json").read_text(encoding="utf-8")
        names |= set(_COPY.findall(text))
        names |= names_used({**json.loads(text), "store": root})
    except PermissionError:
        raise
    except _DAMAGE as error:
        if run.exists():  # otherwise it was removed meanwhile
            print(f"{run / 'plan.json'} is damaged ({error}); of this run, only what it links to is kept")
    return names


def verify(root: Path) -> int:
    """Compare every finished artifact with its digests; a damaged one is moved aside, and made again when it is needed.

    Prints the damaged ones; returns their number. Raises NoStore.
    """
    _check(root)
    store, without, damaged = Store(root), 0, 0
    keys = sorted(path.name for path in (root / "objects").glob("*"))
    for key in keys:
        without += store.sums(key) is None
        damage = store.damage(key, digests=True)
        if damage:
            damaged += 1
            print(f"{key}: {damage}; {_moved_aside(store, key)}")
    earlier = f", {without} of an earlier version without digests" if without else ""
    print(f"{len(keys)} artifacts: {damaged} damaged{earlier}")
    return damaged


def _moved_aside(store: Store, key: str) -> str:
    try:
        return f"moved to {store.set_aside(key)}"
    except OSError as error:
        return f"cannot be moved aside: {error.filename}: {error.strerror}"


def _chosen(artifacts: Sequence[_Artifact], rules: Rules) -> list[_Artifact]:
    """The artifacts to remove. With the cache go the compile stages, which only say that they have filled it."""
    chosen = list(_selected(artifacts, rules))
    if not any(artifact.path.name == CACHE for artifact in chosen):
        return chosen
    compiled = [artifact for artifact in artifacts if artifact.path.name.startswith("compile-")]
    return [*chosen, *(artifact for artifact in compiled if artifact not in chosen)]


def _selected(artifacts: Sequence[_Artifact], rules: Rules) -> Iterator[_Artifact]:
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
