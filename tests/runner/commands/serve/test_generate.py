"""`runner generate`: the command line, and where it is run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from served_runs import a_run

from runner.cli import main
from runner.commands.serve.generate import Questions, plan_of
from runner.errors import RecipeError
from runner.plan.model import Plan
from runner.record.runs import Run, every


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "my rows.jsonl"
    path.write_text('{"prompt": "CREATE TABLE"}\n')
    return path


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """What stands for a model and an adapter where neither is loaded."""
    for name in ("model", "adapter"):
        (tmp_path / name).mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    return tmp_path / "model", tmp_path / "adapter"


def elsewhere(run: Run, **target: object) -> Run:
    """The run as if it lay on another machine."""
    recipe, file = run.recipe, run.folder / "recipe.yaml"
    recipe["target"].update(target)
    file.write_text(json.dumps(recipe))
    (run.folder / "plan.json").write_text(json.dumps({**run.plan, "store": "store"}))
    for link in (run.folder / "artifacts").iterdir():
        link.unlink()
    return Run(run.folder)


def planned(folder: Path, rows: Path, *runs: Run, **how: int) -> Plan:
    return plan_of(runs, Questions(rows, **how), folder / "runs")[1]


def value_of(words: tuple[str, ...], flag: str) -> str:
    return words[words.index(flag) + 1]


def test_one_run_is_asked_by_the_names_of_its_recipe(tmp_path: Path, rows: Path, files) -> None:
    run = a_run(tmp_path, *files)
    [step] = planned(tmp_path, rows, run, top_k=3).steps
    exported = tmp_path / "store" / "objects" / f"export-{1:016x}" / "adapter"
    assert value_of(step.argv, "--adapter") == f"adapter={exported}"
    assert (value_of(step.argv, "--engine"), value_of(step.argv, "--prompts")) == ("embedded", str(rows))
    assert (value_of(step.argv, "--max-tokens"), value_of(step.argv, "--top-k")) == ("96", "3")
    assert value_of(step.argv, "--template").endswith("template.json")
    assert "--no-base" not in step.argv and "--generation" not in step.argv and not step.cached


def test_several_runs_are_asked_by_their_own_names(tmp_path: Path, rows: Path, files) -> None:
    one, two = (a_run(tmp_path, *files, number=number) for number in (1, 2))
    argv = planned(tmp_path, rows, one, two).steps[0].argv
    named = [argv[place + 1].partition("=")[0] for place, word in enumerate(argv) if word == "--adapter"]
    assert named == [one.name, two.name]
    other = a_run(tmp_path, *files, base="b", number=3)
    with pytest.raises(RecipeError, match=f"{other.name}: has a different base model than {one.name}"):
        planned(tmp_path, rows, one, other)


def test_vllm_answers_in_the_python_or_the_container_that_has_it(tmp_path: Path, rows: Path, files) -> None:
    run = a_run(tmp_path, *files, "serve=vllm", "sdk.serve_python=/venv/bin/python")
    argv = planned(tmp_path, rows, run, max_tokens=7).steps[0].argv
    assert argv[0] == "/venv/bin/python"
    assert (value_of(argv, "--generation"), value_of(argv, "--max-tokens")) == ("cpu", "7")
    run = a_run(tmp_path, *files, "serve=vllm", "sdk.serve_python=/venv/bin/python", "serve.image=vllm:1")
    argv = planned(tmp_path, rows, run).steps[0].argv
    assert value_of(argv, "--image") == "vllm:1" and argv[0] != "/venv/bin/python"


def test_a_merged_model_has_no_base_beside_it(tmp_path: Path, rows: Path, files) -> None:
    words = ["serve=vllm", "sdk.serve_python=python", "sdk.vllm_lora=false"]
    (tmp_path / "exported-1" / "merged").mkdir(parents=True)
    run = a_run(tmp_path, *files, *words)
    argv = planned(tmp_path, rows, run).steps[0].argv
    assert value_of(argv, "--model").endswith("/merged") and "--adapter" not in argv
    with pytest.raises(RecipeError, match="serves only merged models"):
        planned(tmp_path, rows, run, run)


@pytest.mark.parametrize("kind", ["ssh", "slurm", "ray"])
def test_runs_elsewhere_are_asked_where_they_are(tmp_path: Path, rows: Path, files, kind: str) -> None:
    run = a_run(tmp_path, *files, "sdk.train_python=/opt/bin/python")
    run = elsewhere(run, kind=kind, host="trn-a")
    plan = planned(tmp_path, rows, run)
    argv = plan.steps[0].argv
    assert argv[0] == "/opt/bin/python" and argv[1].startswith("code/")
    assert value_of(argv, "--model") == "store/objects/fetch-a"
    assert plan.carried == {value_of(argv, "--prompts"): str(rows)}
    assert bool(plan.job) == (kind != "ssh")


def test_on_kubernetes_the_pod_has_the_image_that_serves(tmp_path: Path, rows: Path, files) -> None:
    run = a_run(tmp_path, *files, "serve=vllm", "sdk.serve_python=python")
    cluster = {"image": "train:1", "serve_image": "vllm:1", "access_image": "python:3", "claim": "data"}
    run = elsewhere(run, kind="kubernetes", kubernetes={**run.recipe["target"]["kubernetes"], **cluster})
    composed, plan = plan_of([run], Questions(rows), tmp_path / "runs")
    assert composed.recipe.target.kubernetes.image == "vllm:1"
    assert plan.steps[0].argv[0] == composed.recipe.target.python


def test_a_later_step_is_checked_as_a_whole_run_is(tmp_path: Path, rows: Path, files) -> None:
    run = a_run(tmp_path, *files, "serve=vllm", "sdk.serve_python=python")
    cluster = {"image": "train:1", "access_image": "python:3", "claim": "data"}
    run = elsewhere(run, kind="kubernetes", kubernetes={**run.recipe["target"]["kubernetes"], **cluster})
    with pytest.raises(RecipeError, match="target.kubernetes.serve_image: serve=vllm needs an image with vLLM"):
        planned(tmp_path, rows, run)


def test_answers_are_in_a_record_and_where_one_wants_them(tmp_path, rows, tiny_model, tiny_adapter) -> None:
    run = a_run(tmp_path, tiny_model, tiny_adapter, "serve=embedded")
    out = tmp_path / "out"
    words = ["generate", run.name, "--prompts", str(rows), "--max-tokens", "4", "--output", str(out)]
    assert main([*words, "--in", str(tmp_path / "runs")]) == 0
    made = every(tmp_path / "runs")[-1]
    assert made.state == "finished" and made.name.endswith("-generate-quickstart")
    for folder in (out, made.folder / "artifacts" / "generate"):
        [line] = (folder / "answers.jsonl").read_text().splitlines()
        assert list(json.loads(line)["answers"]) == ["base", "adapter"]
    assert json.loads((out / "summary.json").read_text())["questions"] == 1


def test_a_file_that_is_not_there_is_refused_before_any_work(tmp_path: Path, files) -> None:
    run = a_run(tmp_path, *files)
    assert main(["generate", run.name, "--prompts", "none.jsonl", "--in", str(tmp_path / "runs")]) == 2
    assert len(every(tmp_path / "runs")) == 1
