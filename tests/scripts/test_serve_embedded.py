from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.formats.peft_folder import BASE
from common.inference.generation import Sequence, generate
from common.inference.loading import load_model

PROGRAM = Path(__file__).parents[2] / "scripts" / "serve_embedded.py"
JSON = {"Content-Type": "application/json"}
GREEDY = {"temperature": 0, "max_tokens": 20, "return_token_ids": True}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(model: Path, adapters: dict[str, Path], port: int, *flags: str, **variables: str) -> subprocess.Popen[str]:
    named = [f"--adapter={name}={folder}" for name, folder in adapters.items()]
    command = [sys.executable, PROGRAM, "--model", model, "--port", str(port), "--max-batch", "8", *named, *flags]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, **variables})


@pytest.fixture(scope="module")
def server(tiny_model: Path, tiny_adapter: Path) -> Iterator[httpx.Client]:
    port = free_port()
    process = start(tiny_model, {"tuned-1.0": tiny_adapter}, port)
    assert process.stderr and "serving at" in process.stderr.readline()
    transport = httpx.HTTPTransport(retries=8)  # the line is written just before the port is opened
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, transport=transport) as client:
        yield client
    process.send_signal(signal.SIGTERM)
    rest = process.communicate(timeout=20)[1]
    assert (process.returncode, rest) == (0, "")


@pytest.fixture(scope="module")
def model(tiny_model: Path, tiny_adapter: Path):
    return load_model(tiny_model, {"tuned": tiny_adapter}, "fp32")


def unbatched(model, prompt_ids: list[int], adapter: str, max_new_tokens: int = 20) -> list[int]:
    (sequence,) = generate(model, [Sequence(prompt_ids, max_new_tokens, adapter)], 1, frozenset({1}))
    return sequence.token_ids


def complete(server: httpx.Client, **body) -> dict:
    response = server.post("/v1/completions", json={"model": "base", "prompt": "def test", **GREEDY, **body})
    assert response.status_code == 200, response.text
    return response.json()


def streamed(server: httpx.Client, path: str, body: dict) -> list[dict]:
    with server.stream("POST", path, json={**body, "stream": True}) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


def test_health_and_models(server):
    assert server.get("/health").status_code == 200
    assert [entry["id"] for entry in server.get("/v1/models").json()["data"]] == ["base", "tuned-1.0"]


def test_fifty_requests_at_once_get_the_tokens_of_one_alone(server, model):
    prompts = [[2 + (7 * number + 3 * place) % 380 for place in range(1 + number)] for number in range(50)]

    def ask(number: int) -> list[int]:
        name = ("base", "tuned-1.0")[number % 2]
        return complete(server, model=name, prompt=prompts[number])["choices"][0]["token_ids"]

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(ask, range(50)))
    assert answers == [unbatched(model, prompt, (BASE, "tuned")[n % 2]) for n, prompt in enumerate(prompts)]


def test_text_and_token_ids_ask_the_same_and_usage_counts(server):
    by_text = complete(server)
    choice = by_text["choices"][0]
    by_ids = complete(server, prompt=choice["prompt_token_ids"])
    assert by_ids["choices"] == by_text["choices"]
    prompt, completion = len(choice["prompt_token_ids"]), len(choice["token_ids"])
    assert by_text["usage"] == {
        "prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion
    }  # fmt: skip


@pytest.mark.parametrize("prompt", [["one", "two words"], [[5, 6], [7, 8, 9]]])
def test_a_list_of_prompts_gives_a_choice_each(server, prompt):
    choices = complete(server, prompt=prompt)["choices"]
    assert [choice["index"] for choice in choices] == [0, 1]
    assert [choice["token_ids"] for choice in choices] == [
        complete(server, prompt=each)["choices"][0]["token_ids"] for each in prompt
    ]


def test_a_stream_adds_up_to_the_whole_answer(server):
    prompts = ["def test", "import "]
    whole = complete(server, prompt=prompts, temperature=1.0, seed=3)
    body = {"model": "base", "prompt": prompts, **GREEDY, "temperature": 1.0, "seed": 3}
    chunks = streamed(server, "/v1/completions", {**body, "stream_options": {"include_usage": True}})
    assert chunks.pop()["usage"] == whole["usage"]
    for index, choice in enumerate(whole["choices"]):
        parts = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == index]
        assert "".join(part["text"] for part in parts) == choice["text"]
        assert sum((part["token_ids"] for part in parts), []) == choice["token_ids"]
        assert parts[0]["prompt_token_ids"] == choice["prompt_token_ids"]
        assert [part["finish_reason"] for part in parts] == [None] * (len(parts) - 1) + [choice["finish_reason"]]


