"""A model's chat template: the one way in which training, evaluation and serving write a conversation.

Needs `jinja2`; importing transformers for it would take 5 s.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from common.data import chat_rehearsal, chat_sandbox
from common.data.chat_sandbox import TODAY
from common.data.conversation import THOUGHTS, Conversation, Message
from common.data.special_tokens import special_tokens, tokenizer_settings
from common.program import BadInput

Messages = list[Message]

_ANSWER = "answer"  # of the conversation that shows what a template writes around one


class ChatTemplate:
    """The compiled template of a model folder, which has been rehearsed within limits (common.data.chat_rehearsal)."""

    def __init__(self, folder: Path, source: str) -> None:
        self._special = special_tokens(folder)
        chat_rehearsal.rehearse(folder, source, self._special)
        try:
            self._compiled = chat_sandbox.environment().from_string(source)
        except Exception as error:  # not only its own errors: Jinja computes expressions of constants here
            raise BadInput(f"{folder}: its chat template cannot be read: {error}") from error
        self._has_date = "strftime_now" in source
        self._thoughts = [key for key in THOUGHTS if re.search(rf"\b{key}\b", source)]
        self.takes_tools = "tools" in source

    @classmethod
    def of(cls, folder: Path) -> ChatTemplate | None:
        """The template of a model folder, None where it has none. Raises BadInput for a broken one."""
        source = _source(folder)
        return cls(folder, source) if source else None

    def render(self, messages: Messages, add_generation_prompt: bool = True, tools: Sequence[Any] | None = None) -> str:
        """The turns as text, by default up to where the assistant begins. BadInput where the template refuses them."""
        named = [self._with_thoughts(message) for message in messages]
        values = {"messages": named, "tools": tools or None, "documents": None, **self._special}
        try:
            return self._compiled.render(add_generation_prompt=add_generation_prompt, **values)
        except Exception as error:  # a template is a program of others: whatever it raises, it refuses
            raise BadInput(f"the model's chat template refused the conversation: {error}") from error

    def exchange(self, messages: Messages, answer: Message, tools: Sequence[Any] | None = None) -> tuple[str, str]:
        """The prompt of `messages`, and what follows it when the assistant answers, up to the mark that ends its turn.

        Some templates write the prompt in another way once an answer follows: they leave the beginning of a thought
        out, or put the system's words into the last turn. What is learnt follows the prompt as it is asked.
        """
        prompt = self.render(messages, tools=tools)
        whole = self.render([*messages, answer], add_generation_prompt=False, tools=tools)
        if whole.startswith(prompt):
            return prompt, self._up_to_mark(whole[len(prompt) :])
        if not answer.get("tool_calls"):
            return prompt, _after_opening(prompt, answer) + self.end_mark
        before = self.render(messages, add_generation_prompt=False, tools=tools) + self._heading
        if not whole.startswith(before):
            raise BadInput("the model's chat template changes the prompt when a tool call follows it")
        return prompt, self._up_to_mark(whole[len(before) :])

    def cut(self, conversation: Conversation) -> list[str] | None:
        """The text of a conversation, cut before and after each answer to learn: every second piece is one.

        None where the template writes earlier turns in another way once others follow, as those do that leave out
        thoughts: then no single text has all answers as the model is asked for them.
        """
        messages, tools = conversation.messages, conversation.tools
        afters = [self.render(messages[: place + 1], False, tools) for place in conversation.answers]
        whole, pieces, end = afters[-1], [], 0
        for place, after in zip(conversation.answers, afters, strict=True):
            before = self.render(messages[:place], tools=tools)
            if not (whole.startswith(after) and after.startswith(before) and len(before) >= end):
                return None
            answer = self._up_to_mark(after[len(before) :])
            pieces += [whole[end : len(before)], answer]
            end = len(before) + len(answer)
        return pieces

    def writes(self, answer: Message, prompt: str, text: str) -> bool:
        """Whether `text`, which the template wrote for this answer after its prompt, has its words and no others."""
        if answer.get("tool_calls"):
            return all(call["function"]["name"] in text for call in answer["tool_calls"])
        words, written = _letters(answer["content"] + self.end_mark), _letters(text)
        if self.writes_thoughts(answer, text):
            return written.endswith(words)
        begun = words.removesuffix(written) if words.endswith(written) else ""  # by the prompt, such as <think>
        return _letters(prompt).endswith(begun) if begun else written in {_letters(s) + words for s in self._starts}

    def writes_thoughts(self, answer: Message, text: str) -> bool:
        """Whether `text`, which the template wrote for this answer, has its thoughts, between marks of the template."""
        thoughts = _letters(answer.get("reasoning_content", ""))
        return bool(thoughts) and thoughts in _letters(text)

    def warnings(self) -> Iterator[str]:
        """Where other programs may make other prompts of the template, a line each."""
        if self._has_date:
            yield (
                f"the chat template may write the date: here it is always {TODAY:%d %b %Y}, so that the same rows give "
                "the same tokens; a server that writes today's reads other prompts"
            )
        if not self.answers_follow_prompts:
            yield (
                "the chat template's prompt ends in text that it leaves out before an answer, such as the beginning of "
                "a thought: answers are learnt right after the prompt, as they are asked for"
            )

    @cached_property
    def end_of_turn(self) -> str:
        """What the template writes after an answer, perhaps nothing."""
        return self._with_answer.rpartition(_ANSWER)[2]

    @cached_property
    def end_mark(self) -> str:
        """What ends a generated answer, without what the template writes behind it."""
        return self.end_of_turn.rstrip()

    def _up_to_mark(self, text: str) -> str:
        """Without what follows the mark, which after the call of a tool may be another one than after an answer."""
        return text.removesuffix(self.end_of_turn.removeprefix(self.end_mark)) if self.end_mark else text

    def _with_thoughts(self, message: Message) -> Message:
        """The turn with its thoughts under the keys that the template reads."""
        thoughts = message.get("reasoning_content")
        return message if thoughts is None else message | dict.fromkeys(self._thoughts, thoughts)

    @cached_property
    def _starts(self) -> set[str]:
        """What may stand between a prompt and the words of its answer: of some, the marks of an empty thought."""
        prompt, answered = self.render(self._question), self._with_answer.rpartition(_ANSWER)[0]
        return {"", answered[len(prompt) :]} if answered.startswith(prompt) else {""}

    @cached_property
    def _heading(self) -> str:
        """What the template writes between a question and the words of its answer."""
        asked, answered = self.render(self._question, False), self._with_answer.rpartition(_ANSWER)[0]
        return answered[len(asked) :] if answered.startswith(asked) else ""

    @cached_property
    def answers_follow_prompts(self) -> bool:
        """Whether an answer is written after the text of its prompt: not where that begins to think aloud."""
        return self._with_answer.startswith(self.render(self._question))

    @cached_property
    def _question(self) -> Messages:
        """A conversation that the template takes: some take none without a system turn."""
        try:
            self.render(_QUESTION)
        except BadInput:
            return [{"role": "system", "content": "system"}, *_QUESTION]
        return _QUESTION

    @cached_property
    def _with_answer(self) -> str:
        answer = {"role": "assistant", "content": _ANSWER}
        return self.render([*self._question, answer], add_generation_prompt=False)


_QUESTION: Messages = [{"role": "user", "content": "question"}]


def _source(folder: Path) -> str | None:
    """The template's text: its own file, or a key of tokenizer_config.json (a text or named ones)."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_bytes().decode(errors="replace")
    found = tokenizer_settings(folder).get("chat_template")
    if isinstance(found, list):
        found = {entry.get("name"): entry.get("template") for entry in found if isinstance(entry, dict)}
    if isinstance(found, dict):
        found = found.get("default")
    if not isinstance(found, (str, type(None))):
        raise BadInput(f"{folder / 'tokenizer_config.json'}: chat_template is neither a text nor named texts")
    return found


def _after_opening(prompt: str, answer: Message) -> str:
    """The answer without the mark that opens a thought, such as <think>, where the prompt ends with it already.

    What such a model thinks is a part of its answer: thoughts of their own come first.
    """
    content, thoughts = answer["content"], answer.get("reasoning_content")
    opened = re.search(r"<(\w+)>\s*$", prompt)
    if opened is None:
        return content
    opening = f"<{opened[1]}>"
    if thoughts:
        return f"{thoughts}\n</{opened[1]}>\n\n{content}"
    if not content.lstrip().startswith(opening):
        return content
    content = content.lstrip().removeprefix(opening)
    return content.removeprefix("\n") if prompt.endswith("\n") else content


def _letters(text: str) -> str:
    return "".join(text.split())
