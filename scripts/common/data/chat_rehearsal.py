"""Renders a chat template for the first time, in a process of its own with limits. Needs `jinja2`.

A template is a program that comes with a model. Jinja's sandbox keeps it from everything but time and memory, so one
that does not end, or that grows, is found here before it is rendered elsewhere.

Standard input is {"source": the template, "special": the special tokens by name}.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from common.data.chat_sandbox import environment
from common.process_limits import limit_cpu_seconds, limit_memory
from common.program import BadInput

_SCRIPTS = Path(__file__).parents[2]
_CPU_SECONDS = 2  # the largest templates take some hundredths for all conversations
_MEMORY = 512 * 2**20  # bytes of address space, of which Python takes some 50 MB
_LONGEST = 1_000_000  # characters that are written for a short conversation
_TOO_LARGE = 3  # exit status
_PATIENCE = 60.0  # seconds; no template can sleep, but a machine can be busy

_TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather of a city.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
]
_CALL = {"type": "function", "id": "call00001", "function": {"name": "weather", "arguments": {"city": "Seoul"}}}
_TURNS: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "How is the weather in Seoul?"},
    {"role": "assistant", "content": "", "tool_calls": [_CALL]},
    {"role": "tool", "content": "sunny", "name": "weather", "tool_call_id": "call00001"},
    {"role": "assistant", "content": "Sunny.", "reasoning_content": "The tool says so."},
    {"role": "user", "content": "Thanks."},
    {"role": "assistant", "content": "You are welcome."},
]
# Some templates refuse a system turn, tools, or turns that do not alternate.
_CONVERSATIONS = [*(_TURNS[:count] for count in range(1, len(_TURNS) + 1)), _TURNS[1:2], _TURNS[5:]]


class Unbounded(BadInput):
    """A chat template takes too much time or memory."""


def rehearse(folder: Path, source: str, special: Mapping[str, str]) -> None:
    """Raise Unbounded, which names the model's `folder`, where the template takes too much time or memory."""
    problem = _problem(json.dumps({"source": source, "special": special}))
    if problem:
        raise Unbounded(
            f"{folder}: its chat template {problem} for a short conversation; name another model's tokenizer "
            "(model.tokenizer)"
        )


@lru_cache(maxsize=8)  # a program may open the same model more than once
def _problem(request: str) -> str:
    command = [sys.executable, "-m", "common.data.chat_rehearsal"]
    try:
        status = subprocess.run(
            command, cwd=_SCRIPTS, input=request, encoding="utf-8", timeout=_PATIENCE, check=False,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        ).returncode  # fmt: skip
    except subprocess.TimeoutExpired:
        status = -signal.SIGXCPU
    if status == -signal.SIGXCPU:
        return f"takes more than {_CPU_SECONDS} s"
    if status == _TOO_LARGE:
        return f"takes more than {_MEMORY // 2**20} MB, or writes more than {_LONGEST:,} characters,"
    return f"ends Python (status {status})" if status else ""


def main() -> int:
    """Entry point: status 0 if the template keeps the limits, whether it writes or refuses the conversations."""
    request = json.load(sys.stdin)
    limit_cpu_seconds(_CPU_SECONDS)
    limit_memory(_MEMORY)
    try:
        _render_all(request["source"], request["special"])
    except MemoryError:
        return _TOO_LARGE
    return 0


def _render_all(source: str, special: Mapping[str, str]) -> None:
    try:
        template = environment().from_string(source)
    except MemoryError:
        raise
    except Exception:  # it cannot be read, which is said where a chat is asked for
        return
    for messages in _CONVERSATIONS:
        for tools in (None, _TOOLS):
            values = {"messages": messages, "tools": tools, "documents": None, **special}
            try:
                text = template.render(add_generation_prompt=messages[-1]["role"] != "assistant", **values)
            except MemoryError:
                raise
            except Exception:  # it refuses this conversation
                continue
            if len(text) > _LONGEST:
                raise MemoryError


if __name__ == "__main__":
    sys.exit(main())