def test_a_stop_string_ends_the_text_before_it(server):
    text = complete(server)["choices"][0]["text"]
    stop = text[6:9]
    choice = complete(server, stop=["never there", stop])["choices"][0]
    assert choice["text"] == text[: text.index(stop)]
    assert choice["finish_reason"] == "stop"
    parts = streamed(server, "/v1/completions", {"model": "base", "prompt": "def test", **GREEDY, "stop": stop})
    assert "".join(part["choices"][0]["text"] for part in parts) == choice["text"]


def test_sampling_is_repeated_by_its_seed(server):
    def texts(seed):
        return complete(server, temperature=1.0, seed=seed)["choices"][0]["token_ids"]

    assert texts(1) == texts(1)
    assert texts(1) != texts(2)


def test_chat_uses_the_template_of_the_tokenizer(server):
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "hello"}]
    body = {"model": "tuned-1.0", "messages": messages, **GREEDY}
    answer = server.post("/v1/chat/completions", json=body).json()
    same = complete(server, model="tuned-1.0", prompt="<system>s<user>hello<assistant>")["choices"][0]
    assert answer["prompt_token_ids"] == same["prompt_token_ids"]
    assert answer["choices"][0]["token_ids"] == same["token_ids"]
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": same["text"]}
    chunks = streamed(server, "/v1/chat/completions", body)
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks) == same["text"]


def test_chat_without_max_tokens_may_fill_the_context(server):
    messages = [{"role": "user", "content": "hello"}]
    answer = server.post("/v1/chat/completions", json={"model": "base", "messages": messages, "temperature": 0}).json()
    assert answer["choices"][0]["finish_reason"] == "stop" or answer["usage"]["total_tokens"] == 256


def test_vllm_s_own_parameters_change_the_answer_as_they_say(server):
    plain = complete(server)["choices"][0]["token_ids"]
    assert complete(server, temperature=2.0, top_k=1)["choices"][0]["token_ids"] == plain
    assert complete(server, temperature=2.0, min_p=1.0)["choices"][0]["token_ids"] == plain
    assert complete(server, repetition_penalty=3.0)["choices"][0]["token_ids"] != plain
    assert complete(server, frequency_penalty=2.0)["choices"][0]["token_ids"] != plain
    stopped = complete(server, stop_token_ids=[plain[4]])["choices"][0]
    assert (stopped["token_ids"], stopped["finish_reason"]) == (plain[: plain.index(plain[4]) + 1], "stop")
    longer = complete(server, stop_token_ids=[plain[4]], min_tokens=10)["choices"][0]["token_ids"]
    assert len(longer) >= 10
    assert plain[4] not in longer[:10]


def test_a_stop_string_waits_for_min_tokens(server):
    text = complete(server)["choices"][0]["text"]
    waited = complete(server, stop=text[0], min_tokens=5)
    assert waited["usage"]["completion_tokens"] > 5
    assert waited["choices"][0]["text"].startswith(text[0])


@pytest.mark.parametrize("text", ["hello", ""])
def test_content_may_be_parts_of_text(server, text):
    def answer(content) -> list[int]:
        body = {"model": "base", "messages": [{"role": "user", "content": content}], **GREEDY}
        return server.post("/v1/chat/completions", json=body).json()["choices"][0]["token_ids"]

    parts = [{"type": "text", "text": text}, {"type": "text", "text": "b"}]
    assert answer(parts) == answer(f"{text}\nb")


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ({"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, "messages[0].content: every part"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages[0].content: every part"),
        ({"role": "user", "content": []}, "messages[0].content must be a string or"),
        ({"role": "user"}, "messages[0].content must be a string or"),
        ({"content": "a"}, "messages[0].role is missing"),
        ({"role": "assistant", "content": "a", "tool_calls": [{}]}, "messages[0].tool_calls: a tool call has"),
        ({"role": "user", "content": "a", "audio": {}}, "messages[0].audio is not supported"),
    ],
)  # fmt: skip
def test_a_message_that_is_no_text_is_refused(server, message, said):
    response = server.post("/v1/chat/completions", json={"model": "base", "messages": [message]})
    assert response.status_code == 400
    assert response.json()["error"]["message"].startswith(said)


def test_what_asks_for_nothing_is_accepted(server):
    plain = complete(server)["choices"]
    nothing = {
        "n": 1, "best_of": 1, "echo": False, "suffix": None, "logprobs": None, "logit_bias": {}, "user": "me",
        "top_k": -1, "response_format": {"type": "text"}, "presence_penalty": 0, "stop": None,
        "repetition_penalty": 1.0, "metadata": {"a": "b"}, "stop_token_ids": [], "ignore_eos": False,
        "best_friend": None,
    }  # fmt: skip
    assert complete(server, **nothing)["choices"] == plain


