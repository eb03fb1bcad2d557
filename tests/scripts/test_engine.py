from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from tokenizers import Tokenizer

from common.engine import Engine, Piece, Request, TextStream
from common.generation import Sequence
from common.loading import BASE, Limits, load_model
from common.openai_server import ModelServer

ENDLESS = 1_000_000  # tokens


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Tokenizer:
    return Tokenizer.from_file(str(tiny_model / "tokenizer.json"))


class RecordingEngine(Engine):
    """An engine that remembers what it was asked."""

    def __init__(self, model, max_batch: int) -> None:
        super().__init__(model, frozenset(), max_batch)
        self.requests: list[Request] = []

    def submit(self, request: Request) -> None:
        self.requests.append(request)
        super().submit(request)


@pytest.fixture
def engine(tiny_model: Path) -> Iterator[RecordingEngine]:
    engine = RecordingEngine(load_model(tiny_model, {}, "fp32"), max_batch=1)
    engine.start()
    yield engine
    engine.stop()
    assert not engine.is_alive()


@given(text=st.text(max_size=30), cut=st.integers(0, 40))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_streamed_text_is_the_decoded_text(tokenizer, text, cut):
    token_ids = tokenizer.encode(text).ids[:cut]
    stream = TextStream(tokenizer, [])
    pieces = []
    for token_id in token_ids:
        stream.push(token_id)
        pieces.append(stream.take(last=False))
    stream.close(token_ids)
    assert "".join(pieces) + stream.take(last=True) == tokenizer.decode(token_ids)


@given(text=st.text("ab", max_size=12), stop=st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_part_of_a_stop_string_is_told(tokenizer, text, stop):
    stream = TextStream(tokenizer, stop)
    told = ""
    stopped = False
    for place, token_id in enumerate(tokenizer.encode(letter).ids[0] for letter in text):
        stopped = stream.push(token_id)
        told += stream.take(last=stopped or place == len(text) - 1)
        if stopped:
            break
    ends = [text.index(each) + len(each) for each in stop if each in text]
    if not ends:
        assert not stopped
        assert told == text
    else:
        seen = text[: min(ends)]
        assert stopped
        assert told == min((seen[: seen.index(each)] for each in stop if each in seen), key=len)


def test_a_cancelled_answer_makes_room_for_the_next(engine, tokenizer):
    pieces: SimpleQueue[Piece] = SimpleQueue()
    endless = Request(Sequence([5], ENDLESS), tokenizer, [], pieces.put)
    next_one = Request(Sequence([6], 3), tokenizer, [], lambda piece: piece.finish_reason and pieces.put(piece))
    engine.submit(endless)
    pieces.get(timeout=30)
    engine.submit(next_one)
    endless.cancel()
    while (piece := pieces.get(timeout=30)).finish_reason is None:
        pass
    assert piece.finish_reason == "length"
    assert len(next_one.sequence.token_ids) == 3


def test_a_failure_of_the_model_fails_the_requests_under_way_and_no_later_one(tiny_model, tokenizer):
    model = load_model(tiny_model, {}, "fp32")
    engine = RecordingEngine(model, max_batch=2)
    pieces: SimpleQueue[Piece] = SimpleQueue()
    healthy = model.model.model.norm.weight.data.clone()
    model.model.model.norm.weight.data.fill_(float("nan"))
    engine.start()
    for _ in range(2):
        engine.submit(Request(Sequence([5], 3), tokenizer, [], pieces.put))
    assert [pieces.get(timeout=30).finish_reason for _ in range(2)] == ["error"] * 2
    model.model.model.norm.weight.data.copy_(healthy)
    engine.submit(Request(Sequence([5], 1), tokenizer, [], pieces.put))
    assert pieces.get(timeout=30).finish_reason == "length"
    engine.stop()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_nobody_waits_for_an_engine_that_has_ended(engine, tokenizer):
    pieces: SimpleQueue[Piece] = SimpleQueue()
    engine.submit(
        Request(Sequence([5, 100_000], 3), tokenizer, [], pieces.put)
    )  # a fault: no such row in the embedding
    assert pieces.get(timeout=30).finish_reason == "error"
    engine.stop()
    engine.submit(Request(Sequence([5], 3), tokenizer, [], pieces.put))
    assert pieces.get(timeout=30) == Piece("the engine has ended", [], "error")


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_cancels_its_answers(tiny_model, tokenizer, stream):
    engine = RecordingEngine(load_model(tiny_model, {}, "fp32"), max_batch=1)
    app = ModelServer(engine, {"base": BASE}, tokenizer, chat=None, limits=Limits(ENDLESS, 384)).app()
    body = {"model": "base", "prompt": ["a", "b"], "max_tokens": ENDLESS - 9, "stream": stream}
    asyncio.run(asyncio.wait_for(_ask_and_leave(app, engine, json.dumps(body).encode()), timeout=30))
    assert [request.sequence.finish_reason for request in engine.requests] == ["cancelled"] * 2


async def _ask_and_leave(app: Starlette, engine: RecordingEngine, body: bytes) -> None:
    """Speak ASGI with the app: send the request, and hang up when the answer is under way."""
    messages = iter([{"type": "http.request", "body": body}])

    async def receive() -> dict:
        message = next(messages, None)
        while message is None and not engine.requests:
            await asyncio.sleep(0)
        return message or {"type": "http.disconnect"}

    async def send(_: dict) -> None:
        pass

    scope = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": "POST",
        "path": "/v1/completions", "query_string": b"", "headers": [], "scheme": "http", "root_path": "",
    }  # fmt: skip
    engine.start()
    try:
        await app(scope, receive, send)
    finally:
        engine.stop()
