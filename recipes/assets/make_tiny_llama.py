"""Make a tiny Llama for rehearsals: a real Hugging Face model folder of a few megabytes.

The tokenizer (byte-level BPE, digits one by one) and the model (grouped-query attention, tied embeddings) are
trained from nothing on a made-up corpus over the grammar of make_sql.py: tables of random words with
queries over them, rows with the same rows in English, and questions with other wordings of the same question.
A question never stands beside its SQL, and no table of the data set occurs: turning questions into SQL is
what is left for fine-tuning to teach.

Input: none, only a seed. Output: a model folder (config.json, model.safetensors, tokenizer.json, ...).

Example: PYTHONPATH=scripts python recipes/assets/make_tiny_llama.py --output recipes/assets/tiny_llama --seed 7
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, cast

import make_sql as sql
from common import events, program

if TYPE_CHECKING:
    import torch
    from tokenizers import Regex, Tokenizer
    from tokenizers.pre_tokenizers import PreTokenizer
    from transformers import LlamaForCausalLM
    from transformers.models.llama.modeling_llama import LlamaAttention

SPECIAL_TOKENS = ("<s>", "</s>", "<pad>")
VOCAB_SIZE = 1536
WORD_MERGES = 780  # of the vocabulary; the rest is bytes, special tokens and words with a space before them
TOKENIZER_DOCUMENTS = 20_000
REPEAT_STEPS = 150
SPACE = "Ġ"  # how byte-level BPE writes it


# --- the corpus ----------------------------------------------------------------------------------------------------


def known_words() -> list[str]:
    """Every word of the data set's entities and columns."""
    words: dict[str, None] = {}
    for domain in sql.DOMAINS:
        names = f"{domain.label} {domain.entities} {domain.held_out_entities}".split()
        names += [spec.partition(":")[0] for spec in f"{domain.columns} {domain.held_out_columns}".split()]
        words.update(dict.fromkeys(word for name in names for word in name.split("_")))
    return list(words)


WORDS = known_words()
CHOICES = [
    spec.partition(":")[2]
    for domain in sql.DOMAINS
    for spec in f"{domain.columns} {domain.held_out_columns}".split()
    if "|" in spec
]


def random_identifier(rng: random.Random) -> str:
    """One or two random words: "salary", "moon_velmora"."""
    parts = [rng.choice(WORDS) if rng.random() < 0.9 else sql.invented_name(rng).lower() for _ in range(2)]
    return "_".join(parts[: rng.choice((1, 1, 2))])


def random_column(name: str, rng: random.Random) -> sql.Column:
    """A column called `name` with values of a random kind."""
    kind = rng.random()
    if kind < 0.5:
        low = rng.choice((1, 1, 5, 20, 100, 1000, 1900))
        return sql.Column(name, low, low + rng.choice((20, 99, 900, 5000)))
    if kind < 0.65:
        return sql.Column.parse(f"{name}:{rng.choice(CHOICES)}")
    return sql.Column(name, kind=rng.choice(list(sql.VALUES)))


def random_table(rng: random.Random) -> sql.Table:
    """A table of random words, with at least one number and one text beside its label."""
    names = sorted({random_identifier(rng) for _ in range(7)})
    rng.shuffle(names)
    label = sql.Column(rng.choice(("name", "title", "code", "model", names[-1])), kind=rng.choice(list(sql.VALUES)))
    while True:
        columns = [random_column(name, rng) for name in names[1 : rng.choice((3, 4, 5))]]
        if len({column.is_number for column in columns}) == 2:
            return sql.Table(names[0], (label, *columns))


def random_query(table: sql.Table, rows: sql.Rows, rng: random.Random) -> sql.Query:
    """A query of a random kind over `table`."""
    query = sql.sample_query(sql.sample_kind(rng), table, rows, rng)
    assert query is not None, "random_table gives numbers and texts"
    return query


def queries_document(table: sql.Table, rows: sql.Rows, rng: random.Random) -> str:
    """A table, at times a remark on it, and queries that have nothing to do with the remark."""
    lines = [table.create()]
    if rng.random() < 0.7:
        lines.append(f"-- {columns_in_words(table)}")
    lines += [random_query(table, rows, rng).sql() for _ in range(rng.choice((1, 1, 2, 3)))]
    return "\n".join(lines)


