"""Editors get a schema that accepts what the runner accepts."""

from __future__ import annotations

import dataclasses

from runner.compose.groups import list_groups
from runner.compose.json_schema import json_schema
from runner.compose.recipe import compose


def described(schema: dict, values: dict) -> bool:
    """Whether every key of `values` is a property of the schema."""
    return all(
        name in schema["properties"]
        and (not isinstance(value, dict) or "properties" not in schema["properties"][name]
             or described(schema["properties"][name], value))
        for name, value in values.items()
    )  # fmt: skip


def test_the_schema_describes_a_composed_recipe() -> None:
    schema = json_schema()
    assert described(schema, dataclasses.asdict(compose("quickstart").recipe))
    rank = schema["properties"]["train"]["properties"]["lora"]["properties"]["rank"]
    assert rank == {"description": rank["description"], "minimum": 1, "maximum": 1024, "type": "integer"}


def test_the_defaults_list_names_every_option() -> None:
    text = json_schema()["properties"]["defaults"]["description"]
    for group, options in list_groups().items():
        assert f"override {group}: {' | '.join(options)}" in text


def test_optional_keys_take_null_and_open_mappings_take_any_key() -> None:
    properties = json_schema()["properties"]
    assert properties["model"]["properties"]["revision"]["type"] == ["string", "null"]
    where = properties["dataset"]["properties"]["where"]
    assert where["type"] == "object" and where["additionalProperties"] == {"type": "string"}


def test_a_list_of_choices_limits_its_items() -> None:
    targets = json_schema()["properties"]["train"]["properties"]["lora"]["properties"]["targets"]
    assert targets["minItems"] == 1 and "q_proj" in targets["items"]["enum"]
