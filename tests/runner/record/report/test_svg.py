"""Only markup stays markup."""

from __future__ import annotations

from markupsafe import Markup

from runner.record.report.svg import element


def test_texts_and_attributes_are_escaped() -> None:
    drawn = element("text", "<b>", element("title", "&"), data_name='"<', class_="note", stroke_width=2)
    assert drawn == ('<text data-name="&#34;&lt;" class="note" stroke-width="2">&lt;b&gt;<title>&amp;</title></text>')
    assert element("g", Markup("<i/>")) == "<g><i/></g>"
