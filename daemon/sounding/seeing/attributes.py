"""Attributes of a run (learning rate, width, seed …) from its path, from files beside it and from its checkpoints."""

import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath

import yaml

from sounding.formats.proof import ImpossibleError, opened, size_of
from sounding.formats.scalars import number
from sounding.records import Attribute, Opaque, Sighting, TensorRef

_INSIDE = "checkpoint:"
_MOST_BYTES = 1 << 20
_MOST_ATTRIBUTES = 2000
_MOST_VISITS = 20_000  # of nested values: a small YAML file can refer to one list a billion times
_MOST_TEXT = 1000  # characters
_DEEPEST = 10
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_Scalar = bool | int | float | str | None


class _AsData(yaml.SafeLoader):
    """Reads what Python objects were dumped as (a Namespace, a tuple, a path); makes none of them."""


def _dumped(loader: _AsData, suffix: str, node: yaml.Node) -> object:
    """A mapping for an object's attributes, its only argument for an object that is called into being."""
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        items = loader.construct_sequence(node, deep=True)
        return items[0] if len(items) == 1 else items
    assert isinstance(node, yaml.ScalarNode)
    return loader.construct_scalar(node) or suffix.partition(":")[2]


_AsData.add_multi_constructor("tag:yaml.org,2002:python/", _dumped)


def find_attributes(
    sighting: Sighting, sources: Sequence[str], root: str, tree: object
) -> tuple[tuple[Attribute, ...], tuple[str, ...]]:
    """Attributes of the run, and the problems met in words.

    A source that does not exist is no problem; one that cannot be read is. The same key from two sources is kept
    twice, for a person to see the conflict.
    """
    found = [attribute(key, value, "path") for key, value in sorted(sighting.parts.items())]
    problems: list[str] = []
    for source in sources:
        try:
            pairs = _pairs_of(source, sighting, root, tree)
        except (ValueError, ImpossibleError, RecursionError, OSError) as error:
            problems.append(f"{source}: {str(error)[:200] or type(error).__name__}")
            continue
        if len(pairs) > _MOST_ATTRIBUTES:
            problems.append(f"{source}: more than {_MOST_ATTRIBUTES} values; only the first were taken")
        found.extend(attribute(key, value, source) for key, value in pairs[:_MOST_ATTRIBUTES])
    return tuple(found), tuple(problems)


def attribute(key: str, value: _Scalar, source: str) -> Attribute:
    """A named value as number, where it is one (true is 1, "1e-3" is 0.001), and as text."""
    if value is None:
        return Attribute(key, None, "null", source)
    if isinstance(value, bool):
        return Attribute(key, float(value), "true" if value else "false", source)
    if isinstance(value, str):
        finite = number(float(value)) if _NUMBER.fullmatch(value.strip()) else None
        text = value if len(value) <= _MOST_TEXT else f"{value[:_MOST_TEXT]}…"
        return Attribute(key, finite, text, source)
    finite = number(value)
    text = f"a whole number of {value.bit_length()} bits" if finite is None and isinstance(value, int) else str(value)
    return Attribute(key, None if finite is None else float(finite), text, source)


def _pairs_of(source: str, sighting: Sighting, root: str, tree: object) -> list[tuple[str, _Scalar]]:
    if source.startswith(_INSIDE):
        return list(_flat(_follow(tree, source.removeprefix(_INSIDE))))
    path = Path(root) / source.replace("{run}", sighting.run)
    if ".." in PurePath(sighting.run).parts:
        raise ValueError(f"the run's name {sighting.run} leads out of the store")
    return list(_flat(_parsed(path))) if path.exists() else []


def _parsed(path: Path) -> object:
    with opened(path) as file:
        if size_of(file) > _MOST_BYTES:
            raise ValueError(f"{path} is larger than {_MOST_BYTES} bytes; attributes are read from small files")
        text = file.read(_MOST_BYTES + 1).decode("utf-8")
    if path.suffix in (".yaml", ".yml"):
        try:
            return yaml.load(text, _AsData)
        except yaml.YAMLError as error:
            raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if path.suffix == ".json":
        return json.loads(text)
    if path.suffix == ".toml":
        return tomllib.loads(text)
    raise ValueError(f"{path} is neither .yaml, .json nor .toml")


def _follow(tree: object, dotted: str) -> object:
    """The value under a dotted key of the checkpoint; an empty one when there is none."""
    for key in dotted.split("."):
        tree = _entries(tree).get(key, {})
    return tree


def _flat(value: object) -> Iterator[tuple[str, _Scalar]]:
    """Scalars by dotted key. Lists are left out: an attribute is one value."""
    visits = 0
    waiting: list[tuple[str, object, int]] = [("", value, 0)]
    while waiting:
        key, item, depth = waiting.pop()
        visits += 1
        if visits > _MOST_VISITS:
            raise ValueError(f"more than {_MOST_VISITS} nested values")
        item = _simplified(item)
        if key and (item is None or isinstance(item, (bool, int, float, str))):
            yield key, item
        elif depth < _DEEPEST:
            prefix = f"{key}." if key else ""
            inner = [(f"{prefix}{name}", part, depth + 1) for name, part in _entries(item).items()]
            waiting.extend(reversed(inner))


def _simplified(item: object) -> object:
    """The value that a wrapper stands for: one-element tensors, enumerations, OmegaConf nodes."""
    if isinstance(item, TensorRef):
        found = number(item)
        return {} if found is None else found
    if isinstance(item, Opaque) and item.state is None:  # a class, a function or a member of an enumeration
        return item.class_name
    if isinstance(item, Opaque) and isinstance(item.state, Mapping):
        if "_val" in item.state:
            return item.state["_val"]
        args = item.state.get("args")
        if isinstance(args, tuple) and len(args) == 1 and len(item.state) == 1:
            return args[0]
    return item


def _entries(item: object) -> Mapping[str, object]:
    if isinstance(item, Opaque):
        item = item.state
        if isinstance(item, Mapping) and isinstance(item.get("_content"), Mapping):  # OmegaConf
            item = item["_content"]
    if not isinstance(item, Mapping):
        return {}
    return {str(name): part for name, part in item.items() if isinstance(name, (str, int))}
