"""Compare a LoRA adapter with its base model on the held-out examples.

Input:   a Hugging Face model folder, a PEFT adapter folder, the tokens folder of tokenize_dataset.py.
Output:  report.json, held-out loss, perplexity and scores of base and adapter (scores are fractions, 0 to 1);
         samples.jsonl, every example with both greedy answers as text and token ids.

exact_match is equality but for white space and for how Unicode composes characters (NFC). rouge_l is the F-measure of
the longest common subsequence of words, of any script. sql executes the query that is in the answer, without a fence
or a sentence around it, and compares rows, their order as far as the reference's ORDER BY decides it; a query that
takes too much time or memory is wrong.

Fails when the adapter's answers equal the base model's on every example.

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
from common.data.template import Template
from common.formats.dtypes import DTYPES
from common.formats.peft_folder import BASE
from common.inference import loading, text_scores
from common.inference.sql_scores import GoldFails, SqlChecker, SqlQuestion
from common.program import BadInput, StageFailed

if TYPE_CHECKING:
    from common.inference import generation

Example = dict[str, Any]
Question = SqlQuestion | GoldFails

SIDES = {"base": BASE, "adapter": "adapter"}  # name in the report: name in the loaded model
_HALF_CHARACTER = "\N{REPLACEMENT CHARACTER}"
SCORES = ("exact_match", "rouge_l", "execution_accuracy")


def flags() -> argparse.ArgumentParser:
    parser = program.parser(__doc__)
    folder, count = program.existing_folder, program.at_least
    parser.add_argument("--model", type=folder, required=True, help="Hugging Face folder of the base model")
    parser.add_argument("--adapter", type=folder, required=True, help="PEFT folder")
    parser.add_argument("--tokens", type=folder, required=True, help="folder with eval.jsonl and template.json")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--examples", type=count(0), default=0, help="the first N held-out examples; 0 is all")
    parser.add_argument("--max-new-tokens", type=count(1), default=128, help="longest answer, in tokens")
    parser.add_argument("--batch-size", type=count(1), default=32, help="answers generated together")
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="fp32", help="of the weights")
    parser.add_argument("--metrics", nargs="+", choices=["exact_match", "rouge_l", "sql"], default=["exact_match"])
    parser.add_argument("--sql-schema", metavar="COLUMN", help="column of CREATE TABLE statements, for --metrics sql")
    parser.add_argument(
        "--sql-rows", metavar="COLUMN", help="column of INSERT statements; rows are invented where absent"
    )
    return parser


def run(args: argparse.Namespace) -> None:
    examples = read_examples(args.tokens / "eval.jsonl", args.examples)
    check_prompts(examples, args.max_new_tokens, loading.limits(args.model))
    samples = [sample(example, args) for example in examples]
    questions = sql_questions(examples, args) if "sql" in args.metrics else [None] * len(examples)
    loading.check_model(args.model, [args.adapter])
    decoder = tokenizer.load(args.model)
    stop_ids = loading.stop_token_ids(args.model, decoder)

    args.output.mkdir(parents=True, exist_ok=True)
    model = loading.load_model(args.model, {SIDES["adapter"]: args.adapter}, args.dtype)
    losses = {side: held_out_loss(model, side, examples, args.batch_size) for side in SIDES}
    for side, answers in greedy_answers(model, examples, stop_ids, args).items():
        for line, answer in zip(samples, answers, strict=True):
            line[side] = {"text": decoder.decode(answer.token_ids), "token_ids": answer.token_ids}
            line[side]["near_ties"] = near_ties(answer, decoder, stop_ids)
    json_lines.write(args.output / "samples.jsonl", samples)  # answers take long to make: scoring may fail
    add_scores(samples, args.metrics, questions)
    json_lines.write(args.output / "samples.jsonl", samples)
    check_difference(samples)
    write_report(args.output / "report.json", samples, losses, questions)


def read_examples(path: Path, count: int) -> list[Example]:
    """The first `count` held-out examples (0 is all), each checked for the fields that are used here."""
    if not path.is_file():
        raise BadInput(f"--tokens: {path}: no such file; give the folder made by tokenize_dataset.py")
    lines = path.read_bytes().splitlines()
    examples = [_example(line, f"{path} line {number}") for number, line in enumerate(lines[: count or None], start=1)]
    if not examples:
        raise BadInput(f"{path}: holds no examples; give the data set a held-out part")
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
    """Raises BadInput when prompt and answer do not fit the model, or the tokens are another model's."""
    positions, vocab_size = limits
    longest = max(len(example["prompt_ids"]) for example in examples)
    if longest + max_new_tokens > positions:
        raise BadInput(
            f"--max-new-tokens {max_new_tokens}: the longest prompt has {longest} tokens and the model "
            f"{positions} positions; use at most {positions - longest}"
        )
    largest = max(token_id for example in examples for token_id in example["prompt_ids"] + example["response_ids"])
    if largest >= vocab_size:
        raise BadInput(f"--tokens: token id {largest} is outside of the model's {vocab_size}: is it another model's?")


