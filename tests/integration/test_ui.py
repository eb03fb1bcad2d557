"""`runner ui` in a real browser: what a person sees and types, and what a page of another site can do."""

from __future__ import annotations

import contextlib
import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import chromium
import pytest
from chromium import Page
from cluster_runs import a_run as a_job
from far_runs import a_far_run, start
from http_answers import Answers
from slurm_cluster import missing, slurm_cluster
from ssh_host import SSHD, ssh_host

from runner import targets
from runner.execute import agent
from runner.record.runs import Run
from tests.runner.records import a_run, a_sweep, start_at, waiting
from tests.runner.trained_run import trained_run
from tests.runner.ui.served import Browser, served

pytestmark = pytest.mark.skipif(chromium.PROGRAM is None, reason="no Chromium: apt-get install chromium")
ROWS = "document.querySelectorAll('#runs tbody tr').length"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Browser]:
    with served(tmp_path / "runs") as stranger:
        yield stranger


@pytest.fixture
def page(tmp_path: Path, server: Browser) -> Iterator[Page]:
    """A browser that has opened the printed address. In the end nothing was asked of anybody else, nor complained."""
    with chromium.opened(tmp_path) as page:
        page.open(server.server.url)
        yield page
        assert page.console == []
        assert [address for address in page.requests if not address.startswith(server.origin)] == []


WIDER = """[...document.body.querySelectorAll("*")]
  .filter((one) => document.documentElement.scrollWidth > innerWidth && one.getBoundingClientRect().right > innerWidth)
  .map((one) => one.outerHTML.slice(0, 80))"""


def wider_than_the_window(page: Page) -> list[str]:
    """What makes a page wider than its window, in either colour scheme, narrow and wide."""
    page.wait("document.readyState === 'complete'")  # with its style sheets
    found = []
    for width, dark in ((390, False), (390, True), (1280, False), (1280, True)):
        page.look(width, dark=dark)
        found += page.run(WIDER)
    return found


def report_steps(run: Run, steps: range) -> None:
    """What a training reports of its steps."""
    lines = []
    for at in steps:
        lines.append({"event": "metric", "stage": "train", "at": at, "values": {"loss": 1 / at}})
        lines.append(
            {"event": "progress", "stage": "train", "time": 100.0 + at, "done": at, "total": 6000, "unit": "step"}
        )
    with (run.folder / "events.jsonl").open("a") as events:
        events.write("".join(f"{json.dumps(line)}\n" for line in lines))


def test_a_thousand_runs_are_read_filtered_and_scrolled(page: Page, server: Browser, tmp_path: Path) -> None:
    first = a_run(tmp_path, loss=0.5)
    for number in range(999):
        copy = tmp_path / f"copy-{number:03d}"  # aside, as every record is made
        copy.mkdir()
        for name in ("manifest.json", "plan.json", "recipe.yaml", "events.jsonl"):
            shutil.copy(first.folder / name, copy)
        if number == 500:
            start_at(Run(copy), "2020-01-01T00:00:00+00:00")
        copy.rename(tmp_path / "runs" / copy.name)
    page.open(f"{server.origin}/")
    page.wait("document.getElementById('count').textContent === '1000 runs'")
    assert page.run(ROWS) == 100
    page.run("scrollTo(0, document.body.scrollHeight)")
    page.wait(f"{ROWS} > 100")
    assert wider_than_the_window(page) == []
    page.run("document.querySelector('[data-by=started] button').click()")
    page.wait("document.querySelector('#runs tbody .name a').textContent === 'copy-500'")
    page.run("document.getElementById('filter').focus()")
    page.call("Input.insertText", text="copy-7 finished")
    page.wait(f"{ROWS} === 100 && document.getElementById('count').textContent === '100 of 1000 runs'")
    page.open(page.run("location.href"))  # what was chosen stays
    page.wait("document.getElementById('count').textContent === '100 of 1000 runs'")


