"""`runner ui`: starts the server and opens the browser."""

from __future__ import annotations

import argparse
import os
import sys
import webbrowser

from runner.commands.arguments import UI_PORT
from runner.commands.lifecycle import terminate_as_interrupt
from runner.errors import RecipeError
from runner.record import runs
from runner.ui.server import Server
from runner.ui.site import Site


def ui_command(args: argparse.Namespace) -> int:
    """Serve the pages until Ctrl-C. Raises OSError where the folder cannot be read."""
    runs.recorded(args.folder)
    with _server(Site(args.folder), args.port) as server, terminate_as_interrupt():
        print(f"Runs in {args.folder} at {server.url} (Ctrl-C ends the page; runs go on)", flush=True)
        if not args.no_browser and _has_display():
            webbrowser.open(server.url)
        server.serve_forever()
    return 0


def _server(site: Site, port: int | None) -> Server:
    try:
        return Server(site, UI_PORT if port is None else port)
    except (OSError, OverflowError) as error:
        if port is None:
            return Server(site)
        reason = error.strerror if isinstance(error, OSError) else "no port"
        raise RecipeError(f"--port: {port}: {reason}; choose another, or leave it out for any free one") from error


def _has_display() -> bool:
    """Without one, `webbrowser` would start a browser in the terminal."""
    return sys.platform == "darwin" or any(name in os.environ for name in ("DISPLAY", "WAYLAND_DISPLAY"))
