"""Compare a LoRA adapter with its base model on the held-out examples.

Input:   a Hugging Face model folder, a PEFT adapter folder, the output folder of tokenize_dataset.py.
Output:  report.json, held-out loss, perplexity and scores of base and adapter (scores are fractions, 0 to 1);
         samples.jsonl, every example with both greedy answers as text and token ids.

exact_match ignores white space and Unicode normalization (it compares NFC). rouge_l is the F-measure of the longest
common subsequence of words, in any script. sql extracts the query from the answer, without code fences or surrounding
sentences, executes it, and compares the rows; their order counts as far as the reference's ORDER BY determines it. A
query that exceeds the time or memory limit is wrong.

Fails if the adapter's answers equal the base model's for every example.

    python scripts/evaluate.py --model model --adapter adapter/adapter --tokens tokens --output evaluation \\
        --examples 100 --metrics exact_match rouge_l sql --sql-schema context
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import events, program
from common.data import json_lines, tokenizer
from common.formats.dtypes import DTYPES
from common.formats.peft_folder import BASE
from common.inference import loading, text_scores
from common.inference.sql_scores import GoldFails, SqlChecker, SqlQuestion
from common.program import BadInput, StageFailed

if TYPE_CHECKING:
    from common.inference import generation

Example = dict[str, Any]
Question = SqlQuestion | GoldFails

SIDES = {"base": BASE, "adapter": "adapter"}  # name in the report → name in the loaded model
_INCOMPLETE_CHARACTER = "\N{REPLACEMENT CHARACTER}"
SCORES = ("exact_match", "rouge_l", "execution_accuracy")


def flags() -> argparse.ArgumentParser:
    """The program's flags."""
    parser = program.parser(__doc__)
    folder, count = program.existing_folder, program.at_least
    parser.add_argument("--model", type=folder, required=True, help="Hugging Face folder of the base model")
    parser.add_argument("--adapter", type=folder, required=True, help="PEFT folder")
    parser.add_argument("--tokens", type=folder, required=True, help="folder with eval.jsonl and template.json")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--examples", type=count(0), default=0, help="number of held-out examples; 0: all")
    parser.add_argument("--max-new-tokens", type=count(1), default=128, help="limit of an answer, in tokens")
    parser.add_argument("--batch-size", type=count(1), default=32, help="answers generated at a time")
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="fp32", help="data type of the weights")
    parser.add_argument(
        "--metrics", nargs="+", choices=["exact_match", "rouge_l", "sql"], default=["exact_match"], help="scores"
    )
    parser.add_argument("--sql-schema", metavar="COLUMN", help="column of CREATE TABLE statements, for --metrics sql")
    parser.add_argument(
        "--sql-rows", metavar="COLUMN", help="column of INSERT statements; without one, rows are generated"
    )
    return parser


def run(args: argparse.Namespace) -> None:
    """Check the input, compute losses, generate and score both models' answers, and write them."""
    examples = read_examples(args.tokens / "eval.jsonl", args.examples)
    check_prompts(examples, args.max_new_tokens, loading.limits(args.model))
    questions = sql_questions(examples, args) if "sql" in args.metrics else [None] * len(examples)
    loading.check_model(args.model, [args.adapter])
    decoder = tokenizer.load(args.model)
    stop_ids = loading.stop_token_ids(args.model, decoder)
    samples = [sample(example, args, reference(example["response_ids"], decoder, stop_ids)) for example in examples]

    args.output.mkdir(parents=True, exist_ok=True)
    model = loading.load_model(args.model, {SIDES["adapter"]: args.adapter}, args.dtype)
    losses = {side: held_out_loss(model, side, examples, args.batch_size) for side in SIDES}
    for side, answers in greedy_answers(model, examples, stop_ids, args).items():
        for line, answer in zip(samples, answers, strict=True):
            line[side] = {"text": decoder.decode(answer.token_ids), "token_ids": answer.token_ids}
            line[side]["near_ties"] = near_ties(answer, decoder, stop_ids)
    json_lines.write(args.output / "samples.jsonl", samples)  # keep the expensive answers even if scoring fails
    add_scores(samples, args.metrics, questions)
    json_lines.write(args.output / "samples.jsonl", samples)
    check_difference(samples)
    write_report(args.output / "report.json", samples, losses, questions)


