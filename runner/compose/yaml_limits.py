"""What a YAML file of settings may contain: without limits, a few lines could take all memory, or hours."""

from __future__ import annotations

import yaml

_MOST_VALUES = 20_000  # with every alias written out
_DEEPEST = 30
_LONGEST = 200_000  # characters of one value
_MOST_DEFAULTS = 100


class Unusable(yaml.MarkedYAMLError):
    """Valid YAML that no recipe needs; the mark tells where it is."""

    def __init__(self, problem: str, mark: yaml.Mark) -> None:
        super().__init__(problem=problem, problem_mark=mark)


def check(node: yaml.Node) -> None:
    """Raises Unusable for a document that is too large, with its aliases written out, or too deep."""
    _count(node, 0, 0)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == "defaults":
                _check_defaults(value)


def _count(node: yaml.Node, values: int, depth: int) -> int:
    """The number of values when those of `node` are added. Stops at the limit, as aliases may nest."""
    if depth > _DEEPEST:
        raise Unusable(f"nested more than {_DEEPEST} levels deep", node.start_mark)
    if values >= _MOST_VALUES:
        raise Unusable(f"more than {_MOST_VALUES} values", node.start_mark)
    if isinstance(node, yaml.ScalarNode):
        if len(node.value) > _LONGEST:
            raise Unusable(f"a value of {len(node.value)} characters; the longest may have {_LONGEST}", node.start_mark)
        return values + 1
    below = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
    for part in below:
        values = _count(part, values, depth + 1)
    return values + 1


def _check_defaults(node: yaml.Node) -> None:
    if not isinstance(node, yaml.SequenceNode):
        raise Unusable("defaults: must be a list, such as [base, _self_]", node.start_mark)
    if len(node.value) > _MOST_DEFAULTS:
        raise Unusable(f"defaults: {len(node.value)} entries; at most {_MOST_DEFAULTS} are possible", node.start_mark)
