"""What is sent of a conversation that somebody types: the turns so far, and the next question as it was trained."""

from __future__ import annotations

from collections.abc import Sequence

from common.data.template import Template

Turn = dict[str, str]  # role, content


def opening(template: Template, system: str | None = None) -> list[Turn]:
    """The turns before the first question: the `system` message, by default the template's; empty for none.

    One that names columns is left out: nobody types them.
    """
    if system is None and not template.columns(template.system or ""):
        system = template.system_message({})
    return [{"role": "system", "content": system}] if system else []


def with_question(turns: Sequence[Turn], text: str, template: Template) -> list[Turn]:
    """The turns and a typed question after them, written as a question of the training data."""
    return [*turns, {"role": "user", "content": template.typed(text)}]