def read_examples(path: Path, count: int) -> list[Example]:
    """The first `count` held-out examples (0: all). Raises BadInput if one lacks a field that is used here."""
    if not path.is_file():
        raise BadInput(f"--tokens: {path}: no such file; use the output folder of tokenize_dataset.py")
    lines = path.read_bytes().splitlines()
    examples = [_example(line, f"{path} line {number}") for number, line in enumerate(lines[: count or None], start=1)]
    if not examples:
        raise BadInput(f"{path}: contains no examples; hold out a part of the data set")
    return examples


def _example(line: bytes, where: str) -> Example:
    try:
        example = json.loads(line)
    except ValueError:
        raise BadInput(f"{where}: not JSON") from None
    if not isinstance(example, dict):
        raise BadInput(f"{where}: not a JSON object")
    for key, kind in {"prompt": str, "prompt_ids": list, "response": str, "response_ids": list, "fields": dict}.items():
        if not isinstance(example.get(key), kind) or example[key] == []:
            raise BadInput(f"{where}: {key} is missing, empty or not a {kind.__name__}")
    return example


def check_prompts(examples: list[Example], max_new_tokens: int, limits: loading.Limits) -> None:
    """Raise BadInput if prompt and answer exceed the model's context, or the tokens are another model's."""
    positions, vocab_size = limits
    prompts = (example["prompt_ids"] for example in examples)
    loading.check_context("--max-new-tokens", max_new_tokens, prompts, positions)
    largest = max(token_id for example in examples for token_id in example["prompt_ids"] + example["response_ids"])
    if largest >= vocab_size:
        raise BadInput(
            f"--tokens: token id {largest} is outside the model's vocabulary of {vocab_size}: "
            "was it tokenized for another model?"
        )


def reference(response_ids: list[int], decoder: Any, stop_ids: frozenset[int]) -> str:
    """The text of a reference, decoded as an answer is: without special tokens, and without the one that ends it."""
    return decoder.decode(response_ids[:-1] if response_ids[-1] in stop_ids else response_ids)


def sample(example: Example, args: argparse.Namespace, reference: str) -> dict[str, Any]:
    """A line of samples.jsonl without its answers: all that is needed to send the same prompt to a server."""
    question = {key: example[key] for key in ("messages", "tools") if key in example}
    return {
        "prompt": example["prompt"],
        **question,
        "prompt_token_ids": example["prompt_ids"],
        "max_new_tokens": args.max_new_tokens,
        "reference": reference,
    }


def sql_questions(examples: list[Example], args: argparse.Namespace) -> list[Question]:
    """For each example its question, or the error of its reference query. Raises BadInput if none is usable."""
    if args.sql_schema is None:
        raise BadInput("--metrics sql needs --sql-schema, the column that holds the CREATE TABLE statements")
    for example in examples:
        if args.sql_schema not in example["fields"]:
            columns = ", ".join(example["fields"])
            raise BadInput(f"--sql-schema {args.sql_schema}: no such column; the columns are {columns}")
    with SqlChecker() as checker:
        questions = [_question(example, args.sql_schema, args.sql_rows, checker) for example in examples]
    if not any(isinstance(question, SqlQuestion) for question in questions):
        raise BadInput(f"--metrics sql: no reference query runs on SQLite; first error: {questions[0]}")
    return questions


def _question(example: Example, schema: str, rows: str | None, checker: SqlChecker) -> Question:
    inserts = example["fields"].get(rows) or ""
    try:
        return checker.question(str(example["fields"][schema]), str(inserts), example["response"])
    except GoldFails as error:
        return error


def held_out_loss(model: Any, side: str, examples: list[Example], batch_size: int) -> float:
    """Mean cross-entropy of the response tokens, in nats per token. Raises StageFailed if it is not finite."""
    from common.inference.generation import response_loss

    pairs = [(example["prompt_ids"], example["response_ids"]) for example in examples]
    pairs.sort(key=lambda pair: len(pair[0]) + len(pair[1]))
    batches = [pairs[start : start + batch_size] for start in range(0, len(pairs), batch_size)]
    total = sum(response_loss(model, batch, SIDES[side]) for batch in batches)
    loss = total / sum(len(response) for _, response in pairs)
    if not math.isfinite(loss):
        raise StageFailed(f"the held-out loss of the {side} model is not finite; try --dtype fp32")
    return loss


