from __future__ import annotations

import functools
import json
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tokenizers import Tokenizer, processors

import tokenize_dataset
from common import program
from common.data.template import Template

TEMPLATE = {"sections": ["Q: {question}", "C: {context}", "A:"], "separator": "\n", "response": " {answer}"}
ROWS = [
    {
        "question": f"what is {number} {{x}}?",
        "context": "" if number % 3 else "numbers " * (number % 5),
        "answer": f"it is {number} " * (1 + number % 4),
        "category": "even" if number % 2 == 0 else "odd",
    }
    for number in range(60)
]


class Case:
    """A model, a data set, and the program run on them."""

    def __init__(self, model: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.model, self.folder, self._capsys = model, folder, capsys
        self.tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
        self.data = self.write("data.jsonl", ROWS)

    def write(self, name: str, rows: list[dict]) -> Path:
        path = self.folder / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    def run(self, *argv: object, output: str = "out", template: dict | None = TEMPLATE, seq_len: int = 128) -> int:
        written = [] if template is None else ["--template", json.dumps(template)]
        words = ["--model", self.model, "--output", self.folder / output, *written]
        words = [str(word) for word in [*words, "--seq-len", seq_len, *argv]]
        return program.main(tokenize_dataset.run, tokenize_dataset.flags(), words)

    def load(self, output: str = "out") -> SimpleNamespace:
        folder = self.folder / output
        loaded = {"statistics": json.loads((folder / "statistics.json").read_text())}
        loaded["lines"] = [json.loads(line) for line in (folder / "eval.jsonl").read_text().splitlines()]
        for split in ("train", "eval"):
            names = ("input_ids", "labels", "segment_ids")
            loaded[split] = [np.load(folder / f"{split}.{name}.npy", mmap_mode="r") for name in names]
        return SimpleNamespace(**loaded)

    def refused(self, *argv: object, **options) -> str:
        """The one line of a run that has to fail before it writes anything."""
        self._capsys.readouterr()
        assert self.run(*argv, **options) == 2
        assert not (self.folder / options.get("output", "out")).exists()
        lines = self._capsys.readouterr().err.splitlines()
        return next(line for line in lines if line.startswith(("pytest", "-c")) or "__main__" in line or ".py:" in line)


@pytest.fixture
def case(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Case:
    return Case(tiny_model, tmp_path, capsys)


def examples(arrays: list[np.ndarray]) -> list[tuple[list[int], list[int]]]:
    """(ids, labels) of every packed example."""
    found = []
    for ids, labels, segments in zip(*arrays, strict=True):
        for segment in range(1, segments.max() + 1):
            found.append((ids[segments == segment].tolist(), labels[segments == segment].tolist()))
    return found


def text_of(row: dict) -> tuple[str, str]:
    context = f"C: {row['context']}\n" if row["context"] else ""
    return f"Q: {row['question']}\n{context}A:", f" {row['answer']}"


def test_every_row_is_in_one_split_once(case):
    assert case.run("--input", case.data, "--eval-rows", 10) == 0
    out = case.load()
    expected = []
    for row in ROWS:
        prompt, response = (case.tokenizer.encode(text).ids for text in text_of(row))
        expected.append((prompt + response + [1], [-100] * len(prompt) + response + [1]))
    assert sorted(examples(out.train) + examples(out.eval)) == sorted(expected)
    assert len(examples(out.eval)) == 10


def test_arrays_are_as_the_trainer_reads_them(case):
    assert case.run("--input", case.data, "--eval-rows", 10) == 0
    out = case.load()
    for arrays in (out.train, out.eval):
        for array in arrays:
            assert (array.dtype, array.shape[1], array.flags.c_contiguous) == (np.dtype("<i4"), 128, True)
    assert all(labels[0] == -100 for _, labels in examples(out.train))


def test_held_out_lines_agree_with_the_arrays(case):
    assert case.run("--input", case.data, "--eval-rows", 10) == 0
    out = case.load()
    assert sorted(line["prompt_ids"] + line["response_ids"] for line in out.lines) == sorted(
        ids for ids, _ in examples(out.eval)
    )
    for line in out.lines:
        assert (line["prompt"], line["response"]) == text_of(line["fields"])
        assert line["fields"] in ROWS
        assert line["response_ids"][-1] == 1


def test_statistics(case):
    assert case.run("--input", case.data, "--eval-rows", 10) == 0
    out = case.load()
    train = examples(out.train)
    tokens = sum(len(ids) for ids, _ in train)
    assert out.statistics["seq_len"] == 128
    assert out.statistics["train"] == {
        "examples": 50,
        "sequences": len(out.train[0]),
        "tokens": tokens,
        "label_tokens": sum(label != -100 for _, labels in train for label in labels),
        "truncated": 0,
        "split": 0,
        "dropped": 0,
        "longest": max(len(ids) for ids, _ in train),
        "mean_tokens": round(tokens / 50, 2),
        "useful_share": round(tokens / out.train[0].size, 4),
    }


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(case):
    for output, seed in (("one", 3), ("two", 3), ("other", 4)):
        assert case.run("--input", case.data, "--eval-rows", 10, "--seed", seed, output=output) == 0
    one, two, other = (
        {path.name: path.read_bytes() for path in (case.folder / name).iterdir()} for name in ("one", "two", "other")
    )
    assert one == two
    assert one["eval.jsonl"] != other["eval.jsonl"]
    assert one["train.input_ids.npy"] != other["train.input_ids.npy"]


def test_without_packing_one_example_a_sequence(case):
    assert case.run("--input", case.data, "--eval-rows", 10, "--no-pack") == 0
    out = case.load()
    assert out.statistics["train"]["sequences"] == out.statistics["train"]["examples"] == 50
    assert out.train[2].max() == 1


def test_loss_on_all_spares_the_first_token_only(case):
    assert case.run("--input", case.data, "--eval-rows", 10, "--loss-on", "all") == 0
    out = case.load()
    assert all(labels == [-100, *ids[1:]] for ids, labels in examples(out.train))
    assert out.statistics["train"]["label_tokens"] == out.statistics["train"]["tokens"] - 50


def test_long_examples_are_dropped_whole_and_counted(case, capsys):
    data = case.write("long.jsonl", [*ROWS, {**ROWS[0], "answer": "far too long " * 100}])
    assert case.run("--input", data, "--eval-input", case.data) == 0
    out = case.load()
    assert (out.statistics["train"]["dropped"], out.statistics["train"]["examples"]) == (1, 60)
    assert out.statistics["train"]["longest"] > 128
    assert "warning: train: 1 of 61 examples dropped, longer than --seq-len 128" in capsys.readouterr().err


def test_a_long_held_out_example_is_in_neither_file(case):
    data = case.write("eval.jsonl", [ROWS[0], {**ROWS[1], "answer": "far too long " * 100}])
    assert case.run("--input", case.data, "--eval-input", data) == 0
    out = case.load()
    assert [line["fields"] for line in out.lines] == [ROWS[0]]
    assert out.statistics["eval"]["dropped"] == 1


def test_train_rows_and_filters(case):
    argv = [
        "--input",
        case.data,
        "--eval-rows",
        5,
        "--train-rows",
        7,
        "--where",
        "category=even",
        "--where",
        "context=",
    ]
    assert case.run(*argv) == 0
    out = case.load()
    assert out.statistics["train"]["examples"] == 7
    assert len(out.lines) == 5
    assert all(line["fields"]["category"] == "even" and not line["fields"]["context"] for line in out.lines)


def test_train_rows_takes_from_the_whole_file(case):
    assert case.run("--input", case.data, "--eval-rows", 1, "--train-rows", 20) == 0
    texts = [case.tokenizer.decode(ids) for ids, _ in examples(case.load().train)]
    numbers = [int(text.split("what is ")[1].split()[0]) for text in texts]
    assert max(numbers) > 30


def test_several_inputs(case):
    first, second = case.write("a.jsonl", ROWS[:30]), case.write("b.jsonl", ROWS[30:])
    assert case.run("--input", first, second, "--eval-rows", 10) == 0
    assert case.run("--input", case.data, "--eval-rows", 10, output="whole") == 0
    name = "train.input_ids.npy"
    assert (case.folder / "out" / name).read_bytes() == (case.folder / "whole" / name).read_bytes()


def test_chat(case):
    from transformers import AutoTokenizer

    chat = {"sections": ["{question}"], "response": "{answer}", "system": "Be brief.", "chat": True}
    assert case.run("--input", case.data, "--eval-rows", 4, template=chat) == 0
    theirs = AutoTokenizer.from_pretrained(case.model)
    for line in case.load().lines:
        turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": line["fields"]["question"]}]
        assert line["messages"] == turns
        expected = theirs.apply_chat_template(turns, tokenize=True, add_generation_prompt=True, return_dict=False)
        assert line["prompt_ids"] == expected
    assert json.loads((case.folder / "out/template.json").read_text()) == {"separator": "\n\n", **chat}


def test_parquet_with_a_date_column(case):
    import datetime

    import pyarrow
    import pyarrow.parquet

    rows = [{**row, "day": datetime.date(2024, 1, 2)} for row in ROWS]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), case.folder / "data.parquet")
    assert case.run("--input", case.folder / "data.parquet", "--eval-rows", 3) == 0
    assert case.load().lines[0]["fields"]["day"] == "2024-01-02"


