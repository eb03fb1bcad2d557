"""The table of all routes: each module of pages has its own, and is named here and in `pages.NAVIGATION`."""

from __future__ import annotations

from runner.ui import comparison_page, pages, playground_page, report_page, run_list, run_page, start_page
from runner.ui.web import Routes

ROUTES: Routes = {
    **pages.ROUTES,
    **run_list.ROUTES,
    **run_page.ROUTES,
    **comparison_page.ROUTES,
    **report_page.ROUTES,
    **start_page.ROUTES,
    **playground_page.ROUTES,
}
