"""Draw docs/quickstart.svg: a terminal with docs/quickstart.txt, what `make run` printed in a fresh clone.

    PYTHONPATH=. python tests/data/pictures/make.py             (part of make golden)
    PYTHONPATH=. python tests/data/pictures/make.py --record    run it again first, in an empty folder

The picture asks the network for nothing: it names fonts of the system.
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tempfile

from rich.console import Console
from rich.terminal_theme import DIMMED_MONOKAI
from rich.text import Text

from runner.paths import ROOT

OUTPUT = ROOT / "docs" / "quickstart.txt"
PICTURE = ROOT / "docs" / "quickstart.svg"
_WEB_FONTS = re.compile(r"\s*@font-face \{.*?\}", re.S)


def picture() -> str:
    """The terminal as SVG."""
    text = Text.assemble(("$ ", "green"), ("make run\n", "bold"), OUTPUT.read_text(encoding="utf-8").rstrip())
    console = Console(record=True, width=max(map(len, text.plain.splitlines())), file=io.StringIO())
    console.print(text, highlight=False)
    drawn = console.export_svg(title="trainium-recipes", theme=DIMMED_MONOKAI, unique_id="quickstart")
    return _WEB_FONTS.sub("", drawn).replace("Fira Code", "ui-monospace, Menlo, Consolas")


def record() -> None:
    """Run the quickstart; nothing is written if it fails."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "runner", "run", "quickstart"]
        done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, check=True)
    OUTPUT.write_text(done.stdout, encoding="utf-8")


if __name__ == "__main__":
    if "--record" in sys.argv:
        record()
    PICTURE.write_text(picture(), encoding="utf-8")
