"""Errors of user input, and suggestions for misspelt names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class RecipeError(Exception):
    """Invalid input, found before any work. Its message is one line: the file, the key and what to try."""


# Names that other trainers use.
_SYNONYMS = {
    "lr": "learning_rate", "num_epochs": "epochs", "num_train_epochs": "epochs", "steps": "max_steps",
    "per_device_train_batch_size": "train.batch_size", "micro_batch_size": "train.batch_size",
    "gradient_accumulation_steps": "accumulate", "lora_r": "rank", "lora_rank": "rank", "lora_alpha": "alpha",
    "lora_dropout": "dropout", "target_modules": "targets", "lr_scheduler_type": "schedule",
    "max_length": "seq_len", "max_seq_length": "seq_len", "tensor_parallel_size": "tp_size",
}  # fmt: skip


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """The end of an error message: the closest known name, or all of them if they are few.

    >>> did_you_mean("tp_sise", ["tp_size", "epochs"])
    'did you mean tp_size?'
    """
    names = sorted(known)
    nearest = _same_leaf(wrong, names) or difflib.get_close_matches(wrong, names, n=1) or _like_leaf(wrong, names)
    if nearest:
        return f"did you mean {nearest[0]}?"
    if not names:
        return "none exist yet"
    return f"choose from: {', '.join(names)}" if len(names) <= 20 else "see `runner options` for all keys"


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]


def _same_leaf(wrong: str, names: list[str]) -> list[str]:
    """Names whose last part is that of `wrong` or a synonym: `lora_r` and `rank` find `train.lora.rank`."""
    wanted = _SYNONYMS.get(_leaf(wrong), _leaf(wrong))
    matches = [name for name in names if _leaf(name) == _leaf(wanted)]
    return sorted(matches, key=lambda name: not name.endswith(wanted))


def _like_leaf(wrong: str, names: list[str]) -> list[str]:
    leaves = {_leaf(name): name for name in names}
    return [leaves[leaf] for leaf in difflib.get_close_matches(_leaf(wrong), leaves, n=1, cutoff=0.75)]
