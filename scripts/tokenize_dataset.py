"""Turn a data set into fixed-length token arrays to train on, and a held-out part to evaluate on.

Each row becomes a prompt and a response by the template; the response, closed by the model's end
token, carries the loss. Examples are packed into sequences of --seq-len tokens. None is ever split,
and one that is longer is dropped and counted: a cut answer would teach cut answers.

Input: JSONL, JSON, CSV or Parquet files (--input), or a data set on the Hugging Face Hub (--hub).
Output: {train,eval}.{input_ids,labels,segment_ids}.npy (int32, one row a sequence), eval.jsonl (the
held-out examples as text and ids), statistics.json and template.json. The same rows, flags and seed
give the same bytes.

    python scripts/tokenize_dataset.py --model models/smollm2 --input dolly.jsonl --template dolly.json \\
        --seq-len 512 --eval-rows 200 --output tokens
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from array import array
from collections.abc import Collection, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from common import events, program
from common.data import hub, json_lines, packing, rows
from common.data.row_checks import Example, RowChecks
from common.data.template import Template
from common.data.tokenizer import PromptTokenizer
from common.program import BadInput

CONDITIONS = "use only the rows with this value; of several all must hold"
BATCH = 1000  # rows tokenized at once: enough to keep every core busy


class TokenStore:
    """Token ids of the examples of one split, in one flat array: a million lists would take ten times as much."""

    def __init__(self, seq_len: int, loss_on: str) -> None:
        self._seq_len = seq_len
        self._loss_on = loss_on
        self._ids = array("i")
        self._ends = [0]
        self.without_loss: list[int] = []  # of each example: how many of its first tokens carry no loss
        self.dropped = 0
        self.longest = 0  # of all examples seen, so that it tells what --seq-len would keep them all

    def add(self, example: Example) -> bool:
        """Keep the example unless it is longer than a sequence. Returns whether it was kept."""
        prompt = len(example.prompt_ids)
        length = prompt + len(example.response_ids)
        self.longest = max(self.longest, length)
        if length > self._seq_len:
            self.dropped += 1
            return False
        self._ids.extend(example.prompt_ids)
        self._ids.extend(example.response_ids)
        self._ends.append(len(self._ids))
        self.without_loss.append(max(prompt, 1) if self._loss_on == "response" else 1)
        return True

    def __len__(self) -> int:
        return len(self.without_loss)

    def length(self, index: int) -> int:
        return self._ends[index + 1] - self._ends[index]

    def ids(self, index: int) -> np.ndarray:
        return np.frombuffer(self._ids, dtype=np.int32)[self._ends[index] : self._ends[index + 1]]

    def statistics(self, sequences: int) -> dict[str, Any]:
        """What the split holds once it lies in that many sequences."""
        tokens = len(self._ids)
        return {
            "examples": len(self),
            "sequences": sequences,
            "tokens": tokens,
            "label_tokens": tokens - sum(self.without_loss),
            "truncated": 0,
            "dropped": self.dropped,
            "longest": self.longest,
            "mean_tokens": round(tokens / len(self), 2),
            "useful_share": round(tokens / (sequences * self._seq_len), 4),
        }


def run(args: argparse.Namespace) -> None:
    template = Template.load(args.template)
    files = args.input or hub.dataset_files(args.hub, args.revision, args.hub_split or "train")
    eval_files = [args.eval_input] if args.eval_input else files
    _check_flags(args, [*files, *eval_files])
    tokenizer = PromptTokenizer(args.model, template)
    rng = random.Random(args.seed)
    train_rows, eval_rows = choose_rows(files, args, rng)
    train, held_out = (TokenStore(args.seq_len, args.loss_on) for _ in range(2))
    checks = {name: RowChecks(name, tokenizer) for name in ("train", "eval")}
    for example in checks["train"].watched(tokenized(rows.read(files, args.where), train_rows, tokenizer)):
        train.add(example)
    evaluated = checks["eval"].watched(tokenized(rows.read(eval_files, args.where), eval_rows, tokenizer))
    kept = [example for example in evaluated if held_out.add(example)]
    for name, store in (("train", train), ("eval", held_out)):
        checks[name].refuse_or_warn()
        check_split(name, store, args.seq_len)
    for warning in tokenizer.chat.warnings() if tokenizer.chat else ():
        events.log(warning, level="warning")
    warn_of_seen_rows(train, held_out)

    args.output.mkdir(parents=True, exist_ok=True)
    splits = {"train": train, "eval": held_out}
    statistics = {name: write_split(name, store, args, rng) for name, store in splits.items()}
    write_examples(args.output / "eval.jsonl", kept, template)
    text = json.dumps({"seq_len": args.seq_len, **statistics}, indent=1)
    (args.output / "statistics.json").write_text(text + "\n", encoding="utf-8")
    (args.output / "template.json").write_text(template.to_json() + "\n", encoding="utf-8")


def _check_flags(args: argparse.Namespace, files: Iterable[Path]) -> None:
    if not args.hub and (args.revision or args.hub_split):
        raise BadInput("--revision and --hub-split belong to --hub")
    for path in files:
        rows.reader(path)


def choose_rows(
    files: list[Path], args: argparse.Namespace, rng: random.Random
) -> tuple[Collection[int], Collection[int]]:
    """Which rows to train on and which to hold out, as row numbers of `files` and of --eval-input, or `files` again."""
    total = _count(files, args.where)
    order = rng.sample(range(total), total)
    if args.eval_input:
        eval_rows: Collection[int] = range(_count([args.eval_input], args.where))
    elif args.eval_rows < total:
        eval_rows, order = frozenset(order[: args.eval_rows]), order[args.eval_rows :]
    else:
        raise BadInput(f"--eval-rows {args.eval_rows}: there are {total} rows, so nothing would be left to train on")
    return frozenset(order[: args.train_rows or total]), eval_rows


def _count(files: list[Path], where: list[tuple[str, str]]) -> int:
    total = sum(1 for _ in rows.read(files, where))
    if not total:
        condition = " and ".join(f"{column}={value}" for column, value in where)
        raise BadInput(f"{', '.join(map(str, files))}: no row{' with ' + condition if where else ''}")
    return total


def tokenized(source: Iterable[rows.Row], wanted: Collection[int], tokenizer: PromptTokenizer) -> Iterator[Example]:
    """Tokenize the rows whose numbers are wanted, in their order. Raises BadInput that names the row's place."""
    picked = (row for number, row in enumerate(source) if number in wanted)
    done = 0
    while batch := list(islice(picked, BATCH)):
        prompts, responses, learnt = zip(*(_texts(row, tokenizer) for row in batch), strict=True)
        fields = [row.fields for row in batch]
        response_ids = tokenizer.response_ids(prompts, learnt)
        yield from map(Example, fields, prompts, tokenizer.prompt_ids(prompts), responses, response_ids)
        done += len(batch)
        events.progress(done, len(wanted), "row")


