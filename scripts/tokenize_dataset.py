"""Turn a data set into fixed-length token arrays to train on, and a held-out part to evaluate on.

Each row becomes a prompt and a response by the template; the response, closed by the model's end
token, carries the loss. Rows of conversations become the text that the model's chat template writes;
every answer of the assistant carries the loss, and nothing else does. Without a template the format
of the rows is recognised by their columns.

Examples are packed into sequences of --seq-len tokens. None is ever split, and one that is longer is
dropped and counted: a cut answer would teach cut answers.

Input: files, folders or patterns of files of rows (--input: JSONL, JSON, CSV, TSV, Parquet, Arrow; text also as .gz or
.zst), or a data set on the Hugging Face Hub (--hub).
Output: {train,eval}.{input_ids,labels,segment_ids}.npy (int32, one row a sequence), eval.jsonl (the
held-out examples as text and ids), statistics.json, preview.json (the first examples, and what was noticed) and
template.json. The same rows, flags and seed give the same bytes.

    python scripts/tokenize_dataset.py --model models/smollm2 --input dolly.jsonl --template dolly.json \\
        --seq-len 512 --eval-rows 200 --output tokens
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common import events, program
from common.data import hub, json_lines, packing, row_files, row_formats, rows
from common.data.conversation import Unusable
from common.data.row_checks import Example, RowChecks
from common.data.template import Template
from common.data.tokenizer import PromptTokenizer, Text, has_chat_template
from common.program import BadInput

LOSS = ("response", "last", "all")  # every answer, the last of a conversation, or prompts too
CONDITIONS = "use only the rows with this value; of several all must hold"
SHOWN = 5  # examples in preview.json
BATCH = 1000  # rows tokenized at once: enough to keep every core busy


class TokenStore:
    """Token ids of the examples of one split, in one flat array: a million lists would take ten times as much."""

    def __init__(self, seq_len: int, loss_on: str) -> None:
        self._seq_len = seq_len
        self._loss_on = loss_on
        self._ids = array("i")
        self._learnt = bytearray()  # of each token, whether it carries loss
        self._ends = [0]
        self.lengths = array("i")  # of all examples seen, dropped ones too

    def add(self, example: Example) -> bool:
        """Keep the example unless it is longer than a sequence. Returns whether it was kept."""
        length = sum(map(len, example.ids))
        self.lengths.append(length)
        if length > self._seq_len:
            return False
        first = self._ends[-1]
        for number, ids in enumerate(example.ids):
            self._ids.extend(ids)
            self._learnt.extend(bytes([carries_loss(number, len(example.ids), self._loss_on)]) * len(ids))
        self._learnt[first] = False  # nothing stands before the first token to predict it
        self._ends.append(len(self._ids))
        return True

    @property
    def dropped(self) -> int:
        """How many examples were longer than a sequence."""
        return len(self.lengths) - len(self)

    @property
    def label_tokens(self) -> int:
        """How many tokens carry loss."""
        return self._learnt.count(True)

    @property
    def longest(self) -> int:
        """Tokens of the longest example, which tells the --seq-len that would keep them all."""
        return max(self.lengths, default=0)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def length(self, index: int) -> int:
        return self._ends[index + 1] - self._ends[index]

    def ids(self, index: int) -> np.ndarray:
        return np.frombuffer(self._ids, dtype=np.int32)[self._ends[index] : self._ends[index + 1]]

    def learnt(self, index: int) -> np.ndarray:
        return np.frombuffer(self._learnt, dtype=bool)[self._ends[index] : self._ends[index + 1]]

    def statistics(self, sequences: int) -> dict[str, Any]:
        """What the split holds once it lies in that many sequences."""
        tokens = len(self._ids)
        return {
            "examples": len(self),
            "sequences": sequences,
            "tokens": tokens,
            "label_tokens": self.label_tokens,
            "truncated": 0,
            "dropped": self.dropped,
            "longest": self.longest,
            "mean_tokens": round(tokens / len(self), 2),
            "useful_share": round(tokens / (sequences * self._seq_len), 4),
        }


def carries_loss(piece: int, pieces: int, loss_on: str) -> bool:
    """Whether a piece of an example is learnt: every second one is an answer."""
    if loss_on == "all":
        return True
    return piece == pieces - 1 if loss_on == "last" else piece % 2 == 1


def run(args: argparse.Namespace) -> None:
    files, eval_files = input_files(args)
    _check_flags(args, [*files, *eval_files])
    given = Template.load(args.template) if args.template else None
    rng = random.Random(args.seed)
    scan = scan_rows(files, args.where)
    train_rows, eval_rows = choose_rows(scan.count, eval_files, args, rng)
    template, kind = (given, None) if given else template_of_format(args, scan)
    tokenizer = PromptTokenizer(args.model, template)
    train, held_out = (TokenStore(args.seq_len, args.loss_on) for _ in range(2))
    checks = {name: RowChecks(name, tokenizer) for name in ("train", "eval")}
    source = Rows(tokenizer, dict.fromkeys(row_formats.FORMATS[kind].optional) if kind else {})
    shown = []
    for examples in source.tokenized(rows.read(files, args.where), train_rows, checks["train"]):
        for example in examples[-1:] if args.loss_on == "last" else examples:
            train.add(example)
            if len(shown) < SHOWN:
                shown.append(example)
    evaluated = source.tokenized(rows.read(eval_files, args.where), eval_rows, checks["eval"])
    kept = [examples[-1] for examples in evaluated if held_out.add(examples[-1])]
    notes = [*(tokenizer.chat.warnings() if tokenizer.chat else ()), *notes_on_seen_rows(train, held_out)]
    for name, store in (("train", train), ("eval", held_out)):
        notes += [*checks[name].notes(), *notes_on_split(name, store, args.seq_len)]
    for note in notes:
        events.log(note, level="warning")

    args.output.mkdir(parents=True, exist_ok=True)
    splits = {"train": train, "eval": held_out}
    statistics = {name: write_split(name, store, args, rng) for name, store in splits.items()}
    json_lines.write(args.output / "eval.jsonl", (held_out_line(example, tokenizer) for example in kept))
    text = json.dumps({"seq_len": args.seq_len, "format": kind, **statistics}, indent=1)
    (args.output / "statistics.json").write_text(text + "\n", encoding="utf-8")
    (args.output / "template.json").write_text(template.to_json() + "\n", encoding="utf-8")
    preview = {
        "format": kind,
        "chat": template.chat,
        "lengths": {name: histogram(store.lengths) for name, store in splits.items()},
        "notes": notes,
        "examples": [learnt_and_not(example, tokenizer, args.loss_on) for example in shown],
    }
    (args.output / "preview.json").write_text(json.dumps(preview, indent=1) + "\n", encoding="utf-8")


def histogram(lengths: Sequence[int]) -> list[tuple[int, int]]:
    """(most tokens, examples) of up to ten classes of equal width."""
    width = -(-max(lengths, default=1) // 10)
    counts = Counter((length - 1) // width for length in lengths)
    return [(width * (place + 1), counts[place]) for place in range(max(counts, default=-1) + 1)]


def learnt_and_not(example: Example, tokenizer: PromptTokenizer, loss_on: str) -> list[tuple[str, bool]]:
    """The text of an example as its tokens read, in pieces, with whether each is learnt."""
    return [
        (tokenizer.decode(ids), carries_loss(number, len(example.ids), loss_on))
        for number, ids in enumerate(example.ids)
    ]


def input_files(args: argparse.Namespace) -> tuple[list[Path], list[Path]]:
    """The files to train on, and those to evaluate on, which are the same where rows are held out."""
    if args.input:
        files = row_files.find(args.input, "--input")
    else:
        files = hub.dataset_files(args.hub, args.revision, args.hub_split or "train")
    return files, row_files.find(args.eval_input, "--eval-input") if args.eval_input else files


def _check_flags(args: argparse.Namespace, files: Iterable[Path]) -> None:
    if not args.hub and (args.revision or args.hub_split):
        raise BadInput("--revision and --hub-split belong to --hub")
    if args.template and (args.chat is not None or args.system):
        raise BadInput("--chat and --system belong to --format; a --template has keys for them")
    for path in files:
        rows.reader(path)


class Scan(NamedTuple):
    """What a first look at all rows found: their number, their columns, and the first of them."""

    count: int
    columns: list[str]
    first: dict[str, Any]


def scan_rows(files: list[Path], where: list[tuple[str, str]]) -> Scan:
    """Read all rows once. Raises BadInput where there is none."""
    count, columns, first = 0, {}, {}
    for row in rows.read(files, where):
        first = first or row.fields
        columns.update(dict.fromkeys(row.fields))
        count += 1
    if not count:
        condition = " and ".join(f"{column}={value}" for column, value in where)
        raise BadInput(f"{', '.join(map(str, files))}: no row{' with ' + condition if where else ''}")
    return Scan(count, list(columns), first)


def choose_rows(
    total: int, eval_files: list[Path], args: argparse.Namespace, rng: random.Random
) -> tuple[Collection[int], Collection[int]]:
    """The numbers of the rows to train on, and of those to hold out: of --eval-input, or of the same files."""
    order = rng.sample(range(total), total)
    if args.eval_input:
        eval_rows: Collection[int] = range(scan_rows(eval_files, args.where).count)
    elif args.eval_rows < total:
        eval_rows, order = frozenset(order[: args.eval_rows]), order[args.eval_rows :]
    else:
        raise BadInput(f"--eval-rows {args.eval_rows}: there are {total} rows, so nothing would be left to train on")
    return frozenset(order[: args.train_rows or total]), eval_rows


def template_of_format(args: argparse.Namespace, scan: Scan) -> tuple[Template, str]:
    """The template of the rows' format, and its name."""
    kind = row_formats.recognise(scan.columns) if args.format == "auto" else args.format
    chat = has_chat_template(args.model) if args.chat is None else args.chat
    template = row_formats.template(kind, scan.first, scan.columns, chat, args.system)
    used = [column for column in scan.columns if template.names_any([column]) or f"{{{column}}}" in template.answer]
    events.log(f"rows of the format {kind} ({', '.join(used)}), {'as chats' if template.chat else 'as plain text'}")
    return template, kind