def columns_in_words(table: sql.Table) -> str:
    """A sentence that names the table's columns."""
    return f"The {table.plural} with their {', '.join(column.words for column in table.columns)}."


def words_document(table: sql.Table, rows: sql.Rows, rng: random.Random) -> str:
    """A table and its columns in words, in either order."""
    lines = [table.create(), columns_in_words(table)]
    rng.shuffle(lines)
    return "\n".join(lines)


def rows_document(table: sql.Table, rows: sql.Rows, rng: random.Random) -> str:
    """A table, some rows, and the same rows in English."""
    some = rng.sample(rows, 2)
    lines = [table.create(), sql.insert(table, some)]
    for row in some:
        values = [f"the {column.words} is {value}" for column, value in zip(table.columns, row, strict=True)]
        lines.append(", ".join(rng.sample(values, len(values))))
    return "\n".join(lines)


def questions_document(table: sql.Table, rows: sql.Rows, rng: random.Random) -> str:
    """A table and questions, each in two wordings."""
    lines = [table.create()]
    for _ in range(2):
        query = random_query(table, rows, rng)
        lines += [f"Q: {sql.ask(query, rng)}", f"Q: {sql.ask(query, rng)}"]
    return "\n".join(lines)


def lists_document(table: sql.Table, rows: sql.Rows, rng: random.Random) -> str:
    """The same names as identifiers, in words, and quoted."""
    names = [random_identifier(rng) for _ in range(rng.randint(3, 6))]
    values = [rng.choice(list(sql.VALUES.values()))(rng) for _ in range(rng.randint(2, 4))]
    lines = [", ".join(names), ", ".join(name.replace("_", " ") for name in names)]
    quotes = [", ".join(values), ", ".join(sql.literal(value) for value in values)]
    rng.shuffle(lines)
    rng.shuffle(quotes)
    return "\n".join(lines + quotes)


DOCUMENTS: dict[Callable[[sql.Table, sql.Rows, random.Random], str], float] = {
    queries_document: 0.3,
    questions_document: 0.35,
    rows_document: 0.1,
    words_document: 0.1,
    lists_document: 0.15,
}


def documents(rng: random.Random) -> Iterator[str]:
    """The corpus, without end."""
    kinds, weights = list(DOCUMENTS), list(DOCUMENTS.values())
    while True:
        table = random_table(rng)
        yield rng.choices(kinds, weights)[0](table, sql.sample_rows(table, rng), rng)


# --- the tokenizer -------------------------------------------------------------------------------------------------


def make_tokenizer(texts: list[str]) -> Tokenizer:
    """Train a byte-level BPE whose words are cut the same way with and without a space before them.

    Merges inside words come first; then each piece that starts a word is merged with the space. So
    " birth year" and "birth_year" share the pieces behind their first ones, which makes copying easier.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = _split(Regex(r"\p{L}+|[^\p{L}]"), byte_level)
    trainer = trainers.BpeTrainer(
        vocab_size=len(SPECIAL_TOKENS) + 256 + WORD_MERGES,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    words.train_from_iterator(texts, trainer)
    vocabulary, merges = _with_spaces(words, texts)

    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    tokenizer.pre_tokenizer = _split(Regex(r" ?\p{L}+| ?[^\p{L}]"), byte_level)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", vocabulary["<s>"])]
    )
    return tokenizer


def _split(pattern: Regex, then: PreTokenizer) -> PreTokenizer:
    from tokenizers import pre_tokenizers

    return pre_tokenizers.Sequence([pre_tokenizers.Split(pattern, "isolated"), then])


def _with_spaces(words: Tokenizer, texts: list[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The vocabulary and merges of `words`, with the most frequent word starts after a space added."""
    state = json.loads(words.to_str())["model"]
    vocabulary, merges = state["vocab"], [tuple(merge) for merge in state["merges"]]
    starts: Counter[str] = Counter()
    for encoding in words.encode_batch(texts):
        pairs = zip(encoding.tokens, encoding.tokens[1:], strict=False)
        starts.update(after for before, after in pairs if before == SPACE)
    for piece, _ in starts.most_common(VOCAB_SIZE - len(vocabulary)):
        vocabulary[SPACE + piece] = len(vocabulary)
        merges.append((SPACE, piece))
    return vocabulary, merges


# --- the model -----------------------------------------------------------------------------------------------------

