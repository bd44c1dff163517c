"""The probe: the fixed data a run is measured on, split, named and hashed."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeAlias

import torch
from torch.utils.data import default_collate

from sounding.digest import digest_of
from sounding.errors import SoundingError

Data: TypeAlias = Any  # (inputs, targets), or a map-style Dataset; inputs a tensor, or a dict or tuple of tensors
PerExample: TypeAlias = Any  # a sequence as long as the train split, or a mapping from split to such a sequence
TRAIN = "train"
HELDOUT = "heldout"

_WRITE = "write Probe(train=(inputs, targets), heldout=(inputs, targets)) or give map-style Datasets"


@dataclass(frozen=True, eq=False)
class Split:
    """One split of a probe; batches are cut from it by position."""

    name: str
    size: int
    data: Data
    collate: Callable[[list[Any]], Any] | None

    def batch(self, start: int, stop: int) -> tuple[Any, Any]:
        """Inputs and targets of the examples from `start` up to `stop`."""
        return self._taken(slice(start, stop), range(start, stop))

    def take(self, positions: Sequence[int]) -> tuple[Any, Any]:
        """Inputs and targets of the examples at these positions."""
        return self._taken(torch.as_tensor(positions), positions)

    def _taken(self, rows: "slice | torch.Tensor", positions: Sequence[int]) -> tuple[Any, Any]:
        if isinstance(self.data, tuple):
            return rows_of(self.data[0], rows), rows_of(self.data[1], rows)
        items = [self.data[index] for index in positions]
        batch = (self.collate or default_collate)(items)
        if isinstance(batch, Mapping) and "labels" in batch:
            return {key: value for key, value in batch.items() if key != "labels"}, batch["labels"]
        if isinstance(batch, list | tuple) and len(batch) == 2:
            return batch[0], batch[1]
        raise SoundingError(
            f"a batch of the probe's {self.name} split is {_shape_of(batch)}, expected (inputs, targets) or a dict "
            "with `labels`; give Probe a `collate` that returns (inputs, targets)."
        )

    def inputs(self) -> Iterator[object]:
        """What the model receives, in units that hash alike whatever the batch size."""
        return iter([self.data[0]]) if isinstance(self.data, tuple) else (self._item(i)[0] for i in range(self.size))

    def targets(self) -> Iterator[object]:
        """The labels as trained on, in the same units."""
        return iter([self.data[1]]) if isinstance(self.data, tuple) else (self._item(i)[1] for i in range(self.size))

    def _item(self, index: int) -> tuple[object, object]:
        item = self.data[index]
        if isinstance(item, Mapping):
            return {key: value for key, value in item.items() if key != "labels"}, item.get("labels")
        if isinstance(item, list | tuple) and len(item) == 2:
            return item[0], item[1]
        return item, None


@dataclass(frozen=True, eq=False)
class Probe:
    """The data a run is measured on.

    A split is an `(inputs, targets)` pair of tensors (inputs may be a dict or tuple of tensors) or any map-style
    `Dataset`. `targets` are the labels as trained on, `true_targets` the clean ones; `member` marks what this run
    was trained on; `groups` and `flags` name per-example values that end up beside every per-example result. Each
    per-example value is a sequence as long as the train split, or a mapping from split to such a sequence. With
    `unit="token"` the loss is per token and the mean is weighted by token. `train_view(i, seed)` gives example i as
    training augments it. Raises SoundingError when the parts do not fit together.
    """

    train: Data
    heldout: Data = None
    ids: PerExample = None
    groups: Mapping[str, PerExample] | None = None
    flags: Mapping[str, PerExample] | None = None
    collate: Callable[[list[Any]], Any] | None = None
    unit: Literal["example", "token"] = "example"
    true_targets: PerExample = None
    member: PerExample = None
    train_view: Callable[[int, int], Any] | None = None

    def __post_init__(self) -> None:
        if self.unit not in ("example", "token"):
            raise SoundingError(f'the probe\'s unit is {self.unit!r}, expected "example" or "token".')
        sizes = {name: split.size for name, split in self.splits.items()}
        for what, value in self._per_example():
            for name, values in _by_split(value).items():
                if name not in sizes:
                    raise SoundingError(f"the probe's {what} names a split {name!r}; there are: {', '.join(sizes)}.")
                if len(values) != sizes[name]:
                    raise SoundingError(
                        f"the probe's {what} has {len(values)} values for the {name} split of {sizes[name]} examples; "
                        "give one per example."
                    )

    @cached_property
    def splits(self) -> Mapping[str, Split]:
        """Splits by name, train first."""
        given = {TRAIN: self.train, HELDOUT: self.heldout}
        return {name: _split(name, data, self.collate) for name, data in given.items() if data is not None}

    def ids_of(self, split: str) -> Sequence[Any]:
        """Ids of a split's examples: those given, else positions."""
        given = _by_split(self.ids).get(split)
        return range(self.splits[split].size) if given is None else _listed(given)

    def groups_of(self, split: str) -> Mapping[str, Sequence[Any]]:
        """Per-example groups of a split, by name."""
        return _named(self.groups, split)

    def flags_of(self, split: str) -> Mapping[str, Sequence[Any]]:
        """Per-example flags of a split, by name."""
        return _named(self.flags, split)

    @cached_property
    def inputs_hash(self) -> str:
        """Digest of all inputs; runs with equal ones can be joined by example id."""
        return digest_of(part for name, split in self.splits.items() for part in (name, *split.inputs()))

    @cached_property
    def targets_hash(self) -> str:
        """Digest of the labels as trained on."""
        return digest_of(part for name, split in self.splits.items() for part in (name, *split.targets()))

    @cached_property
    def ids_hash(self) -> str:
        """Digest of the example ids."""
        return digest_of(part for name in self.splits for part in (name, list(self.ids_of(name))))

    @cached_property
    def membership_hash(self) -> str:
        """Digest of the mask of what this run was trained on."""
        return digest_of([_plain(self.member)])

    @cached_property
    def hash(self) -> str:
        """Digest of everything that can change a measurement, code excepted."""
        rest = [_plain(self.groups), _plain(self.flags), _plain(self.true_targets), self.unit]
        return digest_of([self.inputs_hash, self.targets_hash, self.ids_hash, self.membership_hash, *rest])

    def _per_example(self) -> Iterator[tuple[str, PerExample]]:
        yield from (("ids", self.ids), ("true_targets", self.true_targets), ("member", self.member))
        for kind, named in (("groups", self.groups), ("flags", self.flags)):
            if named is not None and not isinstance(named, Mapping):
                raise SoundingError(f'the probe\'s {kind} must map names to values, e.g. {kind}={{"name": values}}.')
            yield from ((f"{kind}[{name!r}]", value) for name, value in (named or {}).items())