def test_a_missing_column_names_file_line_and_columns(case):
    data = case.write("bad.jsonl", [*ROWS[:4], {"question": "?", "answer": "!"}])
    line = case.refused("--input", data, "--eval-input", case.data)
    assert "bad.jsonl:5: the template's 'C: {context}' names the column 'context'" in line
    assert "the columns are question, answer;" in line


@pytest.mark.parametrize(
    ("content", "argv", "message"),
    [
        ('{"question": "a"\n', ["--eval-rows", "1"], "data.jsonl:1: not JSON"),
        ("", ["--eval-rows", "1"], "data.jsonl: no row"),
        (None, ["--eval-rows", "60"], "--eval-rows 60: there are 60 rows, so nothing would be left"),
        (None, ["--eval-rows", "1", "--where", "category=none"], "no row with category=none"),
        (None, ["--eval-rows", "1", "--where", "kind=none"], "data.jsonl:1: no column 'kind'"),
        (None, ["--eval-rows", "1", "--seq-len", "5"], "--seq-len 5: no train example is that short"),
        (None, ["--eval-rows", "1", "--revision", "main"], "belong to --hub"),
        (None, ["--eval-input", str(Path(__file__))], "its suffix is none of .jsonl"),
        (None, ["--eval-rows", "1", "--template", "absent.json"], "neither a JSON object nor a file"),
        ('{"question": [1], "context": "", "answer": ""}\n' * 2, ["--eval-rows", "1"], "'question' holds a list"),
        ('{"question": "\\ud800", "context": "", "answer": ""}\n' * 2, ["--eval-rows", "1"], "not Unicode text"),
    ],
)
def test_bad_input_is_told_in_one_line(case, content, argv, message):
    if content is not None:
        case.data.write_text(content)
    assert message in case.refused("--input", case.data, *argv)


