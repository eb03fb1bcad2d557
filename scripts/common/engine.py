"""The embedded server's generation thread: all requests under way advance together. Needs torch, tokenizers.

engine = Engine(model, stop_ids, max_batch=16)
engine.start()
engine.submit(Request(Sequence(prompt_ids, 64), tokenizer, stop=["\\n"], deliver=print))
engine.stop()
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import Any, NamedTuple

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from common.generation import Batch, Sequence


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

    def cancel(self) -> None:
        """Nobody wants the answer any more. May be called from any thread."""
        self.sequence.finish_reason = "cancelled"

    def advance(self) -> None:
        """Deliver what the newest token brings."""
        sequence = self.sequence
        if sequence.finish_reason == "cancelled":
            return
        stopped = self._text.push(sequence.token_ids[-1])
        if stopped:
            sequence.finish_reason = "stop"
        elif sequence.finish_reason:
            self._text.close(sequence.token_ids)
        text = self._text.take(last=sequence.finish_reason is not None)
        self._deliver(Piece(text, sequence.token_ids[-1:], sequence.finish_reason))

    def fail(self, message: str) -> None:
        """Tell that there will be no answer, unless nobody waits for it."""
        if self.sequence.finish_reason != "cancelled":
            self.sequence.finish_reason = "error"
            self._deliver(Piece(message, [], "error"))


class TextStream:
    """Text out of tokens: never half a character, never the beginning of what may become a stop string."""

    def __init__(self, tokenizer: Tokenizer, stop: list[str]) -> None:
        self._tokenizer = tokenizer
        self._stop = stop
        self._decoder = DecodeStream(skip_special_tokens=True)
        self._text = ""
        self._taken = 0

    def push(self, token_id: int) -> bool:
        """Add a token; True when a stop string is complete (the text then ends before it)."""
        self._text += self._decoder.step(self._tokenizer, token_id) or ""
        found = [at for at in (self._text.find(stop, self._taken) for stop in self._stop) if at >= 0]
        if found:
            self._text = self._text[: min(found)]
        return bool(found)

    def close(self, token_ids: list[int]) -> None:
        """Take the text of all tokens as it is, with a broken character at the end if there is one."""
        self._text = self._tokenizer.decode(token_ids, skip_special_tokens=True)

    def take(self, last: bool) -> str:
        """What can be told since the last call."""
        end = len(self._text) if last else len(self._text) - self._held_back()
        text, self._taken = self._text[self._taken : end], max(self._taken, end)
        return text

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
        batch = Batch(self._model, self._stop_ids)
        try:
            while self._take_arrivals(block=not self._running and not self._waiting):
                try:
                    self._advance(batch)
                except RuntimeError as error:  # torch's for want of memory, and logits that are not finite
                    self._fail_running(str(error))
                    batch = Batch(self._model, self._stop_ids)
        finally:
            self._fail_all("the engine has ended")

    def _advance(self, batch: Batch) -> None:
        """Read the prompts of new requests if there is room, else choose everyone's next token."""
        new = self._admitted(self._max_batch - len(self._running))
        self._running += new
        if new:
            batch.add([request.sequence for request in new])
        elif batch.sequences:
            batch.step()
        for request in new or self._running:
            request.advance()
        batch.drop_finished()
        self._running = [request for request in self._running if request.sequence.finish_reason is None]

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