def _split(name: str, data: Data, collate: Callable[[list[Any]], Any] | None) -> Split:
    if isinstance(data, list | tuple) and len(data) == 2:
        pair = (_tensors(data[0]), _tensors(data[1]))
        lengths = {len(leaf) for leaf in (*_leaves(pair[0]), *_leaves(pair[1]))}
        if len(lengths) != 1:
            raise SoundingError(f"inputs and targets of the probe's {name} split differ in length: {sorted(lengths)}.")
        size = lengths.pop()
    elif hasattr(data, "__len__") and hasattr(data, "__getitem__") and not isinstance(data, torch.Tensor | Mapping):
        pair, size = data, len(data)
    else:
        raise SoundingError(f"the probe's {name} split is {_shape_of(data)}; {_WRITE}.")
    if size == 0:
        raise SoundingError(f"the probe's {name} split is empty; a few hundred examples are a good start.")
    return Split(name, size, pair, collate)


def _tensors(value: Any) -> Any:
    """`value` with tensors at its leaves; arrays and lists of numbers are taken as tensors."""
    if isinstance(value, torch.Tensor):
        if value.ndim == 0:
            raise SoundingError("the probe holds a tensor without dimensions; the first dimension counts examples.")
        return value
    if isinstance(value, Mapping):
        return {key: _tensors(each) for key, each in value.items()}
    if isinstance(value, tuple):
        return tuple(_tensors(each) for each in value)
    try:
        return _tensors(torch.as_tensor(value))
    except (TypeError, ValueError, RuntimeError) as error:
        raise SoundingError(
            f"the probe holds a {type(value).__name__} where a tensor is expected; {_WRITE}."
        ) from error


def _leaves(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    return [leaf for each in (value.values() if isinstance(value, Mapping) else value) for leaf in _leaves(each)]


def rows_of(value: Any, rows: "slice | torch.Tensor") -> Any:
    """The same inputs or targets, of some examples only."""
    if isinstance(value, torch.Tensor):
        return value[rows]
    if isinstance(value, Mapping):
        return {key: rows_of(each, rows) for key, each in value.items()}
    return tuple(rows_of(each, rows) for each in value)


def _by_split(value: PerExample) -> Mapping[str, Any]:
    if value is None:
        return {}
    return value if isinstance(value, Mapping) else {TRAIN: value}


def _named(values: Mapping[str, PerExample] | None, split: str) -> Mapping[str, Sequence[Any]]:
    found = {name: _by_split(value).get(split) for name, value in (values or {}).items()}
    return {name: _listed(value) for name, value in found.items() if value is not None}


def _listed(values: Any) -> Sequence[Any]:
    return list(values.tolist()) if hasattr(values, "tolist") else list(values)


def _plain(value: Any) -> Any:
    """Per-example values with every sequence as a list, so that a tensor and a list of the same values hash alike."""
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    return value if value is None else _listed(value)


def _shape_of(value: object) -> str:
    if isinstance(value, list | tuple):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"
