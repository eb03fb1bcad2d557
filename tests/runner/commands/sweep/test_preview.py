"""`runner plan -m`: what a sweep runs and costs."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import runner

TRN2 = ["llama3_8b_dolly_trn2", "train.max_steps=100", "train.lora.alpha=8,16,32"]


def shown(folder: Path, *words: str) -> dict[str, str]:
    """The lines of `runner plan -m` by their first words, with single spaces."""
    done = runner(folder, "plan", "-m", *words)
    assert done.returncode == 0, done.stderr
    assert max(map(len, map(str.rstrip, done.stdout.splitlines()))) <= 80
    lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    return {line.partition("  ")[0]: " ".join(line.partition("  ")[2].split()) for line in lines}


def test_shared_stages_are_counted_once_and_nothing_is_written(tmp_path: Path) -> None:
    lines = shown(tmp_path, *TRN2, "train.learning_rate=1e-4,2e-4,4e-4")
    assert lines["compile"].startswith("1 of 9 trials") and lines["convert"] == "9 1 0 1"
    assert lines["train"] == "9 9 0 9"
    assert lines["training steps"] == "900 in 9 trainings"
    assert not list(tmp_path.iterdir())


def test_other_programs_are_compiled_for_each_rank(tmp_path: Path) -> None:
    assert shown(tmp_path, *TRN2, "train.lora.rank=8,16")["compile"].startswith("2 of 6 trials")


def test_the_cost_is_that_of_all_trainings_and_less_with_a_pruner(tmp_path: Path) -> None:
    def dollars(*words: str) -> tuple[float, float]:
        low, high = shown(tmp_path, *TRN2, *words)["training cost"].replace("$", "").split(" to ")
        return float(low), float(high)

    all_, one = dollars(), dollars("train.max_steps=300", "train.lora.alpha=8")
    assert all_ == pytest.approx(one, abs=0.02)
    pruned = dollars("train.eval_every=10", "sweep.pruner=successive_halving")
    assert pruned == pytest.approx((all_[0] * (100 + 2 * 10) / 300, all_[1]), abs=0.02)


def test_without_a_number_of_steps_no_time_is_claimed(tmp_path: Path) -> None:
    lines = shown(tmp_path, "quickstart", "train.seed=1,2")
    assert lines["training steps"] == "known when the rows are tokenized (packing decides)"
    assert "training time" not in lines


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train.seed=1,2", "sweep.pruner=successive_halving"], "train.eval_every"),
        (["train.lora.rank=4,0"], "trial 1 (train.lora.rank=0): "),
        (["tp_sise=1,2"], "tp_size"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, words: list[str], message: str) -> None:
    done = runner(tmp_path, "plan", "-m", "quickstart", *words)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert message in done.stderr