@pytest.mark.parametrize("answer", ["", " \n", None, float("nan")])
@pytest.mark.parametrize("empty", ["train", "eval"])
def test_responses_that_are_all_empty_are_refused(case, answer, empty):
    nothing = case.write("nothing.jsonl", [{**row, "answer": answer} for row in ROWS])
    files = {"train": case.data, "eval": case.data, empty: nothing}
    template = {**TEMPLATE, "response": "{answer}"}
    line = case.refused("--input", files["train"], "--eval-input", files["eval"], template=template)
    assert f"--template: response '{{answer}}' is empty in all 60 {empty} rows" in line


SUSPICIOUS = {
    "an empty answer": ({"answer": " "}, "have an empty response"),
    "null": ({"context": None}, "have no value in the column context (null or NaN)"),
    "NaN": ({"answer": float("nan")}, "have no value in the column answer (null or NaN)"),
    "a word for nothing": ({"answer": "NaN"}, "have the text NaN in the column answer"),
    "a special token": ({"question": "what is </s>?"}, "have the text </s> in the column question"),
    "a second end": ({"answer": "it is 5</s>"}, "have </s> more than once in the answer"),
}


@pytest.mark.parametrize(("change", "message"), SUSPICIOUS.values(), ids=SUSPICIOUS)
def test_suspicious_rows_are_told_with_their_number(case, capsys, change, message):
    other = [{**row, "question": f"and {row['question']}"} for row in ROWS]
    assert case.run("--input", case.data, "--eval-input", case.write("clean.jsonl", other)) == 0
    assert "warning" not in capsys.readouterr().err
    rows = [{**row, **change} if number < 7 else row for number, row in enumerate(ROWS)]
    template = {**TEMPLATE, "response": "{answer}"}
    argv = ["--input", case.write("data.jsonl", rows), "--eval-input", case.folder / "clean.jsonl"]
    assert case.run(*argv, template=template, output="second") == 0
    assert f"warning: train: 7 of 60 rows {message}" in capsys.readouterr().err


