"""Answer the questions in a file with a base model and its LoRA adapters, without a server.

Input:   a Hugging Face model folder, any number of PEFT folders, and a JSONL, JSON, CSV or Parquet file of questions.
         A row with a column of --template is rendered with the template; of any other row the column `prompt` is sent.
Output:  answers.jsonl, each row with every model's answer; summary.json, counts of truncated and identical answers.

--engine vllm needs a Python or an --image with vLLM; --engine embedded runs transformers on the CPU.

    python scripts/generate.py --engine embedded --model model --adapter sql=adapter/adapter --prompts rows.jsonl \\
        --template tokens/template.json --output answers
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from common import program
from common.data import tokenizer
from common.data.conversation import read_messages
from common.formats.peft_folder import BASE
from common.inference import loading
from common.inference.questions import Answer, Question, add_flags, collect_answers, read_questions
from common.program import BadInput, StageFailed
from common.serving import processes, vllm_flags, vllm_options
from common.serving.server_flags import check_names

_IN_CONTAINER = "RUNNER_IN_CONTAINER"
_CHUNK = 64  # questions per progress report


def flags() -> argparse.ArgumentParser:
    """The program's flags."""
    parser = program.parser(__doc__)
    vllm_flags.add(parser)
    vllm_flags.add_container(parser)
    parser.add_argument("--engine", choices=("vllm", "embedded"), default="vllm", help="engine that generates")
    add_flags(parser)
    parser.add_argument("--top-k", type=program.at_least(1), help="sample from the k most likely tokens (default: all)")
    return parser


def run(args: argparse.Namespace) -> None:
    """Answer every question with every model, here or in the container of --image."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # a regular exit terminates vLLM's processes
    questions = read_questions(args.prompts, args.template)
    prompts = prompt_ids(args.model, questions)
    check_lengths(prompts, args)
    if args.image and _IN_CONTAINER not in os.environ:
        run_in_container(args, sys.argv[1:])
        return
    generate = vllm_answers if args.engine == "vllm" else embedded_answers
    with collect_answers(args.output, questions, asked_models(args)) as answers:
        for model, chunk in generate(args, prompts):
            answers.add(model, chunk)


def run_in_container(args: argparse.Namespace, argv: list[str]) -> None:
    """Run this program with the same `argv` in the image, with the files that it names mounted at the same paths."""
    asked_models(args)
    if "--template" in argv:  # pass its content: it may name a file
        argv[argv.index("--template") + 1] = args.template.to_json()
    settings = vllm_flags.with_artifacts(args, vllm_flags.settings(args), {"image": args.image})
    args.output.mkdir(parents=True, exist_ok=True)
    stream = os.environ.get("RUNNER_EVENTS")
    variables = {_IN_CONTAINER: "1"} | ({"RUNNER_EVENTS": stream, "RUNNER_STAGE": "generate"} if stream else {})
    writable = [args.output, *([Path(stream).parent] if stream else [])]
    read_only = [Path(__file__).parent, args.model, args.prompts, *(folder for _, folder in args.adapter)]
    container = vllm_flags.container(args, settings, f"generate-{os.getpid()}", read_only, writable)
    command = [*vllm_options.container_command(container, variables), str(Path(__file__).absolute()), *argv]
    status = subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode
    if status:
        error = BadInput if status == 2 else StageFailed
        raise error(f"--image {args.image}: the container exited with status {status}; see its output above")


def asked_models(args: argparse.Namespace) -> dict[str, Path | None]:
    """Model name → PEFT folder, or None for the base model. Raises BadInput if there is no model to ask."""
    check_names(args.served_model_name, args.adapter)
    models: dict[str, Path | None] = {} if args.no_base else {args.served_model_name: None}
    models |= dict(args.adapter)
    if not models:
        raise BadInput("--no-base: needs at least one --adapter")
    return models


def prompt_ids(model: Path, questions: list[Question]) -> list[list[int]]:
    """The token ids of every question, encoded as in training and serving."""
    encoder = tokenizer.load(model)
    template = tokenizer.chat_of(model) if any(question.chat for question in questions) else None

    def ids(question: Question) -> list[int]:
        if template is None or not question.chat:
            return encoder.encode(question.prompt).ids
        messages = read_messages(question.chat["messages"])
        prompt = template.render(messages, tools=question.chat.get("tools"))
        return encoder.encode(prompt, add_special_tokens=False).ids

    return [ids(question) for question in questions]


def check_lengths(prompts: list[list[int]], args: argparse.Namespace) -> None:
    """Raise BadInput unless the longest prompt plus --max-tokens fits the model's context."""
    positions = min(loading.limits(args.model).max_position_embeddings, args.max_model_len or sys.maxsize)
    loading.check_context("--max-tokens", args.max_tokens, prompts, positions)


