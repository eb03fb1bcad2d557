from __future__ import annotations

import asyncio
from pathlib import Path
from threading import Event

import httpx
from tokenizers import Tokenizer

from common.formats.peft_folder import BASE
from common.inference.loading import Limits, load_model
from common.serving.engine import Engine
from common.serving.openai_server import ModelServer


class WaitingTokenizer:
    """A tokenizer that takes until `released` for a prompt, as for a very long one."""

    def __init__(self, path: Path) -> None:
        self.tokenizer = Tokenizer.from_file(str(path))
        self.started, self.released, self.waited = Event(), Event(), False
        self.decode = self.tokenizer.decode

    def encode_batch_fast(self, *args, **options):
        self.started.set()
        self.waited = self.released.wait(timeout=20)
        return self.tokenizer.encode_batch_fast(*args, **options)


def test_other_requests_are_answered_while_a_prompt_is_tokenized(tiny_model: Path):
    tokenizer = WaitingTokenizer(tiny_model / "tokenizer.json")
    engine = Engine(load_model(tiny_model, {}, "fp32"), frozenset(), max_batch=1)
    app = ModelServer(engine, {"base": BASE}, tokenizer, None, Limits(256, 384)).app("127.0.0.1")  # type: ignore[arg-type]

    async def ask() -> tuple[int, int]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            slow = asyncio.create_task(client.post("/v1/completions", json={"model": "base", "prompt": "a"}))
            await asyncio.to_thread(tokenizer.started.wait)
            quick = await client.get("/v1/models")
            tokenizer.released.set()
            return quick.status_code, (await slow).status_code

    engine.start()
    try:
        assert asyncio.run(ask()) == (200, 200)
    finally:
        engine.stop()
    assert tokenizer.waited, "the prompt was still being tokenized when the other request was answered"


def test_a_person_with_a_browser_is_led_to_the_playground(tiny_model: Path):
    engine = Engine(load_model(tiny_model, {}, "fp32"), frozenset(), max_batch=1)
    tokenizer = Tokenizer.from_file(str(tiny_model / "tokenizer.json"))
    app = ModelServer(engine, {"base": BASE, "<b>": "b"}, tokenizer, None, Limits(256, 384)).app("127.0.0.1")

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            return await client.get("/")

    page = asyncio.run(ask())
    assert page.status_code == 200 and "default-src 'none'" in page.headers["content-security-policy"]
    assert all(words in page.text for words in ("<code>base</code>", "<code>&lt;b&gt;</code>", "runner ui"))
