"""What transformers gives to a chat template is there, and Python is not."""

from __future__ import annotations

import jinja2
import pytest

from common.data.chat_sandbox import environment


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ {'a': '<é>'} | tojson }}", '{"a": "<é>"}'),
        ("{{ strftime_now('%d %b %Y') }}", "26 Jul 2024"),
        ("{% generation %}{{ 1 }}{% endgeneration %}", "1"),
        ("{% for n in range(9) %}{% if n == 2 %}{% break %}{% endif %}{{ n }}{% endfor %}", "01"),
    ],
)
def test_what_a_template_may_use(source: str, text: str) -> None:
    assert environment().from_string(source).render() == text


@pytest.mark.parametrize("source", ["{{ raise_exception('no') }}", "{{ ''.__class__.__mro__ }}", "{{ [].append(1) }}"])
def test_what_it_may_not(source: str) -> None:
    with pytest.raises(jinja2.TemplateError):
        environment().from_string(source).render()
