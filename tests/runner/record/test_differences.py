"""The keys in which recipes differ."""

from __future__ import annotations

from runner.record.differences import differing, flat


def test_only_keys_that_differ_with_a_value_for_each_recipe() -> None:
    recipes = [{"train": {"rank": 8, "seed": 1}}, {"train": {"rank": 4, "seed": 1}, "new": True}]
    assert differing(recipes) == {"train.rank": [8, 4], "new": [None, True]}
    assert differing(recipes[:1]) == {}


def test_nested_mappings_become_dotted_keys() -> None:
    assert flat({"a": {"b": {"c": 1}, "d": [2]}, "e": {}}) == {"a.b.c": 1, "a.d": [2]}
