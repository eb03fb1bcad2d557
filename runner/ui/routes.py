"""The table of all routes: each module of pages has its own, and is named here and in `pages.NAVIGATION`."""

from __future__ import annotations

from runner.ui import pages, run_list
from runner.ui.web import Routes

ROUTES: Routes = {**pages.ROUTES, **run_list.ROUTES}