EMBEDDING_SCALE = 0.1
FAST_PAIRS = 6  # rotary pairs whose phase tells neighbouring positions apart; the slower ones carry content


def make_model() -> LlamaForCausalLM:
    """A Llama with first weights from which copying is quickly learned."""
    from transformers import LlamaConfig, LlamaForCausalLM

    bos, eos, pad = range(len(SPECIAL_TOKENS))
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=bos,
        eos_token_id=eos,
        pad_token_id=pad,
    )
    model = LlamaForCausalLM(config)
    wire_induction(model)
    return model


def wire_induction(model: LlamaForCausalLM) -> None:
    """Set first weights that repeat what followed the last time (Olsson et al. 2022, arXiv:2209.11895).

    The first layer's heads look 1 to 4 positions back and write the token they find there. In later layers the
    heads of one K/V head look for a position after the same token, those of the other for the same token, and
    copy it. Left to chance, this circuit takes millions of tokens to appear in a model of this size.
    """
    import torch

    with torch.no_grad():
        embeddings = model.model.embed_tokens.weight.normal_(std=EMBEDDING_SCALE)
        embeddings[:, 0] = 8 * EMBEDDING_SCALE  # the same for each token: a query for positions alone
        model.model.norm.weight.fill_(0.3)
        attentions = [cast("LlamaAttention", layer.self_attn) for layer in model.model.layers]
        for attention in attentions:
            attention.o_proj.weight.zero_()
            same = _orthogonal(attention.head_dim, model.config.hidden_size)
            _set_content_heads(attention, 1, same, same)
        token, before = _set_position_heads(attentions[0])
        for attention in attentions[1:]:
            _set_content_heads(attention, 0, 2 * token, 2 * before)