def test_a_column_that_no_template_names_is_not_looked_at(case, capsys):
    rows = [{**row, "note": "</s>", "more": None} for row in ROWS]
    assert case.run("--input", case.write("data.jsonl", rows), "--eval-rows", 5) == 0
    assert "warning" not in capsys.readouterr().err


def test_special_tokens_that_the_tokenizer_adds_as_well(case, capsys, tmp_path):
    case.model = shutil.copytree(case.model, tmp_path / "model")
    case.tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    case.tokenizer.save(str(case.model / "tokenizer.json"))
    template = {**TEMPLATE, "sections": ["<s>Q: {question}", "A:"]}
    assert case.run("--input", case.data, "--eval-rows", 10, template=template) == 0
    said = capsys.readouterr().err
    assert "warning: train: 50 of 50 rows have <s> twice at the start of the prompt" in said
    assert "warning: eval: 10 of 10 rows have </s> at the end of the prompt" in said


def test_held_out_rows_that_are_trained_on_are_counted(case, capsys):
    data = case.write("eval.jsonl", [*ROWS[:3], {**ROWS[4], "answer": "other"}])
    assert case.run("--input", case.data, "--eval-input", data) == 0
    assert "warning: eval: 3 of 4 held-out examples are also training examples" in capsys.readouterr().err


def test_what_a_chat_template_hides_is_told(case, capsys, tmp_path):
    from tests.scripts.chat_templates import DATED

    case.model = shutil.copytree(case.model, tmp_path / "model")
    (case.model / "chat_template.jinja").write_text(DATED)
    chat = {"sections": ["{question}"], "response": "{answer}", "chat": True}
    assert case.run("--input", case.data, "--eval-rows", 5, template=chat, seq_len=512) == 0
    assert "warning: the chat template may write the date: here it is always 26 Jul 2024" in capsys.readouterr().err


def test_a_model_folder_without_tokenizer(case):
    case.model = case.folder
    assert "no tokenizer.json" in case.refused("--input", case.data, "--eval-rows", 1)


QUESTIONS = [f"What is {number} plus one?" for number in range(200)]
ANSWERS = [f"It is {number + 1}, of course." for number in range(200)]
PAIRS = list(zip(QUESTIONS, ANSWERS, strict=True))


def turns(question: str, answer: str, role: str, content: str, names: tuple[str, str]) -> list[dict]:
    """Two questions with their answers, in the words of a format."""
    texts = [question, "I think so.", "Are you sure?", answer]
    return [{role: names[number % 2], content: text} for number, text in enumerate(texts)]


def openai(question: str, answer: str) -> list[dict]:
    return turns(question, answer, "role", "content", ("user", "assistant"))


FORMATS = {
    "messages": [{"messages": openai(q, a)} for q, a in PAIRS],
    "conversations": [{"conversations": turns(q, a, "from", "value", ("human", "gpt"))} for q, a in PAIRS],
    "prompt_completion": [{"prompt": q, "completion": a} for q, a in PAIRS],
    "alpaca": [{"instruction": q, "input": "", "output": a} for q, a in PAIRS],
    "dolly": [{"instruction": q, "context": "", "response": a} for q, a in PAIRS],
    "question_answer": [{"question": q, "answer": a} for q, a in PAIRS],
    "text": [{"text": a} for _, a in PAIRS],
}
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture
def chat_case(case: Case) -> Case:
    """A case whose model is one for chats."""
    model = shutil.copytree(case.model, case.folder / "chat_model")
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    tokenizer.save(str(model / "tokenizer.json"))
    (model / "chat_template.jinja").write_text(CHATML)
    case.model, case.tokenizer = model, tokenizer
    return case


