"""Turn a data set into fixed-length token arrays to train on, and a held-out part to evaluate on.

Each row becomes a prompt and a response by the template; the response, closed by the model's end
token, carries the loss. Rows of conversations become the text that the model's chat template writes;
every answer of the assistant carries the loss, and nothing else does. Without a template the format
of the rows is recognised by their columns.

Examples are packed into sequences of --seq-len tokens. One that is longer is dropped and counted, unless
--long says otherwise: a cut answer may teach cut answers.

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
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from common import events, program
from common.data import hub, json_lines, packing, row_choice, row_files, row_formats, rows
from common.data.conversation import Unusable
from common.data.row_checks import Example, RowChecks
from common.data.row_writers import OneWriter, RowWriters, Scan
from common.data.template import Template
from common.data.token_store import LONG, TokenStore, carries_loss
from common.data.tokenizer import PromptTokenizer, Text
from common.files import nearest_folder
from common.program import BadInput

LOSS = ("response", "last", "all")  # every answer, the last of a conversation, or prompts too
CONDITIONS = "use only the rows with this value; of several all must hold"
SHOWN = 5  # examples in preview.json
BATCH = 1000  # rows tokenized at once: enough to keep every core busy
T = TypeVar("T")
R = TypeVar("R")


class Written(NamedTuple):
    """A row as text: how often it is wanted, its columns, what has written it, and the texts of its examples."""

    times: int
    fields: dict[str, Any]
    writer: PromptTokenizer
    texts: list[Text]


def run(args: argparse.Namespace) -> None:
    sources = input_sources(args)
    eval_files = row_files.find(args.eval_input, "--eval-input") if args.eval_input else []
    _check_flags(args, [*chain.from_iterable(sources.values()), *eval_files])
    rng = random.Random(args.seed)
    by = OneWriter(args.model, Template.load(args.template)) if args.template else Scan(args.format)
    counts = {name: count_rows(files, args.where, by) for name, files in sources.items()}
    eval_count = count_rows(eval_files, args.where, by) if eval_files else 0
    choice = row_choice.choose(counts, args.weights, args.train_rows, 0 if eval_files else args.eval_rows, rng)
    writers = by if isinstance(by, OneWriter) else RowWriters(args.model, by, args.chat, args.system)
    files = [*chain.from_iterable(sources.values())]

    scratch = nearest_folder(args.output)
    train, held_out = (TokenStore(scratch, args.seq_len, args.loss_on, args.long) for _ in range(2))
    checks = {name: RowChecks(name, writers.main.special_texts()) for name in ("train", "eval")}
    trained = tokenized(rows.read(files, args.where), choice.train, writers, checks["train"])
    shown = keep(trained, train, args.loss_on)
    asked, asked_times = (eval_files, np.ones(eval_count, np.uint32)) if eval_files else (files, choice.held_out)
    evaluated = tokenized(rows.read(asked, args.where), asked_times, writers, checks["eval"])
    kept = [first for _, examples in evaluated for first in held_out.add(examples[-1])[:1]]
    if not eval_files:
        rng.shuffle(kept)  # an evaluation of the first few is one of all sources
    notes = [*writers.notes(), *choice.notes(), *notes_on_seen_rows(train, held_out)]
    for name, store in (("train", train), ("eval", held_out)):
        notes += [*checks[name].notes(), *notes_on_split(name, store, args)]
    for note in notes:
        events.log(note, level="warning")

    args.output.mkdir(parents=True, exist_ok=True)
    splits = {"train": train, "eval": held_out}
    statistics = {name: write_split(name, store, args, rng) for name, store in splits.items()}
    json_lines.write(args.output / "eval.jsonl", map(held_out_line, kept))
    row_format = ", ".join(writers.formats) or None
    described = {"seq_len": args.seq_len, "format": row_format, "sources": choice.sources, **statistics}
    preview = {
        "format": row_format,
        "chat": writers.main.template.chat,
        "lengths": {name: histogram(store.lengths) for name, store in splits.items()},
        "notes": notes,
        "examples": [learnt_and_not(example, args.loss_on) for example in shown],
    }
    texts = {"statistics": json.dumps(described, indent=1), "preview": json.dumps(preview, indent=1)}
    for name, text in {**texts, "template": writers.main.template.to_json()}.items():
        (args.output / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def keep(of_rows: Iterable[tuple[int, list[Example]]], store: TokenStore, loss_on: str) -> list[Example]:
    """Keep the examples of each row, as often as it is wanted. Returns the first of them, to show."""
    shown: list[Example] = []
    for times, examples in of_rows:
        for example in examples[-1:] if loss_on == "last" else examples:
            shown += [*chain.from_iterable(store.add(example) for _ in range(times))][: SHOWN - len(shown)]
    return shown


def histogram(lengths: Sequence[int]) -> list[tuple[int, int]]:
    """(most tokens, examples) of up to ten classes of equal width."""
    width = -(-max(lengths, default=1) // 10)
    counts = Counter((length - 1) // width for length in lengths)
    return [(width * (place + 1), counts[place]) for place in range(max(counts, default=-1) + 1)]


def learnt_and_not(example: Example, loss_on: str) -> list[tuple[str, bool]]:
    """The text of an example as its tokens read, in pieces, with whether each is learnt."""
    return [
        (example.writer.decode(ids), carries_loss(number, len(example.ids), loss_on))
        for number, ids in enumerate(example.ids)
    ]


def input_sources(args: argparse.Namespace) -> dict[str, list[Path]]:
    """The files of each source to train on, by what names it."""
    if args.hub:
        named = (args.revision, args.hub_split or "train", args.hub_config)
        return {name: hub.dataset_files(name, *named) for name in args.hub}
    return {", ".join(names): row_files.find(names, "--input") for names in args.input}


def _check_flags(args: argparse.Namespace, files: Iterable[Path]) -> None:
    if not args.hub and (args.revision or args.hub_split or args.hub_config):
        raise BadInput("--revision, --hub-split and --hub-config belong to --hub")
    if args.hub and len(args.hub) > 1 and (args.revision or args.hub_config):
        raise BadInput("--revision and --hub-config belong to one --hub, and there are several")
    if args.template and (args.chat is not None or args.system):
        raise BadInput("--chat and --system belong to --format; a --template has keys for them")
    for path in files:
        rows.reader(path)


def count_rows(files: list[Path], where: list[tuple[str, str]], by: Scan | OneWriter) -> int:
    """The number of rows, at which a scan looks. Raises BadInput where there is none."""
    count = by.over(rows.read(files, where))
    if not count:
        condition = " and ".join(f"{column}={value}" for column, value in where)
        raise BadInput(f"{', '.join(map(str, files))}: no row{' with ' + condition if where else ''}")
    return count


def tokenized(
    source: Iterable[rows.Row], times: np.ndarray, writers: RowWriters | OneWriter, checks: RowChecks
) -> Iterator[tuple[int, list[Example]]]:
    """Tokenize the rows that are wanted so many `times`, in their order. Yields that number and the examples of each.

    Rows that cannot be written are left out and counted. Raises BadInput that names the row's place.
    """
    wanted, done = int(np.count_nonzero(times)), 0
    picked = ((count, row) for count, row in zip(times.tolist(), source, strict=True) if count)
    batches = iter(lambda: list(islice(picked, BATCH)), [])
    written = ([Written(n, row.fields, *_written(row, writers, checks)) for n, row in batch] for batch in batches)
    for batch, ids in one_ahead(_with_ids, written):
        for count, fields, writer, of_row in batch:
            if of_row:
                yield count, list(checks.watched(Example(fields, text, next(ids[writer]), writer) for text in of_row))
        done += len(batch)
        events.progress(done, wanted, "row")


def one_ahead(work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """`work` of each item in turn; a thread does that of the next one meanwhile."""
    with ThreadPoolExecutor(1) as thread:
        current: Future[R] | None = None
        for item in items:
            following = thread.submit(work, item)
            if current:
                yield current.result()
            current = following
        if current:
            yield current.result()


def _with_ids(batch: list[Written]) -> tuple[list[Written], dict[PromptTokenizer, Iterator[list[list[int]]]]]:
    """A batch and the token ids of its texts, in the order of the rows that a writer has written."""
    texts: dict[PromptTokenizer, list[Text]] = {}
    for row in batch:
        texts.setdefault(row.writer, []).extend(row.texts)
    return batch, {writer: iter(writer.ids(of_writer)) for writer, of_writer in texts.items()}


def _written(row: rows.Row, writers: RowWriters | OneWriter, checks: RowChecks) -> tuple[PromptTokenizer, list[Text]]:
    """The writer of a row and the texts of its examples: none of a row that is left out."""
    try:
        writer, fields = writers.of(row.fields)
        texts = writer.texts(fields)
        "".join(piece for text in texts for piece in (*text.pieces, text.response)).encode()
    except Unusable as error:
        checks.leave_out(f"{row.place}: {error}")
        return writers.main, []
    except BadInput as error:
        raise BadInput(f"{row.place}: {error}") from error
    except UnicodeEncodeError as error:  # half of a surrogate pair, which JSON can spell
        raise BadInput(f"{row.place}: not Unicode text: {error.reason}") from error
    checks.count_examples(len(texts), writer)
    return writer, texts


def notes_on_split(name: str, store: TokenStore, args: argparse.Namespace) -> Iterator[str]:
    """What became of long examples. Raises BadInput if nothing can be learnt from the split."""
    if not len(store):
        raise BadInput(
            f"--seq-len {args.seq_len}: no {name} example is that short; the longest has {store.longest} tokens"
        )
    if not store.label_tokens:
        raise BadInput(f"{name}: no token carries loss; is the response column empty?")
    longest = f"longer than --seq-len {args.seq_len} (the longest has {store.longest} tokens)"
    reasons = {
        "drop": "", "truncate": ": no answer to learn begins before", "split": ": only plain text can be split"
    }  # fmt: skip
    counts = {
        f"dropped, {longest}{reasons[args.long]}": store.dropped,
        f"truncated, {longest}: what is left of their answers is learnt without an end": store.truncated,
        f"split, {longest}": store.split,
    }
    for what, count in counts.items():
        if count:
            yield f"{name}: {count} of {len(store.lengths)} examples {what}"


def notes_on_seen_rows(train: TokenStore, held_out: TokenStore) -> Iterator[str]:
    """How many held-out examples are trained on, token for token."""
    asked = [held_out.example(index)[0].tobytes() for index in range(len(held_out))]  # few, unlike those of train
    seen = set(asked).intersection(train.example(index)[0].tobytes() for index in range(len(train)))
    count = sum(each in seen for each in asked)
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
    arrays = [args.output / f"{name}.{kind}.npy" for kind in ("input_ids", "labels", "segment_ids")]
    one_of_each = np.empty((len(arrays), args.seq_len), np.int32)
    shape = {"shape": (len(sequences), args.seq_len), "descr": np.lib.format.dtype_to_descr(one_of_each.dtype)}
    with ExitStack() as opened:
        files = [opened.enter_context(path.open("wb")) for path in arrays]
        for file in files:
            np.lib.format.write_array_header_1_0(file, {**shape, "fortran_order": False})
        for members in sequences:
            packing.lay_out([store.example(index) for index in members], *one_of_each)
            for file, sequence in zip(files, one_of_each, strict=True):
                file.write(sequence.data)
    statistics = store.statistics(len(sequences))
    share = f"{statistics['useful_share']:.1%} of the tokens useful"
    events.log(f"{name}: {len(store)} examples in {len(sequences)} sequences of {args.seq_len}, {share}")
    return statistics


def held_out_line(example: Example) -> dict[str, Any]:
    """A line of eval.jsonl: what to ask, and the answer; of a chat also its messages."""
    text, tokenizer, template = example.text, example.writer, example.writer.template
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
    source.add_argument(
        "--input", nargs="+", action="append", metavar="PATH",
        help="rows to train on: files, folders or patterns; once for each source of a mixture",
    )  # fmt: skip
    source.add_argument("--hub", action="append", metavar="OWNER/NAME", help="a data set on the Hugging Face Hub")
    parser.add_argument(
        "--weights", type=program.at_least(0, float), nargs="+", metavar="SHARE",
        help="of each source in the rows to train on and to hold out (default: all rows of all)",
    )  # fmt: skip
    parser.add_argument("--revision", help="branch, tag or commit of --hub (default: main)")
    parser.add_argument("--hub-split", help="which split of --hub (default: train)")
    parser.add_argument("--hub-config", help="which configuration of --hub, where it has several")
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
    parser.add_argument("--long", choices=LONG, default="drop", help="what becomes of examples of more tokens")
    parser.add_argument("--loss-on", choices=LOSS, default="response", help="which tokens carry loss")
    parser.add_argument(
        "--pack", action=argparse.BooleanOptionalAction, default=True, help="examples may share a sequence"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the split and the order")
    parser.add_argument("--output", type=Path, required=True, help="folder for the arrays")
    return parser


if __name__ == "__main__":
    sys.exit(program.main(run, flags()))