def _texts(row: rows.Row, tokenizer: PromptTokenizer) -> tuple[str, str, str]:
    """The prompt, the response, and what of both is learnt."""
    try:
        texts = tokenizer.prompt(row.fields), tokenizer.template.response(row.fields), tokenizer.learnt(row.fields)
        "".join(texts).encode()
    except BadInput as error:
        raise BadInput(f"{row.place}: {error}") from error
    except UnicodeEncodeError as error:  # half of a surrogate pair, which JSON can spell
        raise BadInput(f"{row.place}: not Unicode text: {error.reason}") from error
    return texts


def check_split(name: str, store: TokenStore, seq_len: int) -> None:
    """Raise BadInput when nothing can be learnt from the split; warn of examples that were dropped."""
    if not len(store):
        raise BadInput(f"--seq-len {seq_len}: no {name} example is that short; the longest has {store.longest} tokens")
    if not store.statistics(1)["label_tokens"]:
        raise BadInput(f"{name}: no token carries loss; is the response column empty?")
    if store.dropped:
        total = len(store) + store.dropped
        message = f"{name}: {store.dropped} of {total} examples dropped, longer than --seq-len {seq_len}"
        events.log(f"{message} (the longest has {store.longest} tokens)", level="warning")


def warn_of_seen_rows(train: TokenStore, held_out: TokenStore) -> None:
    """Warn of held-out examples that are trained on, token for token."""
    seen = {train.ids(index).tobytes() for index in range(len(train))}
    count = sum(held_out.ids(index).tobytes() in seen for index in range(len(held_out)))
    if count:
        events.log(
            f"eval: {count} of {len(held_out)} held-out examples are also training examples, word for word: "
            "they do not show what is learnt beyond them",
            level="warning",
        )


