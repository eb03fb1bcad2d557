"""The report in a real browser: headless Chromium opens it from the disk."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from runner.record import report
from tests.runner.trained_run import sample, trained_run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --enable-logging=stderr --virtual-time-budget=2000 --dump-dom"
)
MOVE = """
const chart = document.querySelector("svg[data-points]"), box = chart.getBoundingClientRect();
chart.dispatchEvent(new PointerEvent("pointermove", {bubbles: true, clientX: box.right, clientY: box.top + 9}));
document.title = document.querySelector(".readout").textContent;
const heading = [...document.querySelectorAll(".ranking th button")].find((one) => one.textContent === "rank");
if (heading) { heading.click(); heading.click(); }
const labels = [...document.querySelectorAll(".filter + label")];
if (labels.length) labels.find((one) => one.textContent.startsWith("Wrong")).click();
for (const article of document.querySelectorAll("article")) article.dataset.seen = article.checkVisibility();
"""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium")


def opened(page: Path) -> tuple[str, list[str]]:
    """The document as the browser made it, and what it wrote to its console."""
    profile = page.parent / "profile"
    command = [str(CHROMIUM), *QUIET.split(), f"--user-data-dir={profile}", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    shutil.rmtree(profile)
    return done.stdout, [line for line in done.stderr.splitlines() if ":CONSOLE" in line]


def scripted(page: Path) -> Path:
    """A copy of a report in which a visitor acts: the page itself lets no script in but its own."""
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text())
    copy = page.with_name("scripted.html")
    copy.write_text(text.replace("</body>", f"<script>{{{MOVE}}}</script></body>"))
    return copy


@pytest.fixture
def listener():
    """A socket on this machine that nobody should connect to."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        yield server


def connections(listener: socket.socket) -> int:
    count = 0
    while True:
        try:
            listener.accept()[0].close()
        except BlockingIOError:
            return count
        count += 1


def hostile(listener: socket.socket) -> str:
    image = f"<img src='http://127.0.0.1:{listener.getsockname()[1]}/' onerror=\"document.title='taken'\">"
    return f"</pre></script><script>document.title='taken'</script>{image}"


def test_a_page_with_hostile_samples_is_quiet_and_whole(tmp_path: Path, listener: socket.socket) -> None:
    text = hostile(listener)
    run = trained_run(tmp_path, samples=[sample(text), sample("SELECT 2")])
    recipe = run.folder / "recipe.yaml"  # composing refuses such a name; a record may come from elsewhere
    recipe.write_text(recipe.read_text().replace("name: quickstart\n", "name: <b>bold\n", 1))
    dom, console = opened(report.write([run], tmp_path / "report.html"))
    assert console == []
    assert connections(listener) == 0
    assert "<title>&lt;b&gt;bold</title>" in dom
    assert "<img" not in dom
    assert dom.count("document.title='taken'&lt;/script&gt;") == 4
    assert len(re.findall(r'<polyline points="[^"]+" class="line', dom)) == 4


def test_a_foreign_script_would_be_refused_and_heard_of(tmp_path: Path, listener: socket.socket) -> None:
    """The second wall: were the escaping broken, the content policy would still stand, and the test would tell."""
    page = report.write([trained_run(tmp_path)], tmp_path / "report.html")
    page.write_text(page.read_text().replace("<h1>", f"<h1>{hostile(listener)}"))
    dom, console = opened(page)
    assert "<title>quickstart</title>" in dom
    assert len(console) >= 2 and all("Content Security Policy" in line for line in console)
    assert connections(listener) == 0


def test_the_pointer_reads_the_curves_and_filters_choose_samples(tmp_path: Path) -> None:
    samples = [sample("one", adapter=True), sample("two", adapter=False)]
    page = report.write([trained_run(tmp_path, samples=samples)], tmp_path / "report.html")
    dom, console = opened(scripted(page))
    assert console == []
    assert "<title>step 120.08333</title>" in dom
    assert re.findall(r'<article[^>]*data-seen="(\w+)"', dom) == ["false", "true"]


def test_a_sweep_is_drawn_and_its_table_sorts(tmp_path: Path, listener: socket.socket) -> None:
    trials = [
        trained_run(tmp_path, f"train.lora.rank={rank}", f"dataset.name={hostile(listener)!r}", key=str(rank),
                    accuracy=rank / 32)
        for rank in (16, 2, 8)
    ]  # fmt: skip
    dom, console = opened(scripted(report.write(trials, tmp_path / "report.html")))
    assert console == []
    assert connections(listener) == 0
    ranks = re.findall(r'<td class="number" data-value="(\d+)">\d+</td>', dom.partition("</table>")[0])
    assert ranks == ["16", "8", "2"]
    assert dom.count('class="line run') == 4 * 3
