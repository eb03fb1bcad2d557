"""The embedded server's endpoints over an `Engine`. Needs torch, tokenizers, starlette and jinja2."""

from __future__ import annotations

import asyncio
import html
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import torch
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from tokenizers import Tokenizer

from common.data.chat_template import ChatTemplate
from common.data.conversation import Message
from common.inference.generation import Sequence
from common.inference.loading import Limits
from common.program import BadInput
from common.serving import openai_api
from common.serving.access import Access
from common.serving.engine import Deliver, Engine, Piece, Request
from common.serving.openai_api import Answer, ApiError, Format, Options

_CLIENT_GONE = 499  # nginx's status; never received
_MOST_BYTES = 4 * 2**20  # of a request
_MOST_CHARACTERS = 64  # of a token, on average: a prompt with more of them than the context holds is not tokenized
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_INDEX = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Model server</title>
<style>body {{ margin: 3rem auto; max-width: 40rem; padding: 0 1rem; font: 15px/1.5 system-ui, sans-serif; }}</style>
</head>
<body>
<h1>Model server</h1>
<p>It speaks OpenAI's protocol at <code>/v1</code> and serves:</p>
<ul>{models}</ul>
<p>Have them answer side by side in the playground:</p>
<pre>runner ui</pre>
</body>
</html>
"""


class ModelServer:
    """The endpoints, and the models that they serve by name.

    Args:
        adapters: served name → the adapter's name inside the engine's model, the base model first.
        chat: the model's chat template, if it has one.
    """

    def __init__(
        self, engine: Engine, adapters: dict[str, str], tokenizer: Tokenizer, chat: ChatTemplate | None, limits: Limits
    ) -> None:
        self._engine = engine
        self._adapters = adapters
        self._tokenizer = tokenizer
        self._chat = chat
        self._limits = limits

    def app(self, host: str) -> Starlette:
        """The web application for a server on the address `host`, which runs the engine as long as it lives."""
        routes = [
            Route("/", self.index),
            Route("/health", self.health),
            Route("/v1/models", self.models),
            Route("/v1/completions", self.completions, methods=["POST"]),
            Route("/v1/chat/completions", self.chat_completions, methods=["POST"]),
        ]
        handlers: dict[Any, Any] = {ApiError: _error, HTTPException: _http_error, ClientDisconnect: _gone}
        access = [Middleware(Access, host=host)]
        return Starlette(routes=routes, lifespan=self._lifespan, exception_handlers=handlers, middleware=access)

    async def index(self, _: HttpRequest) -> Response:
        """GET /: for a person with a browser, what this server is and where its playground is."""
        models = "".join(f"<li><code>{html.escape(name)}</code></li>" for name in self._adapters)
        return HTMLResponse(_INDEX.format(models=models), headers={"Content-Security-Policy": _POLICY})

    async def health(self, _: HttpRequest) -> Response:
        """GET /health: 200 while the engine runs."""
        return Response(status_code=200 if self._engine.is_alive() else 503)

    async def models(self, _: HttpRequest) -> Response:
        """GET /v1/models."""
        return JSONResponse(openai_api.model_list(list(self._adapters)))

    async def completions(self, http: HttpRequest) -> Response:
        """POST /v1/completions."""
        body = openai_api.parse_body(await _content(http), "completion")
        options = self._options(body, chat=False)
        prompts = await asyncio.to_thread(self._completion_prompts, body)
        return await self._answer(http, options, prompts, Format(options, chat=False))

    async def chat_completions(self, http: HttpRequest) -> Response:
        """POST /v1/chat/completions."""
        body = openai_api.parse_body(await _content(http), "chat")
        options = self._options(body, chat=True)
        prompts = await asyncio.to_thread(self._chat_prompts, body)
        return await self._answer(http, options, prompts, Format(options, chat=True))

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        self._engine.start()
        try:
            yield
        finally:
            self._engine.stop()

    def _options(self, body: dict[str, Any], chat: bool) -> Options:
        options = openai_api.parse_options(body, chat, self._limits.vocab_size)
        if options.model not in self._adapters:
            raise ApiError(f"The model `{options.model}` does not exist.", "model", 404, "NotFoundError")
        return options

    def _completion_prompts(self, body: dict[str, Any]) -> list[list[int]]:
        return [self._prompt_ids(prompt) for prompt in openai_api.parse_prompts(body)]

    def _prompt_ids(self, prompt: str | list[int]) -> list[int]:
        if isinstance(prompt, str):
            return self._encoded(prompt, add_special_tokens=True)
        return openai_api.check_token_ids(prompt, "prompt", self._limits.vocab_size)

    def _chat_prompts(self, body: dict[str, Any]) -> list[list[int]]:
        prompt = self._chat_prompt(openai_api.parse_messages(body), openai_api.parse_tools(body))
        return [self._encoded(prompt, add_special_tokens=False)]  # the template adds them

    def _encoded(self, prompt: str, add_special_tokens: bool) -> list[int]:
        """Token ids. The batch call lets other threads run meanwhile, in every release of tokenizers."""
        positions = self._limits.max_position_embeddings
        if len(prompt) > positions * _MOST_CHARACTERS:
            raise ApiError(
                f"This model's maximum context length is {positions} tokens. However, your prompt has {len(prompt)} "
                "characters. Please reduce the length of the prompt.",
                "prompt",
            )
        return self._tokenizer.encode_batch_fast([prompt], add_special_tokens=add_special_tokens)[0].ids

    def _chat_prompt(self, messages: list[Message], tools: list[Any]) -> str:
        if self._chat is None:
            raise ApiError("This model has no chat template; use /v1/completions")
        try:
            return self._chat.render(messages, tools=tools)
        except BadInput as error:
            raise ApiError(str(error), "messages") from None

    async def _answer(self, http: HttpRequest, options: Options, prompts: list[list[int]], shape: Format) -> Response:
        sequences = [self._sequence(prompt_ids, options) for prompt_ids in prompts]
        exchange = Exchange(sequences, self._tokenizer, options.stop, whole=not options.stream)
        exchange.submit(self._engine)
        if options.stream:
            return StreamingResponse(_events(exchange, shape, options.include_usage), media_type="text/event-stream")
        return await _complete(http, exchange, shape)

    def _sequence(self, prompt_ids: list[int], options: Options) -> Sequence:
        if not prompt_ids:
            raise ApiError("The prompt has no tokens", "prompt")
        limit = openai_api.check_length(prompt_ids, options.max_tokens, self._limits.max_position_embeddings)
        generator = torch.Generator()
        if options.seed is None:
            generator.seed()
        else:
            generator.manual_seed(options.seed)
        return Sequence(prompt_ids, limit, self._adapters[options.model], options.sampling, generator)


class Exchange:
    """The answers to one HTTP request, passed from the engine's thread to the event loop, by token or each `whole`."""

    def __init__(self, sequences: list[Sequence], tokenizer: Tokenizer, stop: list[str], whole: bool) -> None:
        self.answers = [Answer(sequence.prompt_ids, "", [], None) for sequence in sequences]
        self._arrived: asyncio.Queue[tuple[int, Piece]] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._requests = [
            Request(sequence, tokenizer, stop, self._deliver_to(index), whole)
            for index, sequence in enumerate(sequences)
        ]

    def submit(self, engine: Engine) -> None:
        """Submit all prompts to the engine."""
        for request in self._requests:
            engine.submit(request)

    async def pieces(self) -> AsyncGenerator[tuple[int, Piece], None]:
        """(prompt's index, new piece) until all prompts are answered; closing it early cancels the rest."""
        try:
            while any(answer.finish_reason is None for answer in self.answers):
                index, piece = await self._arrived.get()
                if piece.finish_reason == "error":
                    raise ApiError(piece.text, status=500, kind="InternalServerError")
                answer = self.answers[index]
                answer.text += piece.text
                answer.token_ids += piece.token_ids
                answer.finish_reason = piece.finish_reason
                yield index, piece
        finally:
            for request in self._requests:
                request.cancel()

    async def finished(self) -> list[Answer]:
        """Wait for all answers."""
        async with aclosing(self.pieces()) as pieces:
            async for _ in pieces:
                pass
        return self.answers

    def _deliver_to(self, index: int) -> Deliver:
        return lambda piece: self._loop.call_soon_threadsafe(self._arrived.put_nowait, (index, piece))