class Rows:
    """Turns rows into examples; `optional` are columns of their format that a row may lack."""

    def __init__(self, tokenizer: PromptTokenizer, optional: dict[str, None]) -> None:
        self._tokenizer = tokenizer
        self._optional = optional

    def tokenized(
        self, source: Iterable[rows.Row], wanted: Collection[int], checks: RowChecks
    ) -> Iterator[list[Example]]:
        """Tokenize the rows whose numbers are wanted, in their order: the examples of each.

        Rows that are no conversation are left out and counted. Raises BadInput that names the row's place.
        """
        picked = (row for number, row in enumerate(source) if number in wanted)
        done = 0
        while batch := list(islice(picked, BATCH)):
            of_rows = [(row.fields, self._texts(row, checks)) for row in batch]
            ids = iter(self._tokenizer.ids([text for _, texts in of_rows for text in texts]))
            for fields, texts in of_rows:
                if texts:
                    yield list(checks.watched(Example(fields, text, next(ids)) for text in texts))
            done += len(batch)
            events.progress(done, len(wanted), "row")

    def _texts(self, row: rows.Row, checks: RowChecks) -> list[Text]:
        try:
            texts = self._tokenizer.texts(self._optional | row.fields)
            "".join(piece for text in texts for piece in (*text.pieces, text.response)).encode()
        except Unusable as error:
            checks.leave_out(f"{row.place}: {error}")
            return []
        except BadInput as error:
            raise BadInput(f"{row.place}: {error}") from error
        except UnicodeEncodeError as error:  # half of a surrogate pair, which JSON can spell
            raise BadInput(f"{row.place}: not Unicode text: {error.reason}") from error
        checks.count_examples(len(texts))
        return texts


