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
from tokenizers import Tokenizer, decoders, models, normalizers

from common.formats.peft_folder import BASE
from common.inference.generation import Sequence, generate
from common.inference.loading import Limits, load_model
from common.inference.sampling import Sampling
from common.serving.engine import Engine, Piece, Request, TextStream
from common.serving.openai_server import ModelServer

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
    assert streamed(tokenizer, token_ids) == tokenizer.decode(token_ids)


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


@pytest.fixture(scope="module")
def byte_fallback() -> Tokenizer:
    """A tokenizer as SentencePiece's: what it has no token for is written byte by byte."""
    tokens = ["<unk>", "</s>", "\u2581", "a", *(f"<0x{byte:02X}>" for byte in range(256))]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(["</s>"])
    return tokenizer


def streamed(tokenizer: Tokenizer, token_ids: list[int]) -> str:
    stream = TextStream(tokenizer, [])
    told = ""
    for token_id in token_ids:
        stream.push(token_id)
        told += stream.take(last=False)
    stream.close()
    return told + stream.take(last=True)


@given(text=st.text("a €漢\ufffd", max_size=20))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_characters_of_several_byte_tokens_are_streamed(byte_fallback, text):
    token_ids = byte_fallback.encode(text).ids
    assert streamed(byte_fallback, token_ids) == byte_fallback.decode(token_ids) == text


@given(token_ids=st.lists(st.sampled_from([2, 3, *(4 + byte for byte in "€".encode()), 4 + 0xFF]), max_size=20))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_bytes_that_are_no_text_lose_nothing_else(byte_fallback, token_ids):
    """They may make the text before them another one, which a decoding stream of `tokenizers` refuses to go on from."""
    assert streamed(byte_fallback, token_ids).count("a") == token_ids.count(3)


def delivered(tokenizer: Tokenizer, token_ids: list[int], stop: list[str], whole: bool) -> list[Piece]:
    """The pieces of an answer of these tokens, the last of which is the last that was asked for."""
    pieces: list[Piece] = []
    sequence = Sequence([5], len(token_ids))
    request = Request(sequence, tokenizer, stop, pieces.append, whole)
    for token_id in token_ids:
        sequence.token_ids.append(token_id)
        if len(sequence.token_ids) == sequence.max_new_tokens:
            sequence.finish_reason = "length"
        request.advance()
        if sequence.finish_reason:
            break
        assert not (whole and pieces)
    return pieces


@given(text=st.text("ab€", min_size=1, max_size=12), stop=st.lists(st.text("ab", min_size=1, max_size=3), max_size=2))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_whole_answer_is_delivered_once_and_is_what_a_stream_tells(tokenizer, text, stop):
    token_ids = tokenizer.encode(text).ids
    pieces = delivered(tokenizer, token_ids, stop, whole=False)
    told = Piece(
        "".join(piece.text for piece in pieces),
        [token_id for piece in pieces for token_id in piece.token_ids],
        pieces[-1].finish_reason,
    )
    assert delivered(tokenizer, token_ids, stop, whole=True) == [told]


def test_an_error_is_delivered_without_what_came_before(tokenizer):
    pieces: list[Piece] = []
    sequence = Sequence([5], 9)
    request = Request(sequence, tokenizer, [], pieces.append, whole=True)
    sequence.token_ids.append(6)
    request.advance()
    request.fail("out of memory")
    assert pieces == [Piece("out of memory", [], "error")]


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


class Asked:
    """A request and the pieces of its answer."""

    def __init__(self, sequence: Sequence, tokenizer: Tokenizer) -> None:
        self.pieces: SimpleQueue[Piece] = SimpleQueue()
        self.request = Request(sequence, tokenizer, [], self.pieces.put)

    def last_piece(self) -> Piece:
        while (piece := self.pieces.get(timeout=60)).finish_reason is None:
            pass
        return piece


class Broken:
    """A part of a request that raises whatever is asked of it."""

    def decode(self, *_, **__):
        raise LookupError("broken")

    def put(self, _) -> None:
        raise LookupError("broken")


def ill_request(fault: str, tokenizer: Tokenizer) -> Asked:
    if fault == "prompt":
        return Asked(Sequence([5, 100_000], 3), tokenizer)  # no such row in the embedding
    if fault == "choice":
        return Asked(Sequence([5], 3, sampling=Sampling(1.0), generator=Broken()), tokenizer)
    if fault == "text":
        return Asked(Sequence([5], 3), Broken())
    asked = Asked(Sequence([5], 3), tokenizer)
    asked.request = Request(asked.request.sequence, tokenizer, [], Broken().put)
    return asked


@pytest.mark.parametrize("fault", ["prompt", "choice", "text", "client"])
def test_a_request_that_raises_fails_alone(tiny_model, tokenizer, fault):
    model = load_model(tiny_model, {}, "fp32")
    alone = [Sequence([number], 6) for number in (6, 7, 8)]
    assert len(list(generate(model, alone, 1, frozenset()))) == 3
    ill = ill_request(fault, tokenizer)
    one, other, later = (Asked(Sequence([number], 6), tokenizer) for number in (6, 7, 8))
    engine = Engine(model, frozenset(), max_batch=3)
    for asked in (one, ill, other):
        engine._arriving.put(asked.request)  # before the thread runs, so that they are read together
    engine.start()
    assert [asked.last_piece().finish_reason for asked in (one, other)] == ["length"] * 2
    engine.submit(later.request)
    assert later.last_piece().finish_reason == "length"
    engine.stop()
    assert ill.request.sequence.finish_reason == "error"
    if fault != "client":  # that one cannot be told
        assert ill.last_piece().finish_reason == "error"
    healthy = [asked.request.sequence.token_ids for asked in (one, other, later)]
    assert healthy == [sequence.token_ids for sequence in alone]


class FailsOnce:
    """A model that fails at one of its calls, as for want of memory."""

    def __init__(self, model, call: int) -> None:
        self.model, self.left = model, call

    def __call__(self, **inputs):
        self.left -= 1
        if not self.left:
            raise RuntimeError("no memory")
        return self.model(**inputs)


def test_a_step_that_fails_fails_the_requests_under_way_and_no_later_one(tiny_model, tokenizer):
    engine = Engine(FailsOnce(load_model(tiny_model, {}, "fp32"), call=3), frozenset(), max_batch=2)
    one, later = (Asked(Sequence([number], 6), tokenizer) for number in (6, 7))
    engine.start()
    engine.submit(one.request)
    assert one.last_piece() == Piece("no memory", [], "error")
    engine.submit(later.request)
    assert later.last_piece().finish_reason == "length"
    engine.stop()


def test_nobody_waits_for_an_engine_that_has_ended(engine, tokenizer):
    engine.stop()
    asked = Asked(Sequence([5], 3), tokenizer)
    engine.submit(asked.request)
    assert asked.last_piece() == Piece("the engine has stopped", [], "error")


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_cancels_its_answers(tiny_model, tokenizer, stream):
    engine = RecordingEngine(load_model(tiny_model, {}, "fp32"), max_batch=1)
    app = ModelServer(engine, {"base": BASE}, tokenizer, chat=None, limits=Limits(ENDLESS, 384)).app("127.0.0.1")
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
        "path": "/v1/completions", "query_string": b"",
        "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")], "scheme": "http", "root_path": "",
    }  # fmt: skip
    engine.start()
    try:
        await app(scope, receive, send)
    finally:
        engine.stop()
