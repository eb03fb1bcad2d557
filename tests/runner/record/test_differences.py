"""The keys in which recipes differ."""

from __future__ import annotations

from runner.record.differences import as_written, differing, flat


def test_only_keys_that_differ_with_a_value_for_each_recipe() -> None:
    recipes = [{"train": {"rank": 8, "seed": 1}}, {"train": {"rank": 4, "seed": 1}, "new": True}]
    assert differing(recipes) == {"train.rank": [8, 4], "new": [None, True]}
    assert differing(recipes[:1]) == {}


def test_nested_mappings_become_dotted_keys() -> None:
    assert flat({"a": {"b": {"c": 1}, "d": [2]}, "e": {}}) == {"a.b.c": 1, "a.d": [2]}


def test_values_are_written_as_in_a_recipe() -> None:
    values = [None, True, False, 8, 1e-05, 0.0002, [None, "ö"], "None", "a: b"]
    assert list(map(as_written, values)) == [
        "null", "true", "false", "8", "1e-05", "0.0002", '[null, "ö"]', "None", "a: b",
    ]  # fmt: skip
