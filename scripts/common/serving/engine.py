"""The embedded server's generation thread: all requests under way advance together. Needs torch, tokenizers.

engine = Engine(model, stop_ids, max_batch=16)
engine.start()
engine.submit(Request(Sequence(prompt_ids, 64), tokenizer, stop=["\\n"], deliver=print))
engine.stop()
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from typing import Any, NamedTuple

from tokenizers import Tokenizer

from common.inference.generation import Batch, Sequence

_LOG = logging.getLogger(__name__)


class Piece(NamedTuple):
    """What is new in an answer; `finish_reason` is None until the last piece: "stop", "length" or "error"."""

    text: str
    token_ids: list[int]
    finish_reason: str | None


class Request:
    """A sequence, its text so far, and where the pieces go (`deliver` is called on the engine's thread)."""

    def __init__(
        self, sequence: Sequence, tokenizer: Tokenizer, stop: list[str], deliver: Callable[[Piece], Any]
    ) -> None:
        self.sequence = sequence
        self._deliver = deliver
        self._text = TextStream(tokenizer, stop)
        self._answered = False

    def cancel(self) -> None:
        """Nobody wants the answer any more. May be called from any thread."""
        self.sequence.finish_reason = "cancelled"

    def advance(self) -> None:
        """Deliver what the newest token brings. An error ends this request alone."""
        sequence = self.sequence
        if sequence.finish_reason == "cancelled" or self._answered:
            return
        try:
            if sequence.error:
                raise sequence.error
            self._deliver(self._newest_piece())
            self._answered = sequence.finish_reason is not None
        except Exception as error:
            _LOG.error("a request failed", exc_info=error)
            self.fail(f"{error}" or type(error).__name__)

    def fail(self, message: str) -> None:
        """Tell that there will be no answer, unless nobody waits for it or can be told."""
        if self.sequence.finish_reason == "cancelled" or self._answered:
            return
        self.sequence.finish_reason, self._answered = "error", True
        with suppress(Exception):
            self._deliver(Piece(message, [], "error"))

    def _newest_piece(self) -> Piece:
        sequence = self.sequence
        may_stop = len(sequence.token_ids) > sequence.sampling.min_tokens
        if self._text.push(sequence.token_ids[-1], may_stop):
            sequence.finish_reason = "stop"
        elif sequence.finish_reason:
            self._text.close()
        text = self._text.take(last=sequence.finish_reason is not None)
        return Piece(text, sequence.token_ids[-1:], sequence.finish_reason)


class TextStream:
    """Text out of tokens: never half a character, never the beginning of what may become a stop string.

    Tokens are decoded in a window: those of the newest text, for context, and what came after. Bytes that are no
    character decode to U+FFFD, and other bytes after them may change that, so it waits for what follows.
    """

    def __init__(self, tokenizer: Tokenizer, stop: list[str]) -> None:
        self._tokenizer = tokenizer
        self._stop = stop
        self._window: list[int] = []
        self._known = 0  # tokens at the window's beginning whose text is in _text
        self._text = ""
        self._taken = 0
        self._allowed = 0  # a stop string may end after this place

    def push(self, token_id: int, may_stop: bool = True) -> bool:
        """Add a token; True when a stop string is complete (the text then ends before it)."""
        self._window.append(token_id)
        self._extend(until_end=False)
        if not may_stop:
            self._allowed = len(self._text)
        starts = [self._text.find(stop, max(self._taken, self._allowed + 1 - len(stop))) for stop in self._stop]
        found = [start for start in starts if start >= 0]
        if found:
            self._text = self._text[: min(found)]
        return bool(found)

    def close(self) -> None:
        """No token follows: a broken character at the end stays as it is."""
        self._extend(until_end=True)

    def take(self, last: bool) -> str:
        """What can be told since the last call."""
        end = len(self._text) if last else len(self._text) - self._held_back()
        text, self._taken = self._text[self._taken : end], max(self._taken, end)
        return text

    def _extend(self, until_end: bool) -> None:
        known, whole = self._decoded(self._window[: self._known]), self._decoded(self._window)
        if len(whole) > len(known) and (until_end or not whole.endswith("\ufffd")):
            self._text += whole[len(known) :]
            self._window = self._window[self._known :]
            self._known = len(self._window)

    def _decoded(self, token_ids: list[int]) -> str:
        return self._tokenizer.decode(token_ids, skip_special_tokens=True)

    def _held_back(self) -> int:
        beginnings = (stop[:length] for stop in self._stop for length in range(1, len(stop)))
        return max((len(text) for text in beginnings if self._text.endswith(text)), default=0)


class Engine:
    """Runs requests on one thread, up to `max_batch` together; new ones join between two tokens."""

    def __init__(self, model: Any, stop_ids: frozenset[int], max_batch: int) -> None:
        self._model, self._stop_ids, self._max_batch = model, stop_ids, max_batch
        self._arriving: SimpleQueue[Request | None] = SimpleQueue()
        self._waiting: deque[Request] = deque()
        self._running: list[Request] = []
        self._batch = Batch(model, stop_ids)
        self._thread = Thread(target=self._run, name="engine")

    def start(self) -> None:
        self._thread.start()

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def submit(self, request: Request) -> None:
        self._arriving.put(request)
        if not self.is_alive():
            self._fail_all("the engine has ended")

    def stop(self) -> None:
        """End after the current step; what is unfinished fails."""
        self._arriving.put(None)
        self._thread.join()

    def _run(self) -> None:
        try:
            while self._take_arrivals(block=not self._running and not self._waiting):
                self._advance()
        finally:
            self._fail_all("the engine has ended")

    def _advance(self) -> None:
        """Read the prompts of new requests if there is room, else choose everyone's next token."""
        new = self._admitted(self._max_batch - len(self._running))
        self._running += new
        if new:
            self._read(new)
        elif self._batch.sequences:
            self._together(self._batch.step)
        for request in new or self._running:
            request.advance()
        self._together(self._batch.drop_finished)
        self._running = [request for request in self._running if request.sequence.finish_reason is None]

    def _read(self, requests: list[Request]) -> None:
        """Read prompts together; where that fails one by one, so that only the one at fault fails."""
        try:
            self._batch.add([request.sequence for request in requests])
        except Exception as error:
            if len(requests) == 1:
                requests[0].sequence.fail(error)
                return
            for request in requests:
                self._read([request])

    def _together(self, work: Callable[[], Any]) -> None:
        """Do what concerns all under way. An error, for want of memory say, leaves the cache half changed: all fail."""
        try:
            work()
        except Exception as error:
            _LOG.error("all requests under way failed", exc_info=error)
            self._fail_running(f"{error}" or type(error).__name__)
            self._batch = Batch(self._model, self._stop_ids)

    def _take_arrivals(self, block: bool) -> bool:
        """Move what has arrived to the waiting line; False when it is time to stop."""
        while block or not self._arriving.empty():
            request = self._arriving.get()
            if request is None:
                return False
            self._waiting.append(request)
            block = False
        return True

    def _admitted(self, free: int) -> list[Request]:
        wanted = [request for request in self._waiting if request.sequence.finish_reason is None]
        self._waiting = deque(wanted[free:])
        return wanted[:free]

    def _fail_running(self, message: str) -> None:
        for request in self._running:
            request.fail(message)
        self._running = []

    def _fail_all(self, message: str) -> None:
        while not self._take_arrivals(block=False):
            pass  # a stop among the arrivals
        self._running += self._waiting
        self._waiting.clear()
        self._fail_running(message)
