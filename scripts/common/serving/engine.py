"""The generation thread of the embedded server, with continuous batching. Needs torch, tokenizers.

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
    """New text of an answer; `finish_reason` is None until the last piece: "stop", "length" or "error"."""

    text: str
    token_ids: list[int]
    finish_reason: str | None


Deliver = Callable[[Piece], Any]


class Request:
    """A sequence, its text so far, and `deliver`, which gets its pieces on the engine's thread.

    The pieces are its tokens, or the `whole` answer: whoever takes them on another thread is woken for each, which
    takes a good part of the time of a small model's token.
    """

    def __init__(
        self, sequence: Sequence, tokenizer: Tokenizer, stop: list[str], deliver: Deliver, whole: bool = False
    ) -> None:
        self.sequence = sequence
        self._deliver = deliver
        self._whole = whole
        self._text = TextStream(tokenizer, stop)
        self._answered = False

    def cancel(self) -> None:
        """Drop the request. May be called from any thread."""
        self.sequence.finish_reason = "cancelled"

    def advance(self) -> None:
        """Deliver the text of the newest token. An error only ends this request."""
        sequence = self.sequence
        if sequence.finish_reason == "cancelled" or self._answered:
            return
        try:
            if sequence.error:
                raise sequence.error
            self._read_token()
            ended = sequence.finish_reason is not None
            if ended or not self._whole:
                self._deliver(self._newest_piece())
            self._answered = ended
        except Exception as error:
            _LOG.error("a request failed", exc_info=error)
            self.fail(f"{error}" or type(error).__name__)

    def fail(self, message: str) -> None:
        """Deliver an error, unless the request is already answered or cancelled."""
        if self.sequence.finish_reason == "cancelled" or self._answered:
            return
        self.sequence.finish_reason, self._answered = "error", True
        with suppress(Exception):
            self._deliver(Piece(message, [], "error"))

    def _read_token(self) -> None:
        sequence = self.sequence
        may_stop = len(sequence.token_ids) > sequence.sampling.min_tokens
        if self._text.push(sequence.token_ids[-1], may_stop):
            sequence.finish_reason = "stop"
        elif sequence.finish_reason:
            self._text.close()

    def _newest_piece(self) -> Piece:
        sequence = self.sequence
        text = self._text.take(last=sequence.finish_reason is not None)
        return Piece(text, sequence.token_ids[0 if self._whole else -1 :], sequence.finish_reason)


class TextStream:
    """Decodes tokens to text incrementally, without incomplete characters or beginnings of stop strings.

    Tokens are decoded in a window: those of the newest text, for context, and the ones after it. An incomplete
    character decodes to U+FFFD, which later bytes may change, so the stream waits for them.
    """

    def __init__(self, tokenizer: Tokenizer, stop: list[str]) -> None:
        self._tokenizer = tokenizer
        self._stop = stop
        self._window: list[int] = []
        self._decoded_count = 0  # tokens at the start of the window whose text is in _text
        self._text = ""
        self._taken = 0
        self._allowed = 0  # stop strings only count if they end after this position

    def push(self, token_id: int, may_stop: bool = True) -> bool:
        """Add a token; returns whether a stop string is complete (the text then ends before it)."""
        self._window.append(token_id)
        self._extend(until_end=False)
        if not may_stop:
            self._allowed = len(self._text)
        positions = [self._text.find(stop, max(self._taken, self._allowed + 1 - len(stop))) for stop in self._stop]
        matches = [position for position in positions if position >= 0]
        if matches:
            self._text = self._text[: min(matches)]
        return bool(matches)

    def close(self) -> None:
        """No more tokens follow: keep an incomplete character at the end."""
        self._extend(until_end=True)

    def take(self, last: bool) -> str:
        """The new text since the last call that later tokens cannot change; all of it if `last`."""
        end = len(self._text) if last else len(self._text) - self._held_back()
        text, self._taken = self._text[self._taken : end], max(self._taken, end)
        return text

    def _extend(self, until_end: bool) -> None:
        known, text = self._decode(self._window[: self._decoded_count]), self._decode(self._window)
        if len(text) > len(known) and (until_end or not text.endswith("\ufffd")):
            self._text += text[len(known) :]
            self._window = self._window[self._decoded_count :]
            self._decoded_count = len(self._window)

    def _decode(self, token_ids: list[int]) -> str:
        return self._tokenizer.decode(token_ids, skip_special_tokens=True)

    def _held_back(self) -> int:
        """The length of the longest beginning of a stop string at the end of the text."""
        held = 0
        for stop in self._stop:
            lengths = range(min(len(stop) - 1, len(self._text)), held, -1)
            held = next((length for length in lengths if self._text.endswith(stop[:length])), held)
        return held


class Engine:
    """Runs up to `max_batch` requests at a time on one thread; new ones join between two tokens."""

    def __init__(self, model: Any, stop_ids: frozenset[int], max_batch: int) -> None:
        self._model, self._stop_ids, self._max_batch = model, stop_ids, max_batch
        self._arriving: SimpleQueue[Request | None] = SimpleQueue()
        self._waiting: deque[Request] = deque()
        self._running: list[Request] = []
        self._batch = Batch(model, stop_ids)
        self._thread = Thread(target=self._run, name="engine")

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def is_alive(self) -> bool:
        """Whether the thread is running."""
        return self._thread.is_alive()

    def submit(self, request: Request) -> None:
        """Queue a request; it fails if the thread is not running."""
        self._arriving.put(request)
        if not self.is_alive():
            self._fail_all("the engine has stopped")

    def stop(self) -> None:
        """Stop after the current step; unfinished requests fail."""
        self._arriving.put(None)
        self._thread.join()

    def _run(self) -> None:
        try:
            while self._take_arrivals(block=not self._running and not self._waiting):
                self._advance()
        finally:
            self._fail_all("the engine has stopped")

    def _advance(self) -> None:
        """Prefill new requests if there is space for any, otherwise decode the next token of all running ones."""
        new = self._admit(self._max_batch - len(self._running))
        self._running += new
        if new:
            self._prefill(new)
        elif self._batch.sequences:
            self._update_batch(self._batch.step)
        for request in new or self._running:
            request.advance()
        self._update_batch(self._batch.drop_finished)
        self._running = [request for request in self._running if request.sequence.finish_reason is None]

    def _prefill(self, requests: list[Request]) -> None:
        """Process prompts as one batch; if that raises, one by one, so that only the faulty one fails."""
        try:
            self._batch.add([request.sequence for request in requests])
        except Exception as error:
            if len(requests) == 1:
                requests[0].sequence.fail(error)
                return
            for request in requests:
                self._prefill([request])

    def _update_batch(self, work: Callable[[], Any]) -> None:
        """Do work on the batch. After an error (such as out of memory) its cache is inconsistent: all requests fail."""
        try:
            work()
        except Exception as error:
            _LOG.error("all running requests failed", exc_info=error)
            self._fail_running(f"{error}" or type(error).__name__)
            self._batch = Batch(self._model, self._stop_ids)

    def _take_arrivals(self, block: bool) -> bool:
        """Move new requests to the waiting queue; returns False if the engine should stop."""
        while block or not self._arriving.empty():
            request = self._arriving.get()
            if request is None:
                return False
            self._waiting.append(request)
            block = False
        return True

    def _admit(self, free: int) -> list[Request]:
        """Take up to `free` requests from the waiting queue, without cancelled ones."""
        waiting = [request for request in self._waiting if request.sequence.finish_reason is None]
        self._waiting = deque(waiting[free:])
        return waiting[:free]

    def _fail_running(self, message: str) -> None:
        for request in self._running:
            request.fail(message)
        self._running = []

    def _fail_all(self, message: str) -> None:
        while not self._take_arrivals(block=False):
            pass  # skip stop markers
        self._running += self._waiting
        self._waiting.clear()
        self._fail_running(message)