def test_runs_are_compared_by_the_keyboard_alone(page: Page, server: Browser, tmp_path: Path) -> None:
    for rank in (4, 8):
        trained_run(tmp_path, f"train.lora.rank={rank}", key=str(rank), accuracy=rank / 32)
    page.open(f"{server.origin}/")
    page.wait(f"{ROWS} === 2")
    focused = "document.activeElement.getAttribute('aria-label') ?? document.activeElement.textContent"
    ticked = 0
    while ticked < 2:
        page.press("Tab", 9)
        if page.run(focused).startswith("compare "):
            page.press(" ", 32, " ")
            ticked += 1
    while page.run(focused) != "Compare 2 runs":
        page.call("Input.dispatchKeyEvent", type="keyDown", key="Tab", windowsVirtualKeyCode=9, modifiers=8)
    page.press("Enter", 13, "\r")
    page.wait("location.pathname === '/compare' && document.querySelector('.ranking tbody tr')")
    assert page.run("document.querySelector('.ranking td.best').textContent") == "25.0%"
    assert wider_than_the_window(page) == []


def test_a_chart_of_5000_steps_grows(page: Page, server: Browser, tmp_path: Path) -> None:
    run = waiting(tmp_path)
    report_steps(run, range(1, 5001))
    page.open(f"{server.origin}/runs/{run.name}")
    page.wait("document.querySelector('[data-part=progress]')?.textContent.includes('5000/6000 step')")
    last = "document.querySelector('[data-part=training] svg').getAttribute('aria-label')"
    assert "at step 5000" in page.run(last)
    page.wait("document.getElementById('log-lines').textContent === 'at work'")
    assert wider_than_the_window(page) == []
    report_steps(run, range(5001, 5011))
    page.wait(f"{last}.includes('at step 5010')")
    page.run("document.querySelector('[data-part=training] svg').focus()")
    page.press("ArrowRight", 39)
    page.wait("document.querySelector('.readout').textContent.startsWith('step ')")
    page.run("window.confirm = () => true")
    page.run("document.querySelector('[data-post]').focus()")
    page.press("Enter", 13, "\r")
    page.wait("document.querySelector('.verdict').textContent.startsWith('Stopped')")
    assert run.state == "stopped"


def test_a_sweep_leads_to_its_trials(page: Page, server: Browser, tmp_path: Path) -> None:
    a_sweep(tmp_path, "s", "adapter.execution_accuracy", "maximize")
    for number, (rank, epochs) in enumerate([(2, 1), (4, 2), (2, 2)]):
        overrides = (f"train.lora.rank={rank}", f"train.epochs={epochs}")
        trained_run(tmp_path, *overrides, trial=f"s/00{number}", key=str(number), accuracy=number / 4)
    page.open(f"{server.origin}/sweeps/s")
    page.wait("document.querySelector('svg.parallel')")
    assert wider_than_the_window(page) == []
    page.run("document.querySelector('.ranking a').click()")
    page.wait("location.pathname === '/runs/s/002'")


def test_a_mistake_is_told_while_it_is_typed(page: Page, server: Browser) -> None:
    page.open(f"{server.origin}/start")
    page.wait("document.querySelector('#start button').disabled === false")
    page.run("document.getElementById('overrides').focus()")
    page.call("Input.insertText", text="tp_sise=2")
    page.wait("document.getElementById('mistake').textContent.includes('did you mean tp_size?')")
    assert page.run("document.querySelector('#start button').disabled")
    assert wider_than_the_window(page) == []
    page.console.clear()  # the browser notes that the server answered 400


class Attacker(Answers, BaseHTTPRequestHandler):
    """A page of another site that tries all a page can, with the cookies of the browser; it knows the port."""

    def do_GET(self) -> None:
        port, run = self.path.strip("/").split("/")
        target = f"http://127.0.0.1:{port}"
        self.answer(200, ATTACK.replace("TARGET", target).replace("RUN", run).encode(), "text/html")