@pytest.mark.parametrize(
    ("change", "param", "message"),
    [
        ({"n": 2}, "n", "not supported"),
        ({"echo": True}, "echo", "not supported"),
        ({"best_of": 2}, "best_of", "not supported"),
        ({"logprobs": 0}, "logprobs", "not supported"),
        ({"logit_bias": {"5": 1}}, "logit_bias", "not supported"),
        ({"response_format": {"type": "json_object"}}, "response_format", "not supported"),
        ({"tools": [{}]}, "tools", "not supported"),
        ({"include_stop_str_in_output": True}, "include_stop_str_in_output", "not supported"),
        ({"max_token": 5}, "max_token", "Unrecognized request argument: max_token; did you mean max_tokens"),
        ({"guided_regex": "a*"}, "guided_regex", "Unrecognized request argument: guided_regex; the options are"),
        ({"messages": []}, "messages", "Unrecognized request argument"),
        ({"top_k": -2}, "top_k", "an integer from -1"),
        ({"top_k": 1.5}, "top_k", "an integer from -1"),
        ({"min_p": 1.1}, "min_p", "a number from 0.0 to 1.0"),
        ({"repetition_penalty": 0}, "repetition_penalty", "a number from"),
        ({"presence_penalty": 2.5}, "presence_penalty", "a number from -2.0 to 2.0"),
        ({"min_tokens": 21}, "min_tokens", "an integer from 0 to 20"),
        ({"stop_token_ids": 5}, "stop_token_ids", "a list of token ids"),
        ({"stop_token_ids": [999]}, "stop_token_ids", "Token id 999 is out of vocabulary"),
        ({"ignore_eos": 1}, "ignore_eos", "must be a bool"),
        ({"max_tokens": 256}, "max_tokens", "maximum context length is 256 tokens"),
        ({"max_tokens": 0}, "max_tokens", "an integer from 1"),
        ({"max_tokens": "9"}, "max_tokens", "an integer from 1"),
        ({"temperature": -1}, "temperature", "a number from 0.0"),
        ({"top_p": 0}, "top_p", "a number from"),
        ({"top_p": 1.1}, "top_p", "a number from"),
        ({"stop": [""]}, "stop", "stop must be a non-empty string"),
        ({"prompt": []}, "prompt", "not empty"),
        ({"prompt": {"a": 1}}, "prompt", "a string"),
        ({"prompt": [999]}, "prompt", "Token id 999 is out of vocabulary"),
        ({"prompt": ""}, "prompt", "no tokens"),
        ({"model": None}, "model", "missing"),
    ],
)
def test_a_bad_field_is_named(server, change, param, message):
    response = server.post("/v1/completions", json={"model": "base", "prompt": "a", **GREEDY, **change})
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (400, 400, param)
    assert re.search(message, error["message"])


def test_errors_have_openai_s_shape(server):
    unknown = server.post("/v1/completions", json={"model": "nobody", "prompt": "a"})
    assert unknown.status_code == 404
    assert unknown.json()["error"] == {
        "message": "The model `nobody` does not exist.", "type": "NotFoundError", "param": "model", "code": 404
    }  # fmt: skip
    assert server.post("/v1/completions", content=b"{", headers=JSON).json()["error"]["message"].endswith("valid JSON")
    surrogate = rb'{"model": "base", "prompt": "\ud800"}'
    half = server.post("/v1/completions", content=surrogate, headers=JSON).json()["error"]
    assert half["message"].endswith("an unpaired surrogate, which is not valid text")
    assert server.get("/nowhere").json()["error"]["code"] == 404
    assert server.get("/v1/completions").json()["error"]["code"] == 405


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"stop": "y" * 10**6}, 400, "stop must be at most 16 strings of at most 1000 characters"),
        ({"stop": ["a"] * 17}, 400, "stop must be at most 16 strings"),
        ({"prompt": "word " * 4_000_000}, 413, "The request body has 200000.. bytes, more than 4194304"),
        ({"prompt": "word " * 800_000}, 400, "maximum context length is 256 tokens. However, your prompt has 4000000"),
        ({"prompt": ["a"] * 1025}, 400, "prompt has 1025 entries; send at most 1024 in a request"),
        ({"x" * 10**6: 1}, 400, "Unrecognized request argument: x+[.]{3}$"),
        ({"model": "x" * 10**6}, 404, "The model `x+[.]{3}$"),
    ],
)
def test_a_request_that_is_too_large_is_refused(server, body, status, message):
    response = server.post("/v1/completions", json={"model": "base", "prompt": "a", **GREEDY, **body})
    assert (response.status_code, response.json()["error"]["code"]) == (status, status)
    assert re.search(message, response.json()["error"]["message"])
    assert len(response.content) < 1000