def greedy_answers(
    model: Any, examples: list[Example], stop_ids: frozenset[int], args: argparse.Namespace
) -> dict[str, list[generation.Sequence]]:
    """Each side's greedy answers, one per example; progress counts both sides."""
    from common.inference.generation import Sequence, generate

    sides = {
        side: [Sequence(example["prompt_ids"], args.max_new_tokens, adapter, near_ties=[]) for example in examples]
        for side, adapter in SIDES.items()
    }
    sequences = [sequence for answers in sides.values() for sequence in answers]
    for done, _ in enumerate(generate(model, sequences, args.batch_size, stop_ids), start=1):
        events.progress(done, len(sequences), "answer")
    return sides


def near_ties(answer: generation.Sequence, decoder: Any, stop_ids: frozenset[int]) -> list[dict[str, Any]]:
    """How an answer may begin, or end, if rounding decides one token differently; smoke_test.py accepts these.

    Texts that distinguish nothing are left out: an incomplete character, and a prefix of the answer itself.
    """
    ties, full_text = [], decoder.decode(answer.token_ids)
    for position, token_id, margin in answer.near_ties or []:
        text, ends = decoder.decode([*answer.token_ids[:position], token_id]), token_id in stop_ids
        if ends or not (text.endswith(_INCOMPLETE_CHARACTER) or full_text.startswith(text)):
            ties.append({"text": text, "ends": ends, "margin": margin})
    return ties


def add_scores(samples: list[dict[str, Any]], metrics: list[str], questions: Sequence[Question | None]) -> None:
    """Add to every answer its scores."""
    with SqlChecker() as checker:
        for line, question in zip(samples, questions, strict=True):
            for side in SIDES:
                line[side] |= scores(line[side]["text"], line["reference"], metrics)
                if isinstance(question, SqlQuestion):
                    line[side]["execution_accuracy"] = checker.accepts(question, line[side]["text"])
                    line[side]["correct"] = line[side]["execution_accuracy"]


def scores(text: str, reference: str, metrics: list[str]) -> dict[str, Any]:
    """Text scores of an answer; `correct` is the exact match, which execution_accuracy later overrides."""
    exact = text_scores.exact_match(text, reference)
    rouge = {"rouge_l": round(text_scores.rouge_l(text, reference), 4)} if "rouge_l" in metrics else {}
    return {"correct": exact, "exact_match": exact, **rouge}


def check_difference(samples: list[dict[str, Any]]) -> None:
    """Raise StageFailed if no answer of the adapter differs from the base model's."""
    if all(line["base"]["token_ids"] == line["adapter"]["token_ids"] for line in samples):
        raise StageFailed("the adapter answers every example exactly like the base model: train it longer")


def write_report(path: Path, samples: list[dict[str, Any]], losses: dict[str, float], questions: list[Any]) -> None:
    """Write losses and mean scores of both sides, and how far execution_accuracy can be trusted."""
    report: dict[str, Any] = {"examples": len(samples)}
    for side, loss in losses.items():
        report[side] = {"loss": loss, "perplexity": math.exp(loss), **mean_scores([line[side] for line in samples])}
        events.metric({f"{side}/{name}": value for name, value in report[side].items()})
    if any(questions):
        report["sql"] = sql_notes(questions)
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def mean_scores(answers: list[dict[str, Any]]) -> dict[str, float]:
    """Mean of each score over the answers that have it."""
    columns = {name: [answer[name] for answer in answers if name in answer] for name in SCORES}
    return {name: sum(values) / len(values) for name, values in columns.items() if values}


def sql_notes(questions: list[Question]) -> dict[str, Any]:
    """The errors of references that do not run, by example, and how many of the others are weak evidence.

    It is easy to agree with a reference that selects nothing, and generated rows may not distinguish two queries.
    """
    failures = {str(number): str(error) for number, error in enumerate(questions) if isinstance(error, GoldFails)}
    if failures:
        events.log(f"execution_accuracy excludes {len(failures)} reference queries that fail on SQLite", "warning")
    usable = [question for question in questions if isinstance(question, SqlQuestion)]
    return {
        "reference_failures": failures,
        "empty_references": sum(question.empty for question in usable),
        "invented_rows": sum(question.invented for question in usable),
    }


if __name__ == "__main__":
    sys.exit(program.main(run, flags()))