ATTACK = """<iframe src="TARGET/"></iframe><script>
const tries = [
  fetch("TARGET/api/cancel/RUN", {method: "POST", mode: "no-cors", credentials: "include", body: "{}"}),
  fetch("TARGET/api/cancel/RUN", {method: "POST", credentials: "include", body: "{}"}),
  fetch("TARGET/api/runs", {credentials: "include"}).then((answer) => answer.text()),
];
const frame = document.createElement("form");
frame.method = "post"; frame.action = "TARGET/api/cancel/RUN"; frame.target = "hidden";
document.body.append(Object.assign(document.createElement("iframe"), {name: "hidden"}), frame);
frame.submit();
Promise.allSettled(tries).then((all) => { document.title = all.map((one) => one.status).join(" "); });
</script>"""


@contextlib.contextmanager
def attacker() -> Iterator[int]:
    with HTTPServer(("127.0.0.1", 0), Attacker) as other:
        thread = threading.Thread(target=other.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield other.server_port
        finally:
            other.shutdown()
            thread.join()


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])  # of the same site as the server, and of another
def test_a_page_of_another_origin_can_do_nothing(server: Browser, tmp_path: Path, name: str) -> None:
    run = waiting(tmp_path)
    with chromium.opened(tmp_path) as page, attacker() as port:
        page.open(server.server.url)
        page.wait(f"{ROWS} === 1")
        page.open(f"http://{name}:{port}/{server.server.server_port}/{run.name}")
        page.wait("document.title")
        assert page.run("document.title") in ("fulfilled rejected rejected", "rejected rejected rejected")
        assert any("frame" in line.lower() for line in page.console)  # nor can it show our page in its own
    assert run.in_progress
    agent.cancel(run.folder)


# argv: the output folder. Reports steps and losses until it is ended.
STEPS = """
import itertools, json, os, time
for n in itertools.count(1):
    progress = {"event": "progress", "done": n, "total": 100000, "unit": "step"}
    metric = {"event": "metric", "at": n, "values": {"loss": 1 / n}}
    with open(os.environ["RUNNER_EVENTS"], "a") as stream:
        for event in (progress, metric):
            stream.write(json.dumps({"time": time.time(), "stage": "train", **event}) + "\\n")
    print("line", n, flush=True)
    time.sleep(0.02)
"""


@pytest.mark.skipif(not Path(SSHD).exists(), reason="no sshd")
def test_a_run_on_another_machine_is_watched_and_cancelled(
    page: Page, server: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    with ssh_host(tmp_path / "a host", home) as host:
        run = a_far_run(tmp_path, host, STEPS)
        start(run)
        watch_and_cancel(page, server, run, host.name)


@pytest.mark.skipif(bool(missing()), reason=missing())
def test_a_run_on_a_cluster_is_watched_and_cancelled(page: Page, server: Browser, tmp_path: Path) -> None:
    (tmp_path / "slurm").mkdir()
    with slurm_cluster(tmp_path / "slurm"):
        run = a_job(tmp_path, {"train": STEPS}, "target=slurm", f"target.folder={tmp_path}/shared")
        start(run)
        watch_and_cancel(page, server, run, "slurm")


def watch_and_cancel(page: Page, server: Browser, run: Run, where: str) -> None:
    """See a run with endless steps go on, in the list and on its own page, and end it there."""
    page.open(f"{server.origin}/")
    row = "document.querySelector('#runs tbody tr')"
    for shown in ("running", "train", where):
        page.wait(f"{row}?.textContent.includes('{shown}')")
    page.wait(f"/[1-9][0-9]*.100000/.test({row}.textContent)")
    page.open(f"{server.origin}/runs/{run.name}")
    page.wait("/[0-9]+.100000 step/.test(document.querySelector('[data-part=progress]')?.textContent)")
    page.wait("document.getElementById('log-lines').textContent.includes('line ')")
    step = page.run("document.querySelector('[data-part=progress]').textContent")
    page.wait(f"document.querySelector('[data-part=progress]').textContent !== {json.dumps(step)}")
    page.run("window.confirm = () => true")
    page.run("document.querySelector('[data-post]').click()")
    page.wait("document.querySelector('.verdict').textContent.startsWith('Stopped')")
    assert targets.of_run(run).state(run) == "stopped"
