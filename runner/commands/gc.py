"""`runner gc`: frees the store of this machine, of another one or of a cluster; see `runner.execute.gc`."""

from __future__ import annotations

import argparse
import errno

from runner import targets
from runner.errors import RecipeError
from runner.execute import gc
from runner.record import runs

_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


def gc_command(args: argparse.Namespace) -> int:
    """Free space, or check what a store holds."""
    if args.days is None and args.gb is None and not args.unreachable and not args.verify:
        raise RecipeError("gc: choose what to remove: --unreachable, --days N or --gb N; or check it with --verify")
    return _elsewhere(args) if args.host or args.of else _here(args)


def _here(args: argparse.Namespace) -> int:
    try:
        if args.verify:
            return min(gc.verify(args.store), 1)
        rules = gc.Rules(args.days, args.gb, args.unreachable)
        gc.collect(args.store.absolute(), args.folder, rules, args.dry_run)
    except gc.NoStore as error:
        raise RecipeError(f"gc: {error}") from None
    except OSError as error:
        if error.errno not in _FORBIDDEN:
            raise
        advice = "only who may write to the store and read the records can clear it; --dry-run shows what would go"
        raise RecipeError(f"gc: {error.filename or args.store}: {error.strerror}; {advice}") from error
    return 0


def _elsewhere(args: argparse.Namespace) -> int:
    """The store and the records are those of the folder on the host, or of the folder that a run was sent to."""
    flags = [f"--{name}={getattr(args, name)}" for name in ("days", "gb") if getattr(args, name) is not None]
    flags += [f"--{name.replace('_', '-')}" for name in ("unreachable", "dry_run", "verify") if getattr(args, name)]
    if args.host:
        return targets.on_host(args.host).gc([str(args.folder), "--store", str(args.store), *flags], print)
    run = runs.find(args.of, args.folder)
    return targets.of_run(run).gc(["runs", "--store", run.plan["store"], *flags], print)