def arranged(store: TokenStore, args: argparse.Namespace, rng: random.Random) -> list[list[int]]:
    """The examples of each sequence, in random order: packing alone would put the longest first."""
    order = rng.sample(range(len(store)), len(store))
    if not args.pack:
        return [[index] for index in order]
    packed = packing.pack([store.length(index) for index in order], args.seq_len)
    sequences = [[order[position] for position in members] for members in packed]
    rng.shuffle(sequences)
    return sequences


def write_split(name: str, store: TokenStore, args: argparse.Namespace, rng: random.Random) -> dict[str, Any]:
    """Write the three arrays of a split, (sequences, seq_len) each. Returns its statistics."""
    sequences = arranged(store, args, rng)
    input_ids, labels, segment_ids = (
        np.lib.format.open_memmap(
            args.output / f"{name}.{kind}.npy", mode="w+", dtype=np.int32, shape=(len(sequences), args.seq_len)
        )
        for kind in ("input_ids", "labels", "segment_ids")
    )
    for number, members in enumerate(sequences):
        examples = [(store.ids(index), store.without_loss[index]) for index in members]
        packing.lay_out(examples, input_ids[number], labels[number], segment_ids[number])
    statistics = store.statistics(len(sequences))
    share = f"{statistics['useful_share']:.1%} of the tokens useful"
    events.log(f"{name}: {len(store)} examples in {len(sequences)} sequences of {args.seq_len}, {share}")
    return statistics


def write_examples(path: Path, examples: Iterable[Example], template: Template) -> None:
    """Write one held-out example a line; of a chat also its messages."""
    json_lines.write(path, (_line(example, template) for example in examples))


def _line(example: Example, template: Template) -> dict[str, Any]:
    line = {key: value for key, value in example._asdict().items() if key != "fields"}
    messages = {"messages": template.messages(example.fields)} if template.chat else {}
    return {**line, **messages, "fields": example.fields}


def _condition(text: str) -> tuple[str, str]:
    column, equals, value = text.partition("=")
    if not column or not equals:
        raise argparse.ArgumentTypeError(f"{text}: not column=value")
    return column, value


def flags() -> argparse.ArgumentParser:
    parser = program.parser(__doc__)
    parser.add_argument("--model", type=program.existing_folder, required=True, help="model folder, for its tokenizer")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--input", type=program.existing_file, nargs="+", metavar="FILE", help="rows to train on")
    source.add_argument("--hub", metavar="OWNER/NAME", help="a data set on the Hugging Face Hub")
    parser.add_argument("--revision", help="branch, tag or commit of --hub (default: main)")
    parser.add_argument("--hub-split", help="which split of --hub (default: train)")
    parser.add_argument("--template", required=True, metavar="JSON|FILE", help="prompt template")
    held_out = parser.add_mutually_exclusive_group(required=True)
    held_out.add_argument("--eval-input", type=program.existing_file, metavar="FILE", help="rows to evaluate on")
    held_out.add_argument("--eval-rows", type=program.at_least(1), help="hold out that many random rows")
    parser.add_argument(
        "--train-rows", type=program.at_least(0), default=0, help="train on so many random rows, 0: all"
    )
    parser.add_argument(
        "--where", type=_condition, action="append", default=[], metavar="COLUMN=VALUE", help=CONDITIONS
    )
    parser.add_argument("--seq-len", type=program.at_least(2), required=True, help="tokens a sequence")
    parser.add_argument("--loss-on", choices=["response", "all"], default="response", help="which tokens carry loss")
    parser.add_argument(
        "--pack", action=argparse.BooleanOptionalAction, default=True, help="examples may share a sequence"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the split and the order")
    parser.add_argument("--output", type=Path, required=True, help="folder for the arrays")
    return parser


if __name__ == "__main__":
    sys.exit(program.main(run, flags()))