def notes_on_split(name: str, store: TokenStore, seq_len: int) -> Iterator[str]:
    """Which examples were dropped. Raises BadInput if nothing can be learnt from the split."""
    if not len(store):
        raise BadInput(f"--seq-len {seq_len}: no {name} example is that short; the longest has {store.longest} tokens")
    if not store.label_tokens:
        raise BadInput(f"{name}: no token carries loss; is the response column empty?")
    if store.dropped:
        message = f"{name}: {store.dropped} of {len(store.lengths)} examples dropped, longer than --seq-len {seq_len}"
        yield f"{message} (the longest has {store.longest} tokens)"


def notes_on_seen_rows(train: TokenStore, held_out: TokenStore) -> Iterator[str]:
    """How many held-out examples are trained on, token for token."""
    seen = {train.ids(index).tobytes() for index in range(len(train))}
    count = sum(held_out.ids(index).tobytes() in seen for index in range(len(held_out)))
    if count:
        yield (
            f"eval: {count} of {len(held_out)} held-out examples are also training examples, word for word: "
            "they do not show what is learnt beyond them"
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
        examples = [(store.ids(index), store.learnt(index)) for index in members]
        packing.lay_out(examples, input_ids[number], labels[number], segment_ids[number])
    statistics = store.statistics(len(sequences))
    share = f"{statistics['useful_share']:.1%} of the tokens useful"
    events.log(f"{name}: {len(store)} examples in {len(sequences)} sequences of {args.seq_len}, {share}")
    return statistics


def held_out_line(example: Example, tokenizer: PromptTokenizer) -> dict[str, Any]:
    """A line of eval.jsonl: what to ask, and the answer; of a chat also its messages."""
    text, template = example.text, tokenizer.template
    prompt, response = text.prompt, text.response
    prompt_ids, response_ids = example.prompt_ids, example.response_ids
    if not template.sections and not template.turns:  # plain text: its first half asks for the second
        prompt, response = halves(response)
        (prompt_ids,), (response_ids,) = tokenizer.prompt_ids([prompt]), tokenizer.response_ids([prompt], [response])
    line = {"prompt": prompt, "prompt_ids": prompt_ids, "response": response, "response_ids": response_ids}
    return {**line, **text.question, "fields": example.fields}


def halves(text: str) -> tuple[str, str]:
    """A text cut before a word about its middle."""
    middle = len(text) // 2
    space = text.find(" ", middle)
    middle = middle if space < 0 else space
    return text[:middle], text[middle:]


def _condition(text: str) -> tuple[str, str]:
    column, equals, value = text.partition("=")
    if not column or not equals:
        raise argparse.ArgumentTypeError(f"{text}: not column=value")
    return column, value


def flags() -> argparse.ArgumentParser:
    parser = program.parser(__doc__)
    parser.add_argument("--model", type=program.existing_folder, required=True, help="model folder, for its tokenizer")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--input", nargs="+", metavar="PATH", help="rows to train on: files, folders or patterns")
    source.add_argument("--hub", metavar="OWNER/NAME", help="a data set on the Hugging Face Hub")
    parser.add_argument("--revision", help="branch, tag or commit of --hub (default: main)")
    parser.add_argument("--hub-split", help="which split of --hub (default: train)")
    written = parser.add_mutually_exclusive_group(required=True)
    written.add_argument("--template", metavar="JSON|FILE", help="prompt template")
    written.add_argument("--format", choices=["auto", *row_formats.FORMATS], help="of the rows; auto: by their columns")
    parser.add_argument("--system", metavar="TEXT", help="of chats by --format whose rows have no system message")
    parser.add_argument(
        "--chat", action=argparse.BooleanOptionalAction,
        help="write rows of one question and one answer as a chat (default: where the model has a chat template)",
    )  # fmt: skip
    held_out = parser.add_mutually_exclusive_group(required=True)
    held_out.add_argument("--eval-input", nargs="+", metavar="PATH", help="rows to evaluate on")
    held_out.add_argument("--eval-rows", type=program.at_least(1), help="hold out that many random rows")
    parser.add_argument(
        "--train-rows", type=program.at_least(0), default=0, help="train on so many random rows, 0: all"
    )
    parser.add_argument(
        "--where", type=_condition, action="append", default=[], metavar="COLUMN=VALUE", help=CONDITIONS
    )
    parser.add_argument("--seq-len", type=program.at_least(2), required=True, help="tokens a sequence")
    parser.add_argument("--loss-on", choices=LOSS, default="response", help="which tokens carry loss")
    parser.add_argument(
        "--pack", action=argparse.BooleanOptionalAction, default=True, help="examples may share a sequence"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the split and the order")
    parser.add_argument("--output", type=Path, required=True, help="folder for the arrays")
    return parser


if __name__ == "__main__":
    sys.exit(program.main(run, flags()))