def _set_position_heads(attention: LlamaAttention) -> tuple[torch.Tensor, torch.Tensor]:
    """Make query head d of K/V head 0 look d + 1 back. Gives the maps that read and that wrote for d = 0."""
    import torch

    size, groups = attention.head_dim, attention.num_key_value_groups
    fast = torch.arange(FAST_PAIRS)
    frequencies = 10_000.0 ** (-2 * fast / size)
    attention.k_proj.weight[fast, 0] = 1.0
    token = _orthogonal(size, attention.v_proj.in_features)
    attention.v_proj.weight[:size] = token
    for head in range(groups):
        phase = frequencies * (head + 1)
        attention.q_proj.weight[head * size + fast, 0] = phase.cos()
        attention.q_proj.weight[head * size + size // 2 + fast, 0] = -phase.sin()
        written = _orthogonal(size, attention.o_proj.out_features)
        attention.o_proj.weight[:, head * size : (head + 1) * size] = 2 * EMBEDDING_SCALE * written.T
        if head == 0:
            before = written
    return token, before


def _set_content_heads(attention: LlamaAttention, kv_head: int, query: torch.Tensor, key: torch.Tensor) -> None:
    """Make the heads of `kv_head` attend where `key` (head_dim, hidden) matches `query`, and copy what is there."""
    import torch

    size, groups = attention.head_dim, attention.num_key_value_groups
    slow = torch.cat([torch.arange(FAST_PAIRS, size // 2), torch.arange(size // 2 + FAST_PAIRS, size)])
    value = _orthogonal(size, attention.v_proj.in_features)
    attention.k_proj.weight[kv_head * size + slow] = key[slow]
    attention.v_proj.weight[kv_head * size : (kv_head + 1) * size] = value
    for head in range(kv_head * groups, (kv_head + 1) * groups):
        attention.q_proj.weight[head * size + slow] += query[slow]  # on top of chance, so that the heads differ
        attention.o_proj.weight[:, head * size : (head + 1) * size] = EMBEDDING_SCALE * value.T


def _orthogonal(rows: int, columns: int) -> torch.Tensor:
    """Orthonormal rows that do not see column 0."""
    import torch

    matrix = torch.nn.init.orthogonal_(torch.empty(rows, columns))
    matrix[:, 0] = 0.0
    return matrix


# --- training ------------------------------------------------------------------------------------------------------

Batch = tuple["torch.Tensor", "torch.Tensor"]  # input ids and labels (-100 = no loss), both (documents, length)


def repeats(batch_size: int, rng: random.Random) -> Batch:
    """Random tokens twice, with loss on the second time."""
    import torch

    length = rng.randint(4, 16)
    once = torch.randint(len(SPECIAL_TOKENS), VOCAB_SIZE, (batch_size * 16 // length, length))
    labels = torch.cat([torch.full_like(once, -100), once], dim=1)
    labels[:, length] = -100
    return once.repeat(1, 2), labels


def batches(tokenizer: Tokenizer, batch_size: int, rng: random.Random) -> Iterator[Batch]:
    """First nothing but repeats, then documents of like length and some repeats, without end."""
    for _ in range(REPEAT_STEPS):
        yield repeats(batch_size, rng)
    corpus = documents(rng)
    while True:
        texts = [next(corpus) for _ in range(16 * batch_size)]
        rows = sorted((labelled(tokenizer, text) for text in texts), key=lambda row: len(row[0]))
        groups = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
        for group in rng.sample(groups, len(groups)):
            yield padded(group)
        yield repeats(batch_size, rng)


def labelled(tokenizer: Tokenizer, text: str) -> tuple[list[int], list[int]]:
    """Token ids and labels of a document. Its first line is random: there is nothing to learn from it."""
    ids = [*tokenizer.encode(text).ids, SPECIAL_TOKENS.index("</s>")]
    first_line = len(tokenizer.encode(text.partition("\n")[0]).ids)
    return ids, [-100] * first_line + ids[first_line:]


def padded(rows: list[tuple[list[int], list[int]]]) -> Batch:
    """Rows of ids and labels as two tensors as wide as the longest."""
    import torch

    width = max(len(ids) for ids, _ in rows)
    pad = SPECIAL_TOKENS.index("<pad>")
    ids = torch.tensor([ids + [pad] * (width - len(ids)) for ids, _ in rows])
    labels = torch.tensor([labels + [-100] * (width - len(labels)) for _, labels in rows])
    return ids, labels


def schedule(step: int, steps: int) -> float:
    """The share of the peak learning rate: a short warm-up, constant, then down to zero over the second half."""
    return min((step + 1) / 30, 1.0, 2 * (steps - step) / steps)


def pretrain(model: LlamaForCausalLM, data: Iterator[Batch], steps: int, learning_rate: float) -> None:
    """Train every weight of `model` on next-token prediction, in place. Raises StageFailed if the loss is lost."""
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: schedule(step, steps))
    for step in range(1, steps + 1):
        ids, labels = next(data)
        hidden = model.model(input_ids=ids).last_hidden_state[:, :-1]
        scored = labels[:, 1:] != -100
        loss = torch.nn.functional.cross_entropy(model.lm_head(hidden[scored]), labels[:, 1:][scored])
        if not loss.isfinite():
            raise program.StageFailed(f"the loss is {loss.item()} at step {step}: try a lower --learning-rate")
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        events.metric({"loss": loss.item()}, at=step)
        events.progress(step, steps)


def save(model: LlamaForCausalLM, tokenizer: Tokenizer, folder: Path) -> None:
    """Write the Hugging Face model folder, weights in bfloat16."""
    model.bfloat16().save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    bos, eos, pad = SPECIAL_TOKENS
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",  # the one name that old and new transformers know
        "bos_token": bos,
        "eos_token": eos,
        "pad_token": pad,
        "model_max_length": model.config.max_position_embeddings,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def flags() -> argparse.ArgumentParser:
    options = program.parser(__doc__)
    options.add_argument("--output", type=Path, required=True, help="model folder to make")
    options.add_argument("--seed", type=int, default=7, help="of the corpus and of the first weights")
    options.add_argument("--steps", type=program.at_least(1), default=1400, help="optimizer steps")
    options.add_argument("--batch-size", type=program.at_least(1), default=32, help="documents a step")
    options.add_argument("--learning-rate", type=program.at_least(0, float), default=1.5e-3, help="its peak")
    return options


def run(args: argparse.Namespace) -> None:
    import torch

    torch.manual_seed(args.seed)
    rng = random.Random(args.seed)
    corpus = documents(rng)
    tokenizer = make_tokenizer([next(corpus) for _ in range(TOKENIZER_DOCUMENTS)])
    model = make_model()
    pretrain(model, batches(tokenizer, args.batch_size, rng), args.steps, args.learning_rate)
    save(model, tokenizer, args.output)


if __name__ == "__main__":
    sys.exit(program.main(run, flags()))