@pytest.mark.parametrize("name", FORMATS)
def test_rows_of_known_columns_need_no_template(chat_case, name):
    """What carries loss, decoded, is the answers of the rows and the marks that end them."""
    rows = chat_case.write("rows.jsonl", FORMATS[name])
    assert chat_case.run("--input", rows, "--format", "auto", "--eval-rows", 20, template=None) == 0
    out = chat_case.load()
    assert out.statistics["format"] == name
    decode = functools.partial(chat_case.tokenizer.decode, skip_special_tokens=False)
    labels = [[token for token in labels if token >= 0] for _, labels in examples(out.train) + examples(out.eval)]
    end = "</s>" if name == "text" else "<|im_end|>"
    first = "I think so.<|im_end|>" if name in ("messages", "conversations") else ""
    answers = [
        answer[name == "text" :] for answer in ANSWERS
    ]  # nothing stands before a text to predict its first token
    assert sorted(map(decode, labels)) == sorted(f"{first}{answer}{end}" for answer in answers)
    by_prompt = {line["prompt"]: line for line in out.lines}
    assert len(by_prompt) == 20
    for prompt, line in by_prompt.items():
        assert chat_case.tokenizer.encode(prompt, add_special_tokens=name == "text").ids == line["prompt_ids"]
        assert decode(line["response_ids"]) == line["response"] + end


def test_a_base_model_gets_plain_prompts(case):
    rows = case.write("rows.jsonl", FORMATS["alpaca"])
    assert case.run("--input", rows, "--format", "alpaca", "--no-chat", "--eval-rows", 20, template=None) == 0
    assert case.load().lines[0]["prompt"].startswith("### Instruction\nWhat is")
    chats = case.write("chats.jsonl", FORMATS["messages"])
    argv = ["--input", chats, "--format", "auto", "--no-chat", "--eval-rows", 20]
    error = case.refused(*argv, template=None, output="none")
    assert "rows of the format messages are conversations, and need a model with a chat template" in error


def test_an_optional_column_may_be_missing_in_some_rows(chat_case):
    rows = [{"instruction": q, "output": a} for q, a in PAIRS]
    rows[100]["input"] = "a number"
    path = chat_case.write("rows.jsonl", rows)
    assert chat_case.run("--input", path, "--format", "auto", "--eval-rows", 199, "--system", "S", template=None) == 0
    out = chat_case.load()
    assert all(line["prompt"].startswith("<|im_start|>system\nS<|im_end|>") for line in out.lines)
    texts = [chat_case.tokenizer.decode(ids) for ids, _ in examples(out.train) + examples(out.eval)]
    assert sum("a number" in text for text in texts) == 1


def test_only_the_last_answer_is_learnt_on_demand(chat_case):
    rows = chat_case.write("rows.jsonl", FORMATS["messages"])
    argv = ["--input", rows, "--format", "auto", "--eval-rows", 20, "--loss-on", "last"]
    assert chat_case.run(*argv, template=None) == 0
    learnt = {
        chat_case.tokenizer.decode([id for id in labels if id >= 0]) for _, labels in examples(chat_case.load().train)
    }
    assert learnt <= set(ANSWERS)


def test_rows_that_are_no_conversation_are_left_out_and_told(chat_case, capsys):
    rows = list(FORMATS["messages"])
    rows[3] = {"messages": [{"role": "user", "content": "Anybody?"}]}
    rows[5] = {"messages": [{"role": "asistant", "content": "a"}]}
    path = chat_case.write("rows.jsonl", rows)
    eval_rows = chat_case.write("eval.jsonl", rows[10:12])
    assert chat_case.run("--input", path, "--format", "auto", "--eval-input", eval_rows, template=None) == 0
    assert f"train: 2 rows are left out; the first: {path}:4: no turn of the assistant is to be learnt" in (
        capsys.readouterr().err
    )
    assert chat_case.load().statistics["train"]["examples"] == 198
    bad = chat_case.write("bad.jsonl", [rows[5]] * 3)
    error = chat_case.refused("--input", bad, "--format", "auto", "--eval-rows", 1, template=None, output="none")
    assert "no train row can be used; the first:" in error
    assert "the role 'asistant'" in error


def chat_of(*answers: dict) -> dict:
    return {"messages": [turn for answer in answers for turn in ({"role": "user", "content": "Why?"}, answer)]}


def test_thoughts_that_the_template_does_not_write_are_told(chat_case, capsys):
    answers = [{"role": "assistant", "content": f"So {number}.", "thinking": "Hm."} for number in range(8)]
    rows = chat_case.write("rows.jsonl", [chat_of(answer) for answer in answers])
    assert chat_case.run("--input", rows, "--format", "auto", "--eval-rows", 2, template=None) == 0
    said = capsys.readouterr().err
    assert "train: 6 of 6 rows have thoughts (reasoning_content or thinking) that the model's chat template" in said
    assert "leaves out or changes" not in said


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (CHATML.replace("<|im_end|>", "[end]"), "since the chat template ends a turn without a special token"),
        (CHATML.replace("m.role", "(m.role if loop.last else 'past')"), "since the chat template writes earlier turns"),
    ],
)
def test_why_a_conversation_is_several_examples(chat_case, capsys, source, reason):
    (chat_case.model / "chat_template.jinja").write_text(source)
    rows = chat_case.write("rows.jsonl", FORMATS["messages"][:9])
    assert chat_case.run("--input", rows, "--format", "auto", "--eval-rows", 2, template=None) == 0
    assert f"train: 7 conversations become one example for each answer, {reason}" in capsys.readouterr().err