def vllm_answers(args: argparse.Namespace, prompts: list[list[int]]) -> Iterator[tuple[str, list[Answer]]]:
    """Generate with vLLM; yields (model name, chunk of answers), model by model."""
    models = asked_models(args)
    settings = vllm_flags.settings(args)
    versions = {"image": args.image} if args.image else vllm_flags.installed(sys.executable)
    settings = vllm_flags.with_artifacts(args, settings, versions)
    vllm_flags.write_files(settings)
    os.environ.update(vllm_options.environment(args.generation, settings), PATH=processes.search_path(sys.executable))
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # its logs would hide ours

    from vllm import LLM, SamplingParams  # pyright: ignore[reportMissingImports]  reads the variables
    from vllm.lora.request import LoRARequest  # pyright: ignore[reportMissingImports]

    llm = LLM(**vllm_options.engine_arguments(args.generation, settings))
    top_k = {"top_k": args.top_k} if args.top_k else {}
    sampling = SamplingParams(temperature=args.temperature, max_tokens=args.max_tokens, **top_k)
    for number, (name, adapter) in enumerate(models.items(), start=1):
        request = LoRARequest(name, number, str(adapter.resolve())) if adapter else None
        for chunk in _chunks(prompts):
            inputs = [{"prompt_token_ids": ids} for ids in chunk]
            outputs = llm.generate(inputs, sampling, lora_request=request, use_tqdm=False)
            completions = [output.outputs[0] for output in outputs]
            yield name, [_answer(c.text, c.finish_reason, c.token_ids) for c in completions]


def embedded_answers(args: argparse.Namespace, prompts: list[list[int]]) -> Iterator[tuple[str, list[Answer]]]:
    """Generate with transformers; yields (model name, chunk of answers), model by model."""
    models = asked_models(args)
    loading.check_model(args.model, [folder for _, folder in args.adapter])
    decoder = tokenizer.load(args.model)
    stop_ids = loading.stop_token_ids(args.model, decoder)

    from common.inference.generation import Sequence, generate
    from common.inference.sampling import Sampling

    sampling = Sampling(args.temperature, args.top_k or 0)
    model = loading.load_model(args.model, dict(args.adapter), args.dtype)
    for name, folder in models.items():
        adapter = name if folder else BASE
        for chunk in _chunks(prompts):
            sequences = [Sequence(ids, args.max_tokens, adapter, sampling) for ids in chunk]
            for _ in generate(model, sequences, args.max_num_seqs or _CHUNK, stop_ids):
                pass
            yield name, [_answer(decoder.decode(s.token_ids), s.finish_reason, s.token_ids) for s in sequences]


def _answer(text: str, finish_reason: str | None, token_ids: list[int]) -> Answer:
    return {"text": text, "finish_reason": finish_reason, "token_ids": list(token_ids)}


def _chunks(prompts: list[list[int]]) -> Iterator[list[list[int]]]:
    for start in range(0, len(prompts), _CHUNK):
        yield prompts[start : start + _CHUNK]


if __name__ == "__main__":
    sys.exit(program.main(run, flags()))
