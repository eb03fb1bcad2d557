from __future__ import annotations

import itertools
import json
import random
import re
from pathlib import Path

import pytest

import make_tiny_llama as tiny

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

torch.set_num_threads(1)  # spinning threads make a small model slow on a busy machine
ASSETS = Path(__file__).parents[3] / "recipes" / "assets"


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return list(itertools.islice(tiny.documents(random.Random(1)), 2000))


@pytest.fixture(scope="module")
def tokenizer(texts: list[str]):
    return tiny.make_tokenizer(texts)


def test_the_corpus_never_shows_a_question_with_its_sql(texts: list[str]) -> None:
    for text in texts:
        lines = text.splitlines()
        assert not (any(line.startswith("Q: ") for line in lines) and any(line.startswith("SELECT") for line in lines))


def columns_of(create_table: str) -> frozenset[str]:
    return frozenset(re.findall(r"(\w+) (?:TEXT|INTEGER)", create_table))


def test_no_table_of_the_corpus_has_the_columns_of_one_of_the_data_set(texts: list[str]) -> None:
    lines = [line for name in ("train", "eval") for line in (ASSETS / f"sql/{name}.jsonl").read_text().splitlines()]
    data_set = {columns_of(json.loads(line)["context"]) for line in lines}
    corpus = {columns_of(line) for text in texts for line in text.splitlines() if line.startswith("CREATE TABLE")}
    assert data_set
    assert corpus
    assert not data_set & corpus


def test_tokenizer_gives_text_back_and_cuts_digits_and_words_alike(tokenizer) -> None:
    text = "CREATE TABLE x (birth_year INTEGER)\n-- the birth year is 1984 or 'Zoë'?\n"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text
    digits = tokenizer.encode(" 1984", add_special_tokens=False).tokens
    assert [token.removeprefix(tiny.SPACE) for token in digits] == list("1984")
    bare, spaced = (tokenizer.encode(word, add_special_tokens=False).tokens for word in ("population", " population"))
    assert spaced == [tiny.SPACE + bare[0], *bare[1:]]


def test_first_weights_learn_to_repeat_within_a_few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    losses: list[float] = []
    monkeypatch.setattr(tiny.events, "metric", lambda values, at: losses.append(values["loss"]))
    torch.manual_seed(1)
    rng = random.Random(1)
    model = tiny.make_model()
    tiny.pretrain(model, (tiny.repeats(8, rng) for _ in itertools.count()), steps=15, learning_rate=1.5e-3)
    assert losses[-1] < losses[0] - 0.3


def test_labels_leave_out_the_random_first_line_and_the_padding(tokenizer) -> None:
    short, long = (tiny.labelled(tokenizer, text) for text in ("a b\nc", "a b\nc d e f"))
    ids, labels = tiny.padded([short, long])
    first_line = len(tokenizer.encode("a b").ids)
    assert (labels[:, :first_line] == -100).all()
    scored = labels != -100
    assert (labels[scored] == ids[scored]).all()
    assert ids[0, len(short[0]) - 1] == tiny.SPECIAL_TOKENS.index("</s>")
    assert (labels[0, len(short[0]) :] == -100).all()


def test_shipped_model_loads_with_the_stock_classes(recwarn: pytest.WarningsRecorder, caplog) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(ASSETS / "tiny_llama")
    tokenizer = transformers.AutoTokenizer.from_pretrained(ASSETS / "tiny_llama")
    assert not caplog.records
    config = model.config
    assert (config.num_attention_heads, config.num_key_value_heads) == (8, 2)
    assert config.vocab_size == len(tokenizer)
    assert config.vocab_size % 8 == config.intermediate_size % 8 == 0
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (config.bos_token_id, config.eos_token_id)
    ids = tokenizer("CREATE TABLE river", return_tensors="pt").input_ids
    assert torch.isfinite(model(input_ids=ids).logits).all()


def test_a_shipped_document_is_predicted_far_better_than_by_chance() -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(ASSETS / "tiny_llama", dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(ASSETS / "tiny_llama")
    ids = tokenizer("Velmora, Oskia, Trandul\n'Velmora', 'Oskia', 'Trandul'", return_tensors="pt").input_ids
    half = ids.shape[1] // 2 + 2
    labels = ids.clone()
    labels[:, :half] = -100
    assert model(input_ids=ids, labels=labels).loss < 1.0