def test_a_system_that_is_no_text_leaves_its_row_out(chat_case, capsys):
    rows = [{**row, "system": "Be kind."} for row in FORMATS["messages"][:9]]
    rows[3]["system"] = ["Be", "kind"]
    path = chat_case.write("rows.jsonl", rows)
    argv = ["--input", path, "--format", "auto", "--eval-input", chat_case.write("eval.jsonl", rows[:2])]
    assert chat_case.run(*argv, template=None) == 0
    assert f"train: 1 rows are left out; the first: {path}:4: the column 'system' holds a list, not text" in (
        capsys.readouterr().err
    )


def learnt_texts(case: Case) -> list[str]:
    """What carries loss in each example, decoded."""
    out = case.load()
    labels = [[token for token in labels if token >= 0] for _, labels in examples(out.train) + examples(out.eval)]
    return sorted(case.tokenizer.decode(ids, skip_special_tokens=False) for ids in labels)


def test_each_row_is_written_by_the_format_of_its_own_columns(chat_case, capsys):
    question, answer = {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "As turns."}
    rows = [
        {"prompt": "Why?", "completion": "As text."},
        {"prompt": [question], "completion": [answer]},
        {"instruction": "Why?", "output": "As alpaca.", "history": [["Who?", "Me."]]},
        {"messages": None, "instruction": "Why?", "output": "Without turns."},
        {"q": "Why?"},
    ]
    path = chat_case.write("rows.jsonl", rows)
    held_out = chat_case.write("eval.jsonl", [{"text": " Plain."}])
    assert chat_case.run("--input", path, "--format", "auto", "--eval-input", held_out, template=None) == 0
    end = "<|im_end|>"
    assert learnt_texts(chat_case) == sorted(
        [f"As text.{end}", f"As turns.{end}", f"Me.{end}As alpaca.{end}", f"Without turns.{end}", "lain.</s>"]
    )
    said = capsys.readouterr().err
    assert "the rows are of several formats: prompt_completion, alpaca, text" in said
    assert f"train: 1 rows are left out; the first: {path}:5: the columns q are of no known format" in said


def test_a_history_needs_a_chat(case):
    rows = [{"instruction": "Why?", "output": "So.", "history": [["Who?", "Me."]]}] * 3
    argv = ["--input", case.write("rows.jsonl", rows), "--format", "auto", "--no-chat", "--eval-rows", 1]
    assert "a history needs a model with a chat template" in case.refused(*argv, template=None)


LONG = [{"text": f"{number} " + "words " * 100} for number in range(6)]


