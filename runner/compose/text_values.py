"""Keeps values of string keys as they are written: YAML and Hydra would turn 1.10 into 1.1, and yes into true.

Both convert a value without knowing its key. Here the schema tells which keys are strings: their YAML scalars get the
tag of a string before they are converted, and their values in overrides get quotes.
"""

from __future__ import annotations

import copy
import typing
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.grammar.gen.OverrideLexer import (  # type: ignore[attr-defined]
    CommonTokenStream,
    InputStream,
    OverrideLexer,
)
from hydra.grammar.gen.OverrideParser import OverrideParser
from hydra.plugins.config_source import ConfigResult
from omegaconf import OmegaConf
from omegaconf._utils import get_yaml_loader

from runner.compose import yaml_limits
from runner.compose.schema import Recipe
from runner.compose.validate import item_of, type_of

_STRING, _NULL, _MERGE = "tag:yaml.org,2002:str", "tag:yaml.org,2002:null", "tag:yaml.org,2002:merge"
_NOT_STRINGS = (OverrideLexer.INT, OverrideLexer.FLOAT, OverrideLexer.BOOL, OverrideLexer.NULL)
_VALUE_FUNCTIONS = ("choice", "shuffle", "tag")  # functions whose arguments are values of the key


class RecipeFiles(FileConfigSource):
    """A Hydra config source: a folder of YAML files, read with `load_yaml`."""

    @staticmethod
    def scheme() -> str:
        """The prefix of search path entries that use this source: `recipe://FOLDER`."""
        return "recipe"

    def load_config(self, config_path: str) -> ConfigResult:
        """The content of a file, with the header that names its package."""
        file = Path(self.path, self._normalize_file_name(config_path))
        if not file.is_file():
            return super().load_config(config_path)  # raises Hydra's error
        text = text_of(file)
        header = self._get_header_dict(text[:512])
        package = header.get("package") or config_path.rpartition("/")[0]
        config = OmegaConf.create(load_yaml(text, package, str(file)))
        return ConfigResult(self.provider, f"{self.scheme()}://{self.path}", config, header)


def text_of(file: Path) -> str:
    """The text of a YAML file. Raises YAMLError if it is not in UTF-8."""
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        line = file.read_bytes()[: error.start].count(b"\n")
        mark = yaml.Mark(str(file), 0, line, 0, None, 0)
        raise yaml_limits.Unusable("not in UTF-8; save it in that encoding", mark) from error


def load_yaml(source: str, package: str = "", file: str = "") -> dict[str, Any]:
    """The values of a YAML text that holds the section `package` of a recipe, or by default a whole recipe.

    Raises YAMLError, which names the `file`.

    >>> load_yaml("name: 010\\nwhere: {zip: 01234, answer: yes}\\nseed: 7", "dataset")
    {'name': '010', 'where': {'zip': '01234', 'answer': 'yes'}, 'seed': 7}
    """
    return copy.deepcopy(_parsed(source, package, file))


@lru_cache(maxsize=256)  # Hydra reads each file, and then `compose` looks for the one that set a key
def _parsed(source: str, package: str, file: str) -> dict[str, Any]:
    loader = get_yaml_loader()(source)
    loader.name = file or loader.name
    try:
        node = loader.get_single_node()
        if node is None:
            return {}
        yaml_limits.check(node)
        _tag(node, type_of_key(package) or Recipe)
        return loader.construct_document(node)
    except RecursionError as error:
        raise yaml.YAMLError("nested too deeply") from error
    except ValueError as error:  # of int(): a number with thousands of digits
        raise yaml.YAMLError(str(error).partition(";")[0]) from error


def type_of_key(key: str) -> Any:
    """The type of a dotted key; None if it is not in the schema."""
    hint: Any = Recipe
    for name in key.split("."):
        hint = type_of(hint, name)
    return hint


def _tag(node: yaml.Node, hint: Any) -> None:
    """Give the scalars of all string keys the tag of a string.

    A null of a known key means that it is not set; in a mapping or a list, it is a string too.
    """
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.tag == _MERGE:
                for merged in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                    _tag(merged, hint)
                continue
            if isinstance(key, yaml.ScalarNode) and typing.get_origin(hint) is dict:
                key.tag = _STRING
            _tag_value(value, type_of(hint, str(key.value)), null_is_string=typing.get_origin(hint) is dict)
    elif isinstance(node, yaml.SequenceNode) and item_of(hint):
        for item in node.value:
            _tag_value(item, item_of(hint), null_is_string=True)


def _tag_value(node: yaml.Node, hint: Any, null_is_string: bool) -> None:
    if not isinstance(node, yaml.ScalarNode):
        _tag(node, hint)
    elif _is_string(hint) and (null_is_string or node.tag != _NULL):
        node.tag = _STRING


def _is_string(hint: Any) -> bool:
    return hint is str or str in typing.get_args(hint) and typing.get_origin(hint) not in (list, dict)


def quoted(override: str) -> str:
    """An override with quotes around the strings that Hydra would convert to another type.

    >>> quoted("model.revision=1.10"), quoted("dataset.where={zip: 010, flag: true}"), quoted("train.seed=1")
    ("model.revision='1.10'", "dataset.where={zip: 010, flag: 'true'}", 'train.seed=1')
    """
    tree: Any = OverrideParser(CommonTokenStream(OverrideLexer(InputStream(override)))).override()
    if tree.value() is None:
        return override
    key = tree.key().getText()
    null_is_string = typing.get_origin(type_of_key(key.rpartition(".")[0])) is dict
    for start, stop in sorted(_unquoted(tree.value(), type_of_key(key), null_is_string), reverse=True):
        override = f"{override[:start]}'{override[start:stop]}'{override[stop:]}"
    return override


def _unquoted(tree: Any, hint: Any, null_is_string: bool) -> Iterator[tuple[int, int]]:
    """The start and end of each string in an override that Hydra would convert to another type."""
    rule = tree.getRuleIndex()
    if rule == OverrideParser.RULE_primitive:
        tokens = [child.symbol for child in tree.getChildren() if child.symbol.type != OverrideLexer.WS]
        kind = tokens[0].type
        is_converted = len(tokens) == 1 and kind in _NOT_STRINGS and (null_is_string or kind != OverrideLexer.NULL)
        if _is_string(hint) and is_converted:
            yield tokens[0].start, tokens[0].stop + 1
    elif rule == OverrideParser.RULE_dictContainer:
        for pair in tree.dictKeyValuePair():
            name = pair.dictKey().getText()
            yield from _unquoted(pair.element(), type_of(hint, name), typing.get_origin(hint) is dict)
    elif rule == OverrideParser.RULE_listContainer:
        for element in tree.element():
            yield from _unquoted(element, item_of(hint), True)
    elif rule != OverrideParser.RULE_function or tree.ID().getText() in _VALUE_FUNCTIONS:
        for child in tree.getChildren():
            if not hasattr(child, "symbol"):
                yield from _unquoted(child, hint, null_is_string)