async def _complete(http: HttpRequest, exchange: Exchange, shape: Format) -> Response:
    """The complete response, unless the client disconnects first."""
    work = asyncio.ensure_future(exchange.finished())
    gone = asyncio.ensure_future(_disconnected(http))
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        return JSONResponse(shape.response(work.result())) if work.done() else Response(status_code=_CLIENT_GONE)
    finally:
        work.cancel()
        gone.cancel()


async def _disconnected(http: HttpRequest) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass


async def _events(exchange: Exchange, shape: Format, include_usage: bool) -> AsyncIterator[str]:
    """Server-sent events, one per token that adds text or ends an answer."""
    started: set[int] = set()
    try:
        async with aclosing(exchange.pieces()) as pieces:
            async for index, piece in pieces:
                news = Answer(exchange.answers[index].prompt_ids, piece.text, piece.token_ids, piece.finish_reason)
                yield _event(shape.chunk(index, news, first=index not in started))
                started.add(index)
    except ApiError as error:
        yield _event(error.content)
    else:
        if include_usage:
            yield _event(shape.last_chunk(exchange.answers))
    yield "data: [DONE]\n\n"


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"


async def _content(http: HttpRequest) -> bytes:
    """The body of a request. Raises ApiError unless it is said to be JSON, which a page of another site cannot say."""
    if http.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise ApiError("Unsupported Media Type: Only 'application/json' is allowed", status=415)
    content, size = bytearray(), 0
    async for chunk in http.stream():  # to its end: who is still sending does not read an answer
        size += len(chunk)
        if size <= _MOST_BYTES:
            content += chunk
    if size > _MOST_BYTES:
        raise ApiError(f"The request body has {size} bytes, more than {_MOST_BYTES}", status=413)
    return bytes(content)


async def _gone(*_: object) -> Response:
    return Response(status_code=_CLIENT_GONE)


async def _error(_: HttpRequest, error: ApiError) -> Response:
    return JSONResponse(error.content, error.status)


async def _http_error(http: HttpRequest, error: HTTPException) -> Response:
    kind = "NotFoundError" if error.status_code == 404 else "BadRequestError"
    return await _error(http, ApiError(f"{http.method} {http.url.path}: {error.detail}", None, error.status_code, kind))