def test_a_long_text_is_split_into_windows(case, capsys):
    path = case.write("rows.jsonl", LONG)
    argv = ["--input", path, "--format", "auto", "--eval-rows", 2, "--long", "split"]
    assert case.run(*argv, template=None, seq_len=64) == 0
    out = case.load()
    longest = out.statistics["train"]["longest"]
    windows = -(-(longest - 1) // 64)
    assert out.statistics["train"]["split"] == 4
    assert out.statistics["train"]["examples"] == 4 * windows
    assert out.statistics["train"]["dropped"] == 0
    assert out.statistics["train"]["label_tokens"] == out.statistics["train"]["tokens"] - 4 * windows
    assert (
        f"train: 4 of 4 examples split, longer than --seq-len 64 (the longest has {longest}" in capsys.readouterr().err
    )
    assert len(out.lines) == 2, "of a held-out text its first window"
    assert all(len(line["prompt_ids"] + line["response_ids"]) <= 66 for line in out.lines)
    assert sum(text.endswith("</s>") for text in learnt_texts(case)) == 6, "only the last window has the end"


def test_a_long_answer_is_truncated_where_any_of_it_fits(chat_case, capsys):
    question = {"role": "user", "content": "Why?"}
    long, short = ({"role": "assistant", "content": text} for text in ("Because " * 100, "So."))
    chats = [[question, long], [question, short, question, long], [question | {"content": "Why? " * 100}, short]]
    rows = [*({"messages": chat} for chat in chats), {"messages": [question, short]}]
    path = chat_case.write("rows.jsonl", rows)
    argv = ["--input", path, "--format", "auto", "--eval-input", path, "--long", "truncate"]
    assert chat_case.run(*argv, template=None, seq_len=64) == 0
    statistics = chat_case.load().statistics["train"]
    assert (statistics["examples"], statistics["truncated"], statistics["dropped"]) == (3, 2, 1)
    said = capsys.readouterr().err
    assert "train: 2 of 4 examples truncated, longer than --seq-len 64" in said
    assert "train: 1 of 4 examples dropped, longer than" in said
    assert ": no answer to learn begins before" in said
    out = chat_case.load()
    assert sorted(line["prompt_ids"] + line["response_ids"] for line in out.lines) == sorted(
        ids for ids, _ in examples(out.eval)
    )
    assert sum(text.endswith("<|im_end|>") for text in learnt_texts(chat_case)) == 2, "what is cut has no end"


def test_a_mixture_has_its_shares(case):
    paths = [case.write(f"{name}.jsonl", [{"text": f"{name} {n}"} for n in range(50)]) for name in ("one", "two")]
    sources = [word for path in paths for word in ("--input", path)]
    argv = [*sources, "--format", "auto", "--eval-rows", 10, "--weights", 3, 1, "--train-rows", 20]
    for output in ("first", "again"):
        assert case.run(*argv, template=None, output=output) == 0
    first, again = ((case.folder / name / "train.input_ids.npy").read_bytes() for name in ("first", "again"))
    assert first == again
    out = case.load("first")
    assert [source["used"] for source in out.statistics["sources"]] == [15, 5]
    texts = [case.tokenizer.decode(ids) for ids, _ in examples(out.train)]
    assert sum(text.strip().startswith("one") for text in texts) == 15
    held_out = [line["fields"]["text"].split()[0] for line in out.lines]
    assert sorted(held_out) == ["one"] * 8 + ["two"] * 2
    assert held_out != sorted(held_out), "the first few are of all sources"


def test_a_source_that_is_too_small_is_repeated_and_told(case, capsys):
    paths = [case.write(f"{name}.jsonl", [{"text": f"{name} {n}"} for n in range(10)]) for name in ("one", "two")]
    sources = [word for path in paths for word in ("--input", path)]
    argv = [*sources, "--format", "auto", "--eval-input", case.data, "--weights", 1, 3, "--train-rows", 40]
    argv[argv.index(case.data)] = case.write("eval.jsonl", [{"text": "three 1"}])
    assert case.run(*argv, template=None) == 0
    assert f"{paths[1]}: 30 rows are used of 10, so some are repeated" in capsys.readouterr().err
    assert len(examples(case.load().train)) == 40
    argv = ["--input", paths[0], "--format", "auto", "--eval-rows", 2, "--weights", 1, 1]
    assert "--weights: there are 2 for 1 sources" in case.refused(*argv, template=None, output="none")


def test_conversations_can_be_asked_as_they_were_trained(chat_case):
    rows = chat_case.write("rows.jsonl", FORMATS["conversations"])
    assert chat_case.run("--input", rows, "--format", "auto", "--eval-rows", 20, template=None) == 0
    line = chat_case.load().lines[0]
    assert [turn["role"] for turn in line["messages"]] == ["user", "assistant", "user"]
    template = Template.load(str(chat_case.folder / "out" / "template.json"))
    assert template.question(line["fields"]) == {"messages": line["messages"]}


def test_the_next_batch_is_worked_on_while_one_is_used():
    """The second item is reached while the first result is still held."""
    reached = threading.Event()

    def work(item):
        if item == 2:
            reached.set()
        return 10 * item

    results = tokenize_dataset.one_ahead(work, [1, 2, 3])
    assert next(results) == 10
    assert reached.wait(60)
    assert list(results) == [20, 30]
    assert list(tokenize_dataset.one_ahead(work, [])) == []


def test_an_error_in_a_batch_ends_the_work():
    results = tokenize_dataset.one_ahead(lambda item: 1 / item, [1, 0, 1])
    with pytest.raises(ZeroDivisionError):
        list(results)