@pytest.mark.parametrize("content", [b"[" * 1_000_000, b'{"a":' * 100_000, b"1" * 10_000, b"\xff\xfe", b'"\\ud800"'])
def test_a_body_that_is_no_json_object_is_refused(server, content):
    response = server.post("/v1/completions", content=content, headers=JSON)
    assert (response.status_code, response.json()["error"]["code"]) == (400, 400)


@pytest.mark.parametrize("temperature", [5e-324, 1e-30])
def test_a_temperature_next_to_zero_is_answered_and_leaves_its_neighbours_alone(server, temperature):
    with ThreadPoolExecutor(2) as pool:
        cold = pool.submit(complete, server, temperature=temperature)
        assert complete(server, seed=1)["choices"] == complete(server)["choices"]
        assert cold.result()["choices"]


NUMBERS = st.sampled_from([0, -1, 1, 2**31, 2**63, 10**400, 1e308, 5e-324, float("inf"), float("nan"), True])
TEXTS = st.text(max_size=20) | st.sampled_from(["\0", "\ud800", "\U0010ffff", "<s>"])
VALUES = st.recursive(
    st.none() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
FIELDS = [
    "prompt",
    "messages",
    "stop",
    "max_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "stop_token_ids",
    "repetition_penalty",
    "frequency_penalty",
    "min_tokens",
    "stream",
    "stream_options",
    "tools",
]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    body=st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=4),
    path=st.sampled_from(["completions", "chat/completions"]),
)
def test_any_request_is_answered_or_refused(server, body, path):
    usual = {"model": "base", "max_tokens": 2}
    usual |= {"prompt": "a"} if path == "completions" else {"messages": [{"role": "user", "content": "a"}]}
    content = json.dumps(usual | body).encode()
    response = server.post(f"/v1/{path}", content=content, headers=JSON)
    assert response.status_code in (200, 400), response.text
    if response.status_code == 400:
        assert response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Content-Type": "application/json; charset=utf-8"}, 200),
        ({"Host": "localhost:1234", "Origin": "http://localhost:3000"}, 200),
        ({"Host": "[::1]:80", "Origin": "http://[::1]"}, 200),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Host": "evil.example:8000"}, 403),
        ({"Host": "localhost.evil.example"}, 403),
        ({"Host": "[x"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "evil.example", "Origin": "http://evil.example"}, 403),
    ],
)
def test_a_page_of_another_site_is_refused(server, headers, status):
    content = json.dumps({"model": "base", "prompt": "a", "max_tokens": 1}).encode()
    response = server.post("/v1/completions", content=content, headers={**JSON, **headers})
    assert response.status_code == status
    assert status == 200 or response.json()["error"]["code"] == status


def test_a_server_for_all_addresses_says_so_and_asks_for_its_key(tiny_model):
    port = free_port()
    open_server = start(tiny_model, {}, port, "--host", "0.0.0.0")
    assert open_server.stderr
    assert re.match("warning: --host 0.0.0.0: whoever reaches .* set VLLM_API_KEY", open_server.stderr.readline())
    open_server.kill()
    open_server.communicate()
    guarded = start(tiny_model, {}, port, "--host", "0.0.0.0", VLLM_API_KEY="secret")
    assert guarded.stderr and "serving at" in guarded.stderr.readline()
    transport = httpx.HTTPTransport(retries=8)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, transport=transport) as client:
        assert client.get("/health").status_code == 200
        assert client.get("/v1/models", headers={"Host": "node-7"}).status_code == 401
        page = client.get("/")
        assert page.status_code == 401 and "start `runner ui` with VLLM_API_KEY set" in page.text
        assert client.get("/v1/models", headers={"Authorization": b"Bearer s\xffcret"}).status_code == 401
        named = {"Host": "node-7", "Authorization": "Bearer secret"}
        assert client.get("/v1/models", headers=named).status_code == 200
    guarded.terminate()
    assert guarded.communicate(timeout=20)[1] == ""


def test_a_port_in_use_and_a_bad_adapter_are_one_line(tiny_model, tiny_adapter, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        process = start(tiny_model, {}, taken.getsockname()[1])
        line = process.communicate(timeout=20)[1]
    assert process.returncode == 2
    assert re.fullmatch(r"serve_embedded.py: --port \d+: cannot listen on 127.0.0.1: .*; stop its server .*\n", line)
    process = start(tiny_model, {"x": tmp_path}, free_port())
    assert "adapter_config.json: no such file" in process.communicate(timeout=20)[1]
    assert process.returncode == 2
