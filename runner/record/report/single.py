"""The report of one run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from runner.metrics import EVALUATION, Metric, compared, duration, served
from runner.record import cost
from runner.record.attempts import Attempt, attempts, without_pauses
from runner.record.report import charts, parts, word_diff
from runner.record.report.charts import Point, Share
from runner.record.report.page import Document, Section, Verdict
from runner.record.report.parts import capitalized
from runner.record.runs import AWAY, Run

_MOST_SAMPLES = 300  # a page with more is slow to open
_FILTERS = {"all": "All", "right": "Right", "wrong": "Wrong", "changed": "Changed"}
_UNFINISHED = {
    "running": "In progress",
    AWAY: "In progress when last heard of",
    "stopped": "Stopped",
    "pruned": "Pruned",
}


def document(run: Run) -> Document:
    """The verdict first, then what led to it, then how to reproduce it."""
    return Document(
        runs=[run.name],
        title=run.recipe["name"],
        label=f"Run {run.name}",
        verdict=verdict(run),
        facts=_facts(run),
        sections=[
            Section("training", "Training", _training(run)),
            Section("evaluation", "Base against adapter", _evaluation(run)),
            Section("samples", "Samples", _samples(run)),
            Section("stages", "Stages", _stages(run)),
            Section("data", "Data", _data(run)),
            Section("messages", "Messages", _messages(run)),
            Section("configuration", "Configuration", parts.configuration(run)),
            Section("commands", "Command lines", parts.commands(run)),
            Section("provenance", "Provenance", parts.manifest(run)),
        ],
    )


def verdict(run: Run) -> Verdict:
    """The outcome of the run in a sentence: base against adapter where that was measured."""
    failed = [event for event in run.stages().values() if event["state"] == "failed"]
    if failed:
        return Verdict(f"Failed in {failed[0]['stage']}", bad=True, reason=failed[0]["reason"])
    if run.state != "finished":
        return Verdict(_UNFINISHED.get(run.state, "Ended before it was done"), reason=run.prune_reason or "")
    report, training = run.result("evaluate", "report.json"), run.result("train", "training.json") or {}
    measured = compared(report) if report else []
    if report and measured:
        return _measured(measured, report["examples"])
    start, end = training.get("eval_loss_start"), training.get("eval_loss_end")
    if start is None or end is None:
        return Verdict("Finished; nothing was measured")
    return _change(EVALUATION["loss"], start, end)


def _measured(measured: Sequence[tuple[Metric, float, float]], examples: int) -> Verdict:
    """The first metric large, the others and the number of examples below it."""
    first, *others = measured
    changes = [f"{metric.title} {metric.text(base)} → {metric.text(adapter)}" for metric, base, adapter in others]
    return _change(*first, f"On {examples} held-out examples; {', '.join(changes)}")


def _change(metric: Metric, before: float, after: float, lead: str | None = None) -> Verdict:
    return Verdict(capitalized(metric.title), metric.text(before), metric.text(after), lead=lead)


def _facts(run: Run) -> list[tuple[str, str]]:
    recipe, lora = run.recipe, run.recipe["train"]["lora"]
    facts = [
        ("State", run.state),
        ("Model", recipe["model"]["name"]),
        ("Data", recipe["dataset"]["name"]),
        ("LoRA", f"rank {lora['rank']}, alpha {lora['alpha']:g}"),
        ("Hardware", f"{recipe['hardware']['name']}, tp_size {recipe['parallel']['tp_size']}"),
        ("Started", run.manifest["started"][:16].replace("T", " ")),
        ("Time", duration(run.seconds())),
        ("Cost", cost.text(cost.cost(run))),
    ]
    return [(name, value) for name, value in facts if value]


def _training(run: Run) -> dict[str, Any] | None:
    history = parts.history(run, run.recipe["name"], "adapter")
    training = run.result("train", "training.json") or {}
    if not history.metrics:
        return None
    held_out = _held_out(training, history.metrics.get("eval_loss", ()))
    charts = parts.curves([history], held_out, training.get("best_step"))
    return {"lead": _extent(training), "legend": [], "charts": charts}


def _held_out(training: dict[str, Any], evaluations: Sequence[Point]) -> list[Point]:
    """The held-out losses by step, from before the training to its end."""
    ends = [(0, training.get("eval_loss_start")), (training.get("steps"), training.get("eval_loss_end"))]
    points = [ends[0], *(evaluations or ends[1:])]
    return [(at, value) for at, value in points if at is not None and value is not None and math.isfinite(value)]


def _extent(training: dict[str, Any]) -> str:
    """How much was trained; empty if the training has not ended, or did not say."""
    if not training.keys() >= {"tokens", "label_tokens", "steps", "seconds"}:
        return ""
    tokens = f"{training['tokens']:,} tokens, {training['label_tokens']:,} of them learnt"
    best = training.get("best_step")
    kept = f" The adapter is that of step {best:,}, which had the lowest held-out loss." if best else ""
    return f"{training['steps']:,} steps over {tokens}, in {duration(training['seconds'])}.{kept}"


def _evaluation(run: Run) -> dict[str, Any] | None:
    report, smoke = run.result("evaluate", "report.json"), run.result("serve", "smoke.json")
    if not report:
        return None
    examples = report["examples"]
    rows = [_row(*measured, examples) for measured in compared(report)]
    return {"examples": examples, "rows": rows, "served": smoke and served(smoke)}


def _row(metric: Metric, before: float, after: float, examples: int) -> dict[str, Any]:
    better = metric.sort_key(after) < metric.sort_key(before)
    intervals = [metric.interval(value, examples) for value in (before, after)]
    sides = [Share(before, intervals[0], "base"), Share(after, intervals[1], "adapter")]
    return {
        "title": metric.title,
        "before": metric.text(before),
        "after": metric.text(after),
        "intervals": [interval and parts.interval(interval) for interval in intervals],
        "change": metric.change(before, after),
        "verdict": "" if after == before else "good" if better else "bad",
        "chart": charts.shares(sides, f"{metric.title} from 0 to 100 %") if metric.share else "",
    }


def _samples(run: Run) -> dict[str, Any] | None:
    recorded = run.samples(_MOST_SAMPLES)
    if recorded is None:
        return None
    samples = [_sample(sample) for sample in recorded]
    total = (run.result("evaluate", "report.json") or {}).get("examples", len(samples))
    note = f"The first {len(samples)} of {total}; all of them: {run.samples_file}" if total > len(samples) else ""
    filters = [
        {"name": name, "title": title, "count": sum(name in sample["kinds"] for sample in samples)}
        for name, title in _FILTERS.items()
    ]
    return {"filters": filters, "note": note, "samples": samples}


def _sample(sample: dict[str, Any]) -> dict[str, Any]:
    base, adapter = (bool(sample[side].get("correct")) for side in ("base", "adapter"))
    answers = [
        ("Base", sample["base"]["text"], base),
        ("Adapter", sample["adapter"]["text"], adapter),
    ]
    reference = sample["reference"].strip()
    return {
        "kinds": ["all", "right" if adapter else "wrong", *(["changed"] if base != adapter else [])],
        "prompt": sample["prompt"].strip(),
        "reference": reference,
        "answers": [
            {"author": author, "pieces": word_diff.pieces(text.strip(), reference), "right": right}
            for author, text, right in answers
        ],
    }


def _stages(run: Run) -> dict[str, Any]:
    events = run.stages()
    made = without_pauses(attempts(run.events()))
    total = max((attempt.ended for attempt in made), default=0.0)
    rows = [_stage(step, events.get(step["stage"], {}), made, total) for step in run.plan["steps"]]
    return {"has_memory": any(row["memory"] for row in rows), "total": duration(total), "rows": rows}


def _stage(step: dict[str, Any], event: dict[str, Any], made: Sequence[Attempt], total: float) -> dict[str, Any]:
    state, memory = event.get("state", "not reached"), event.get("peak_memory")
    spans = [(attempt.begun, attempt.ended) for attempt in made if attempt.stage == step["stage"]]
    seconds = event["seconds"] if state == "finished" else None
    return {
        "stage": step["stage"],
        "title": step["title"],
        "state": state,
        "seconds": "" if seconds is None else f"{seconds:,.1f}",
        "memory": f"{memory / 2**20:,.0f} MiB" if memory else "",
        "timeline": charts.timeline(spans, total, f"when {step['stage']} was at work") if spans else "",
    }


def _data(run: Run) -> dict[str, Any] | None:
    statistics = run.result("tokenize", "statistics.json")
    if not statistics:
        return None
    splits = {name: statistics[name] for name in ("train", "eval") if name in statistics}
    names = dict.fromkeys(name for counts in splits.values() for name in counts)
    return {
        "dataset": run.recipe["dataset"]["name"],
        "seq_len": f"{statistics['seq_len']:,}",
        "splits": list(splits),
        "rows": [
            (name.replace("_", " "), [f"{counts.get(name, 0):,}" for counts in splits.values()]) for name in names
        ],
        "examples": (run.result("tokenize", "preview.json") or {}).get("examples", [])[:3],
    }


def _messages(run: Run) -> list[dict[str, Any]]:
    return [event for event in run.events("log") if event["level"] in ("warning", "error")]