def sample(example: Example, args: argparse.Namespace) -> dict[str, Any]:
    """One line of samples.jsonl, still without answers: what is needed to ask a server the same."""
    template = Template.load(str(args.tokens / "template.json"))
    turns = {"messages": template.messages(example["fields"])} if template.chat else {}
    return {
        "prompt": example["prompt"],
        **turns,
        "prompt_token_ids": example["prompt_ids"],
        "max_new_tokens": args.max_new_tokens,
        "reference": example["response"],
    }


def sql_questions(examples: list[Example], args: argparse.Namespace) -> list[Question]:
    """A question for each example, or why its reference query cannot be used."""
    if args.sql_schema is None:
        raise BadInput("--metrics sql needs --sql-schema, the column that holds the CREATE TABLE statements")
    for example in examples:
        if args.sql_schema not in example["fields"]:
            raise BadInput(f"--sql-schema {args.sql_schema}: no such column; there are {', '.join(example['fields'])}")
    with SqlChecker() as checker:
        questions = [_question(example, args.sql_schema, args.sql_rows, checker) for example in examples]
    if not any(isinstance(question, SqlQuestion) for question in questions):
        raise BadInput(f"--metrics sql: no reference query runs on SQLite; the first says: {questions[0]}")
    return questions


def _question(example: Example, schema: str, rows: str | None, checker: SqlChecker) -> Question:
    inserts = example["fields"].get(rows) or ""
    try:
        return checker.question(str(example["fields"][schema]), str(inserts), example["response"])
    except GoldFails as error:
        return error


def held_out_loss(model: Any, side: str, examples: list[Example], batch_size: int) -> float:
    """Mean cross-entropy of the response tokens, in nats a token."""
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
    """Each side's greedy answers, one an example; progress is told over both sides."""
    from common.inference.generation import Sequence, generate

    sides = {
        side: [Sequence(example["prompt_ids"], args.max_new_tokens, adapter, near_ties=[]) for example in examples]
        for side, adapter in SIDES.items()
    }
    everything = [sequence for sequences in sides.values() for sequence in sequences]
    for done, _ in enumerate(generate(model, everything, args.batch_size, stop_ids), start=1):
        events.progress(done, len(everything), "answer")
    return sides


def near_ties(answer: generation.Sequence, decoder: Any, stop_ids: frozenset[int]) -> list[dict[str, Any]]:
    """How an answer may begin, or end, where rounding decides one token otherwise; smoke_test.py accepts these.

    What tells nothing is left out: half a character, and a text that the answer itself begins with.
    """
    found, whole = [], decoder.decode(answer.token_ids)
    for position, token_id, margin in answer.near_ties or []:
        text, ends = decoder.decode([*answer.token_ids[:position], token_id]), token_id in stop_ids
        if ends or not (text.endswith(_HALF_CHARACTER) or whole.startswith(text)):
            found.append({"text": text, "ends": ends, "margin": margin})
    return found


def add_scores(samples: list[dict[str, Any]], metrics: list[str], questions: Sequence[Question | None]) -> None:
    """Add its scores to every answer."""
    with SqlChecker() as checker:
        for line, question in zip(samples, questions, strict=True):
            for side in SIDES:
                line[side] |= scores(line[side]["text"], line["reference"], metrics)
                if isinstance(question, SqlQuestion):
                    line[side]["execution_accuracy"] = checker.accepts(question, line[side]["text"])
                    line[side]["correct"] = line[side]["execution_accuracy"]


def scores(text: str, reference: str, metrics: list[str]) -> dict[str, Any]:
    """How an answer compares with its reference; `correct` is the exact match, until an execution judges."""
    found: dict[str, Any] = {"exact_match": text_scores.exact_match(text, reference)}
    if "rouge_l" in metrics:
        found["rouge_l"] = round(text_scores.rouge_l(text, reference), 4)
    return {"correct": found["exact_match"], **found}


def check_difference(samples: list[dict[str, Any]]) -> None:
    if all(line["base"]["token_ids"] == line["adapter"]["token_ids"] for line in samples):
        raise StageFailed("the adapter answers every example exactly as the base model does: train it longer")


def write_report(path: Path, samples: list[dict[str, Any]], losses: dict[str, float], questions: list[Any]) -> None:
    """Write the means of both sides, and what the execution accuracy leaves out."""
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
    """Which references do not run (by example, with the reason), and how many of the others prove less.

    Agreeing with a reference that finds nothing is easy, and invented rows may not tell two queries apart.
    """
    failures = {str(number): str(error) for number, error in enumerate(questions) if isinstance(error, GoldFails)}
    if failures:
        events.log(f"{len(failures)} reference queries do not run on SQLite: left out of execution_accuracy", "warning")
    usable = [question for question in questions if isinstance(question, SqlQuestion)]
    return {
        "reference_failures": failures,
        "empty_references": sum(question.empty for question in usable),
        "invented_rows": sum(question.invented for question in usable),
    }


if __name__ == "__main__":
    sys.exit(program.main(run, flags()))
