"""Start a run from a recipe with changed keys, which are checked as those on a command line; cancel one."""

from __future__ import annotations

import shlex
import threading
from pathlib import Path

from runner import targets
from runner.commands.lifecycle import begin, prepare
from runner.commands.plan import derived_values, state_of
from runner.compose.composed import Composed
from runner.compose.recipe import compose, recipe_names
from runner.execute.store import Store
from runner.ui import pages, picture, web
from runner.ui.errors import BadRequest
from runner.ui.site import Site
from runner.ui.web import Request, Response, Routes

_HYDRA = threading.Lock()  # composing uses global state


def _page(request: Request) -> Response:
    overrides = "\n".join(request.query.get("override", []))
    return pages.page(
        "start.html", title="Start a run", here="/start", recipes=recipe_names(),
        recipe=request.first("recipe", "quickstart"), overrides=overrides,
    )  # fmt: skip


def _plan(request: Request) -> Response:
    """What would run, and the command that does the same. RecipeError says what is wrong, as the command does."""
    composed = _composed(request)
    _, plan = prepare(composed)
    store = Store(plan.store)
    states = {step.stage: {"state": state_of(step, store).partition(",")[0]} for step in plan.steps}
    return web.as_json(
        {
            "picture": picture.draw(plan.steps, states),
            "facts": list(derived_values(composed.recipe, plan, store)),
            "notes": composed.notes,
            "command": shlex.join(["runner", "run", *_asked(request), "--detach"]),
        }
    )


def _start(request: Request) -> Response:
    """Start a detached run: it goes on when the page or its server is closed."""
    composed = _composed(request)
    target, plan = prepare(composed)
    run = begin(composed, plan, target, attached=False)
    return web.as_json({"run": run.name})


def _composed(request: Request) -> Composed:
    name, *overrides = _asked(request)
    with _HYDRA:
        return compose(name, [*overrides, *_runs_folder(request.site, overrides)])


def _asked(request: Request) -> list[str]:
    """The recipe and the overrides: one a line, as they are typed without a shell's quotes."""
    asked = request.json()
    if not all(isinstance(asked.get(name), str) for name in ("recipe", "overrides")):
        raise BadRequest("recipe and overrides: texts are needed")
    lines = (line.strip() for line in asked["overrides"].splitlines())
    return [asked["recipe"].strip(), *filter(None, lines)]


def _runs_folder(site: Site, overrides: list[str]) -> list[str]:
    """The override that records a run where this page shows it, if it would be recorded elsewhere."""
    folder = site.folder.absolute()
    is_set = any(override.lstrip("+").startswith("paths.runs=") for override in overrides)
    return [] if is_set or folder == Path("runs").absolute() else [f"paths.runs={folder}"]


def _cancel(request: Request) -> Response:
    run = request.site.run(request.rest)
    return web.as_json({"state": targets.of_run(run).cancel(run)})


ROUTES: Routes = {
    ("GET", "/start"): _page,
    ("POST", "/api/plan"): _plan,
    ("POST", "/api/start"): _start,
    ("POST", "/api/cancel/*"): _cancel,
}
