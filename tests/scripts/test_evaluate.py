from __future__ import annotations

import json
import math
import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

import evaluate
from common import program
from common.data import tokenizer
from common.inference.sql_scores import SqlChecker


def run(model: Path, adapter: Path, tokens: Path, output: Path, *more: str) -> int:
    folders = {"--model": model, "--adapter": adapter, "--tokens": tokens, "--output": output}
    argv = [str(word) for pair in folders.items() for word in pair] + ["--max-new-tokens", "8", *more]
    return program.main(evaluate.run, evaluate.flags(), argv)


EXAMPLE = b'{"prompt": "a", "prompt_ids": [2], "response": "b", "response_ids": [3, 1], "fields": {}}'


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def evaluation(tiny_model, tiny_adapter, tiny_tokens, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("evaluation")
    metrics = ["--metrics", "exact_match", "rouge_l", "sql", "--sql-schema", "context", "--batch-size", "5"]
    assert run(tiny_model, tiny_adapter, tiny_tokens, output, *metrics) == 0
    return output


def test_losses_are_those_of_transformers_and_peft(evaluation, tiny_model, tiny_adapter, tiny_tokens):
    report = json.loads((evaluation / "report.json").read_text())
    base = LlamaForCausalLM.from_pretrained(tiny_model)
    model = PeftModel.from_pretrained(base, tiny_adapter).eval()
    for side, applied in (("base", model.disable_adapter), ("adapter", nullcontext)):
        total = count = 0.0
        for example in lines(tiny_tokens / "eval.jsonl"):
            prompt, response = example["prompt_ids"], example["response_ids"]
            labels = torch.tensor([[-100] * len(prompt) + response])
            with torch.no_grad(), applied():
                loss = model(torch.tensor([prompt + response]), labels=labels).loss
            total, count = total + float(loss) * len(response), count + len(response)
        assert report[side]["loss"] == pytest.approx(total / count, rel=1e-5)
        assert report[side]["perplexity"] == pytest.approx(math.exp(total / count), rel=1e-4)


def test_samples_stand_side_by_side_in_the_order_of_the_examples(evaluation, tiny_tokens):
    samples, examples = lines(evaluation / "samples.jsonl"), lines(tiny_tokens / "eval.jsonl")
    assert [sample["prompt"] for sample in samples] == [example["prompt"] for example in examples]
    assert [sample["prompt_token_ids"] for sample in samples] == [example["prompt_ids"] for example in examples]
    assert [sample["reference"] for sample in samples] == [example["response"] for example in examples]
    assert all(0 < len(sample[side]["token_ids"]) <= 8 for sample in samples for side in ("base", "adapter"))
    assert "messages" not in samples[0]


def test_answers_do_not_depend_on_the_batch(evaluation, tiny_model, tiny_adapter, tiny_tokens, tmp_path):
    assert run(tiny_model, tiny_adapter, tiny_tokens, tmp_path, "--batch-size", "1", "--examples", "4") == 0
    for alone, batched in zip(lines(tmp_path / "samples.jsonl"), lines(evaluation / "samples.jsonl"), strict=False):
        assert alone["base"]["token_ids"] == batched["base"]["token_ids"]
        assert alone["adapter"]["token_ids"] == batched["adapter"]["token_ids"]
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["examples"] == 4
    assert "execution_accuracy" not in report["adapter"]


def test_a_reference_is_decoded_as_an_answer_is(tiny_model):
    """A call of a tool may be written with special tokens, and the decoded answer has none."""
    decoder = tokenizer.load(tiny_model)
    ids = decoder.encode("<s>call(a)</s>").ids
    assert evaluate.reference(ids, decoder, frozenset({1})) == "call(a)"
    assert evaluate.reference(ids[:-1], decoder, frozenset({1})) == "call(a)", "a truncated one has no end"


def test_the_scores_of_answers():
    reference, equal = "SELECT a FROM t WHERE a > 3", "Here is the query: SELECT a FROM t WHERE 3 < a"
    with SqlChecker() as checker:
        question = checker.question("CREATE TABLE t (a INTEGER)", "", reference)
    line = {"reference": reference, "base": {"text": "SELECT a"}, "adapter": {"text": equal}}
    plain = {"reference": "SELECT a", "base": {"text": "SELECT a"}, "adapter": {"text": "SELECT b"}}
    evaluate.add_scores([line, plain], ["exact_match", "rouge_l", "sql"], [question, None])
    assert [line[side]["correct"] for side in evaluate.SIDES] == [False, True]
    assert (line["adapter"]["exact_match"], line["adapter"]["execution_accuracy"]) == (False, True)
    assert 0.5 < line["adapter"]["rouge_l"] < 1
    assert plain["base"] == {"text": "SELECT a", "correct": True, "exact_match": True, "rouge_l": 1}
    assert plain["adapter"]["correct"] is False


def test_answers_are_kept_when_their_scoring_fails(tiny_model, tiny_adapter, tiny_tokens, tmp_path, monkeypatch):
    def fail(*_: object) -> float:
        raise ZeroDivisionError

    monkeypatch.setattr(evaluate.text_scores, "rouge_l", fail)
    with pytest.raises(ZeroDivisionError):
        run(tiny_model, tiny_adapter, tiny_tokens, tmp_path, "--metrics", "rouge_l", "--examples", "2")
    assert all(line[side]["text"] for line in lines(tmp_path / "samples.jsonl") for side in evaluate.SIDES)


def test_references_that_do_not_run_are_told_and_left_out(tiny_model, tiny_adapter, tiny_tokens, tmp_path, capsys):
    tokens = shutil.copytree(tiny_tokens, tmp_path / "tokens")
    examples = lines(tokens / "eval.jsonl")
    examples[0]["fields"]["rows"] = "INSERT INTO t VALUES ('Ann', 30)"
    examples[1]["response"] = "SELECT a FROM nowhere"
    (tokens / "eval.jsonl").write_text("".join(json.dumps(example) + "\n" for example in examples[:3]))
    flags = ["--metrics", "sql", "--sql-schema", "context", "--sql-rows", "rows"]
    assert run(tiny_model, tiny_adapter, tokens, tmp_path / "out", *flags) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    failures = {"1": "no such table: nowhere"}
    assert report["sql"] == {"reference_failures": failures, "empty_references": 0, "invented_rows": 1}
    assert "execution_accuracy excludes 1 reference queries" in capsys.readouterr().err
    assert "execution_accuracy" not in lines(tmp_path / "out" / "samples.jsonl")[1]["base"]


def test_a_chat_s_samples_carry_what_to_ask_a_server(tiny_model, tiny_adapter, tiny_tokens, tmp_path):
    tokens = shutil.copytree(tiny_tokens, tmp_path / "tokens")
    question = {"messages": [{"role": "user", "content": "Older than 0?"}], "tools": [{"type": "function"}]}
    examples = lines(tokens / "eval.jsonl")[:3]
    (tokens / "eval.jsonl").write_text("".join(json.dumps(example | question) + "\n" for example in examples))
    assert run(tiny_model, tiny_adapter, tokens, tmp_path / "out") == 0
    assert question.items() <= lines(tmp_path / "out" / "samples.jsonl")[0].items()


def test_an_adapter_that_changes_no_answer_fails(tiny_model, tiny_adapter, tiny_tokens, tmp_path, capsys):
    weak = shutil.copytree(tiny_adapter, tmp_path / "weak")
    tensors = {name: tensor * 1e-6 for name, tensor in load_file(weak / "adapter_model.safetensors").items()}
    save_file(tensors, weak / "adapter_model.safetensors")
    assert run(tiny_model, weak, tiny_tokens, tmp_path / "out") == 1
    assert "exactly like the base model" in capsys.readouterr().err
    assert not (tmp_path / "out" / "report.json").exists()


@pytest.mark.parametrize(
    ("content", "flags", "message"),
    [
        (b"", [], "contains no examples"),
        (b"{", [], "line 1: not JSON"),
        (b"\xff\xfe", [], "line 1: not JSON"),
        (b"[]", [], "line 1: not a JSON object"),
        (b'{"prompt": "a", "prompt_ids": []}', [], "prompt_ids is missing, empty or not a list"),
        (EXAMPLE.replace(b"[2]", b"[384]"), [], "token id 384 is outside the model's vocabulary of 384"),
        (None, ["--max-new-tokens", "250"], "--max-new-tokens 250: the longest prompt has"),
        (None, ["--metrics", "sql"], "needs --sql-schema"),
        (None, ["--metrics", "sql", "--sql-schema", "x"], "--sql-schema x: no such column; the columns are question"),
        (None, ["--metrics", "sql", "--sql-schema", "question"], "no reference query runs on SQLite"),
    ],
)
def test_bad_input_is_one_line_before_any_output(
    tiny_model, tiny_adapter, tiny_tokens, tmp_path, capsys, content, flags, message
):
    tokens = shutil.copytree(tiny_tokens, tmp_path / "tokens")
    if content is not None:
        (tokens / "eval.jsonl").write_bytes(content)
    assert run(tiny_model, tiny_adapter, tokens, tmp_path / "out", *flags) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_model_without_its_weights_is_bad_input(tiny_model, tiny_adapter, tiny_tokens, tmp_path, capsys):
    model = shutil.copytree(tiny_model, tmp_path / "model")
    (model / "model.safetensors").write_bytes((model / "model.safetensors").read_bytes()[:-5])
    assert run(model, tiny_adapter, tiny_tokens, tmp_path / "out") == 2
    assert "model.safetensors" in capsys.readouterr().err
