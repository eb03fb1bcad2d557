"""The report of one run."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Iterator
from typing import Any

from runner.metrics import EVALUATION, Figure, duration, served
from runner.record.report import charts, markup, parts
from runner.record.report.markup import Html, joined, tag
from runner.record.report.page import Document, Section
from runner.record.runs import Run

_MOST_SAMPLES = 300  # a page with more is slow to open
_FILTERS = {"all": "All", "right": "Right", "wrong": "Wrong", "changed": "Changed"}


def document(run: Run) -> Document:
    """Verdict first, then what led to it, then how to do it again."""
    return Document(
        title=run.recipe["name"],
        label=f"Run {run.name}",
        verdict=verdict(run),
        facts=_facts(run),
        sections=[
            _section("training", "Training", _training(run)),
            _section("evaluation", "Base against adapter", _evaluation(run)),
            _section("samples", "Samples", _samples(run)),
            _section("stages", "Stages", _stages(run)),
            _section("data", "Data", _data(run)),
            _section("messages", "Messages", _messages(run)),
            _section("configuration", "Configuration", parts.configuration(run)),
            _section("commands", "Command lines", parts.commands(run)),
            _section("provenance", "Provenance", parts.provenance(run)),
        ],
    )


def _section(name: str, heading: str, content: Html | None) -> Section | None:
    return Section(name, heading, content) if content else None


def verdict(run: Run) -> Html:
    """What came of the run, in a sentence: base against adapter where that was measured."""
    failed = [event for event in run.stages().values() if event["state"] == "failed"]
    if failed:
        reason = tag("p", tag("code", failed[0]["reason"]), class_="lead")
        return joined([tag("p", f"Failed in {failed[0]['stage']}", class_="verdict bad"), reason])
    if run.state != "finished":
        said = {"running": "In progress", "stopped": "Stopped"}.get(run.state, "Ended before it was done")
        return tag("p", said, class_="verdict")
    report, trained = run.result("evaluate", "report.json"), run.result("train", "training.json") or {}
    if report:
        return _measured(report)
    start, end = trained.get("eval_loss_start"), trained.get("eval_loss_end")
    if start is None or end is None:
        return tag("p", "Finished; nothing was measured", class_="verdict")
    return _change(EVALUATION["loss"], start, end)


def _measured(report: dict[str, Any]) -> Html:
    """The first figure large, the others and the number of examples below it."""
    base, adapter = report["base"], report["adapter"]
    first, *others = [name for name in EVALUATION if name in base]
    said = [f"{EVALUATION[n].title} {EVALUATION[n].text(base[n])} → {EVALUATION[n].text(adapter[n])}" for n in others]
    rest = tag("p", f"On {report['examples']} held-out examples; ", ", ".join(said), class_="lead")
    return joined([_change(EVALUATION[first], base[first], adapter[first]), rest])


def _change(figure: Figure, before: float, after: float) -> Html:
    numbers = [tag("span", figure.text(before), class_="base"), " → ", tag("strong", figure.text(after))]
    return tag("p", f"{markup.capital(figure.title)} ", *numbers, class_="verdict")


def _facts(run: Run) -> list[tuple[str, str]]:
    recipe, lora = run.recipe, run.recipe["train"]["lora"]
    return [
        ("State", run.state),
        ("Model", recipe["model"]["name"]),
        ("Data", recipe["dataset"]["name"]),
        ("LoRA", f"rank {lora['rank']}, alpha {lora['alpha']:g}"),
        ("Hardware", f"{recipe['hardware']['name']}, tp_size {recipe['parallel']['tp_size']}"),
        ("Started", run.manifest["started"][:16].replace("T", " ")),
        ("Time", duration(run.seconds())),
    ]


def _training(run: Run) -> Html | None:
    steps = parts.training(run)
    trained = run.result("train", "training.json") or {}
    if not steps:
        return None
    ends = [(0, trained.get("eval_loss_start")), (trained.get("steps"), trained.get("eval_loss_end"))]
    held_out = [(at, value) for at, value in ends if at is not None and value is not None and math.isfinite(value)]
    return joined([_trained(trained), parts.curves([(run.recipe["name"], "adapter", steps)], held_out)])


def _trained(trained: dict[str, Any]) -> Html | None:
    if not trained:
        return None
    said = f"{trained['steps']:,} steps over {trained['tokens']:,} tokens, {trained['label_tokens']:,} of them learnt"
    return tag("p", f"{said}, in {duration(trained['seconds'])}.", class_="lead")


def _evaluation(run: Run) -> Html | None:
    report = run.result("evaluate", "report.json")
    if not report:
        return None
    rows = (_comparison(name, report["base"], report["adapter"]) for name in EVALUATION if name in report["base"])
    headings = ["", *(tag("th", side, scope="col", class_="number") for side in ("base", "adapter", "change"))]
    legend = tag("th", tag("span", "base", class_="key base"), " ", tag("span", "adapter", class_="key adapter"))
    said = tag("p", f"{report['examples']} held-out examples, the same for both; answers are greedy.", class_="lead")
    return joined([said, markup.table([*headings, legend], rows, class_="figures"), _served(run)])


def _comparison(name: str, base: dict[str, float], adapter: dict[str, float]) -> Html:
    figure, before, after = EVALUATION[name], base[name], adapter[name]
    better = figure.best_first(after) < figure.best_first(before)
    verdict = "" if after == before else "good" if better else "bad"
    drawn = charts.dumbbell(before, after, f"{figure.title} from 0 to 100 %") if figure.share else ""
    cells = [figure.text(before), tag("strong", figure.text(after))]
    change = markup.number(figure.change(before, after), verdict)
    return markup.row(figure.title, *map(markup.number, cells), change, tag("td", drawn))


def _served(run: Run) -> Html | None:
    smoke = run.result("serve", "smoke.json")
    if not smoke:
        return None
    return tag("p", f"Served: {served(smoke)}.", class_="lead after")


def _samples(run: Run) -> Html | None:
    path = run.folder / "artifacts" / "evaluate" / "samples.jsonl"
    if not path.is_file():
        return None
    with path.open(encoding="utf-8") as lines:
        samples = [json.loads(line) for line in itertools.islice(lines, _MOST_SAMPLES)]
    total = (run.result("evaluate", "report.json") or {}).get("examples", len(samples))
    shown = f"The first {len(samples)} of {total}; all of them: {path}" if total > len(samples) else None
    articles = (_sample(number, sample) for number, sample in enumerate(samples, 1))
    note = shown and tag("p", shown, class_="note")
    return joined([*_filters(samples), note, tag("div", *articles, class_="samples")])


def _filters(samples: list[dict[str, Any]]) -> Iterator[Html]:
    """Radio buttons; the style sheet hides what is not asked for."""
    for name, title in _FILTERS.items():
        count = sum(name in _kinds(sample) for sample in samples)
        checked = "checked" if name == "all" else None
        yield tag("input", type="radio", name="samples", id=f"samples-{name}", class_="filter", checked=checked)
        yield tag("label", f"{title} ", tag("span", count, class_="count"), for_=f"samples-{name}")


def _kinds(sample: dict[str, Any]) -> list[str]:
    base, adapter = sample["base"]["correct"], sample["adapter"]["correct"]
    return ["all", "right" if adapter else "wrong", *(["changed"] if bool(base) != bool(adapter) else [])]


def _sample(number: int, sample: dict[str, Any]) -> Html:
    answers = [
        _answer("Reference", sample["reference"], None),
        *(
            _answer(markup.capital(side), sample[side]["text"], bool(sample[side]["correct"]))
            for side in ("base", "adapter")
        ),
    ]
    prompt = tag("pre", sample["prompt"].strip(), class_="prompt", tabindex=0, aria_label="Prompt")
    content = [tag("h3", f"Example {number}"), prompt, tag("div", *answers, class_="answers")]
    return tag("article", *content, class_=f"sample {' '.join(_kinds(sample))}")


def _answer(who: str, text: str, right: bool | None) -> Html:
    mark = None
    if right is not None:
        mark = tag("span", "✓ right" if right else "✗ wrong", class_="good" if right else "bad")
    said = text.strip() or tag("i", "empty", class_="note")
    return tag("div", tag("h4", f"{who} ", mark), tag("pre", said, tabindex=0), class_=who.lower())


def _stages(run: Run) -> Html:
    happened, memory = run.stages(), _memory(run)
    longest = max((event.get("seconds", 0.0) for event in happened.values()), default=0.0) or 1.0
    headings = ["stage", "state", tag("th", "seconds", scope="col", class_="number")]
    if memory:
        headings.append(tag("th", "peak memory", scope="col", class_="number"))
    rows = (_stage(step, happened.get(step["stage"], {}), longest, memory) for step in run.plan["steps"])
    bars = tag("th", tag("span", "share of the longest", class_="hidden"), scope="col")
    return markup.table([*headings, bars], rows, class_="figures stages")


def _stage(step: dict[str, Any], event: dict[str, Any], longest: float, memory: dict[str, float]) -> Html:
    stage, state = step["stage"], event.get("state", "not reached")
    seconds = event["seconds"] if state == "finished" else None
    cells = [tag("td", state, class_={"failed": "bad", "finished": None}.get(state, "note"))]
    cells.append(markup.number("" if seconds is None else f"{seconds:,.1f}"))
    if memory:
        cells.append(markup.number(f"{memory[stage] / 2**20:,.0f} MiB" if stage in memory else ""))
    cells.append(tag("td", None if seconds is None else charts.bar(seconds / longest, f"{seconds:.1f} seconds")))
    return markup.row(joined([tag("b", stage), " ", tag("span", step["title"], class_="note")]), *cells)


def _memory(run: Run) -> dict[str, float]:
    """Peak memory of the stages that recorded it, bytes."""
    return {stage: event["peak_memory"] for stage, event in run.stages().items() if event.get("peak_memory")}


def _data(run: Run) -> Html | None:
    statistics = run.result("tokenize", "statistics.json")
    if not statistics:
        return None
    split = {name: statistics[name] for name in ("train", "eval") if name in statistics}
    names = dict.fromkeys(name for figures in split.values() for name in figures)
    rows = (_counts(name, [figures.get(name, 0) for figures in split.values()]) for name in names)
    headings = ["", *(tag("th", name, scope="col", class_="number") for name in split)]
    said = f"{run.recipe['dataset']['name']}, in sequences of {statistics['seq_len']:,} tokens."
    return joined([tag("p", said, class_="lead"), markup.table(headings, rows, class_="figures")])


def _counts(name: str, values: list[int]) -> Html:
    return markup.row(name.replace("_", " "), *(markup.number(f"{value:,}") for value in values))


def _messages(run: Run) -> Html | None:
    told: Iterable[dict[str, Any]] = (event for event in run.events() if event["event"] == "log")
    serious = [event for event in told if event["level"] in ("warning", "error")]
    lines = (tag("li", tag("b", f"{event['stage']}: "), event["message"]) for event in serious)
    return tag("ul", *lines) if serious else None
