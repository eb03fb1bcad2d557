"""The frame of a report: sections without data are left out, and nothing but its own script may run."""

from __future__ import annotations

import base64
import hashlib
import re

from runner.record.report.page import Document, Section, Verdict, render


def rendered(verdict: Verdict, *sections: Section) -> str:
    return render(Document(["a run"], "a <title>", "Run <1>", verdict, [("State", "a & b")], sections))


def test_only_the_pages_own_script_may_run() -> None:
    page = rendered(Verdict("Stopped"))
    [script] = re.findall(r"<script>(.*)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in page


def test_texts_are_escaped() -> None:
    page = rendered(Verdict("Failed", bad=True, reason="<no>"))
    assert "<title>a &lt;title&gt;</title>" in page
    assert "<dt>State</dt><dd>a &amp; b</dd>" in page
    assert '<p class="verdict bad">Failed</p>\n<p class="lead"><code>&lt;no&gt;</code></p>' in page


def test_a_verdict_shows_before_and_after() -> None:
    assert 'Loss <span class="base">2</span> → <strong>1</strong></p>' in rendered(Verdict("Loss", "2", "1"))


def test_a_section_without_data_is_left_out() -> None:
    message = {"stage": "train", "message": "3 rows are <long>"}
    page = rendered(Verdict("Stopped"), Section("messages", "Messages", [message]), Section("data", "Data", None))
    assert "<li><b>train: </b>3 rows are &lt;long&gt;</li>" in page
    assert re.findall(r'<section id="(\w+)">', page) == re.findall(r'<a href="#(\w+)">', page) == ["messages"]
