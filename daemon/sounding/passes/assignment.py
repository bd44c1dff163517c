"""Which weight each of an optimizer's numbered parameters is: only what the shapes prove is believed."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Shape = tuple[int, ...]
_MOST_WAYS = 20_000  # partial assignments looked at before giving up

# State that has its parameter's own shape, and pairs of factors whose shapes make it.
_LIKE_THE_WEIGHT = ("exp_avg", "momentum_buffer", "exp_avg_sq", "moment1", "square_avg", "sum", "variance", "m")
_FACTORS = (("row_var", "col_var"), ("exp_avg_sq_row", "exp_avg_sq_col"), ("exp_avg_sq_r", "exp_avg_sq_c"))


@dataclass(frozen=True)
class Assignment:
    """`names`: index → weight, where certain; `members`: each group's weights; `words`: how that was found."""

    names: Mapping[Any, str]
    members: tuple[tuple[str, ...], ...]
    words: str


def assign(
    groups: Sequence[Sequence[Any]],
    states: Mapping[Any, Mapping[str, Any]],
    stored_names: Sequence[str],
    shapes: Mapping[str, Shape],
    ordered: bool,
) -> Assignment:
    """Weights of every group's indices.

    `stored_names` are those that the groups themselves hold, if any. `shapes` are the trained weights'; `ordered`
    says whether they come in the network's own order, which safetensors files do not keep.
    """
    flat = [index for group in groups for index in group]
    known = {index: shape_of(states.get(index, {})) for index in flat}
    candidates = [
        ([index for index in flat if index in shapes], "by the names it is stored under"),
        (list(stored_names), "by the names stored in the parameter groups"),
    ]
    # Without any state, as of SGD without momentum, no shape speaks for or against an order: it then proves nothing of
    # which of several groups a weight is in.
    if ordered and (len(groups) == 1 or any(shape is not None for shape in known.values())):
        matrices = [name for name in shapes if len(shapes[name]) >= 2]
        vectors = [name for name in shapes if len(shapes[name]) < 2]
        candidates += [
            (list(shapes), "by the order of the weights"),
            ([*matrices, *vectors], "by order, matrices in the first group and vectors in the second"),
            ([*vectors, *matrices], "by order, vectors in the first group and matrices in the second"),
        ]
    for order, words in candidates:
        if len(order) == len(flat) and all(
            _fits(known[index], shapes.get(name)) for index, name in zip(flat, order, strict=True)
        ):
            return _certain(groups, dict(zip(flat, order, strict=True)), words)
    names = only_way(groups, known, shapes) if ordered else None
    if names is not None:
        return _certain(groups, names, "by the only way to deal the weights out, in order, that fits the shapes")
    return _by_shape(groups, known, shapes)


def shape_of(values: Mapping[str, Any]) -> Shape | None:
    """A parameter's shape from its state; None where no tensor tells."""
    shapes = {key: tuple(each.shape) for key, each in values.items() if hasattr(each, "shape")}
    for key in _LIKE_THE_WEIGHT:
        if key in shapes:
            return shapes[key]
    for row, column in _FACTORS:
        if row in shapes and column in shapes:
            return _outer(shapes[row], shapes[column])
    sizable = {shape for shape in shapes.values() if shape not in ((), (1,))}
    return next(iter(sizable)) if len(sizable) == 1 else None


def _outer(row: Shape, column: Shape) -> Shape:
    if len(row) == len(column) and row[-1] == 1:  # kept for broadcasting
        return (*row[:-1], column[-1])
    return (*row, column[-1])


def _fits(shape: Shape | None, weight: Shape | None) -> bool:
    return weight is not None and shape in (None, weight)


def _certain(groups: Sequence[Sequence[Any]], names: Mapping[Any, str], words: str) -> Assignment:
    return Assignment(names, tuple(tuple(names[each] for each in group if each in names) for group in groups), words)


def only_way(
    groups: Sequence[Sequence[Any]], known: Mapping[Any, Shape | None], shapes: Mapping[str, Shape]
) -> dict[Any, str] | None:
    """The one assignment in which every group keeps the order of the weights; None when there is none, or several.

    Weights may be left over (frozen ones are given to no optimizer), indices may not. Goes through the weights once,
    keeping for each tuple of positions in the groups how many ways lead there (two are as good as many).
    """
    sizes = tuple(len(group) for group in groups)
    spare = len(shapes) - sum(sizes)
    if spare < 0:
        return None
    level: dict[Shape, int] = {(0,) * len(groups): 1}
    steps: list[dict[Shape, tuple[Shape, Any]]] = []
    for place, shape in enumerate(shapes.values()):
        ways: Counter[Shape] = Counter()
        steps.append({})
        for at, count in level.items():
            for to, index in _moves(at, groups, known, shape, place - sum(at) < spare):
                ways[to] = min(2, ways[to] + count)
                steps[-1][to] = (at, index)
        if len(ways) > _MOST_WAYS:
            return None
        level = dict(ways)
    return _traced(sizes, shapes, steps) if level.get(sizes) == 1 else None


def _traced(
    end: Shape, shapes: Mapping[str, Shape], steps: Sequence[Mapping[Shape, tuple[Shape, Any]]]
) -> dict[Any, str]:
    names: dict[Any, str] = {}
    at = end
    for name, back in zip(reversed(list(shapes)), reversed(steps), strict=True):
        at, index = back[at]
        if index is not None:
            names[index] = name
    return names


def _moves(
    at: Shape, groups: Sequence[Sequence[Any]], known: Mapping[Any, Shape | None], shape: Shape, may_skip: bool
) -> Iterable[tuple[Shape, Any]]:
    for number, group in enumerate(groups):
        if at[number] < len(group) and _fits(known[group[at[number]]], shape):
            yield (*at[:number], at[number] + 1, *at[number + 1 :]), group[at[number]]
    if may_skip:
        yield at, None


def _by_shape(
    groups: Sequence[Sequence[Any]], known: Mapping[Any, Shape | None], shapes: Mapping[str, Shape]
) -> Assignment:
    """What shapes alone prove: a shape that one group has all of tells the group, one that occurs once the index."""
    named: dict[Shape, list[str]] = defaultdict(list)
    for name, shape in shapes.items():
        named[shape].append(name)
    names: dict[Any, str] = {}
    members: list[list[str]] = [[] for _ in groups]
    for shape, holders in _holders(groups, known).items():
        alike = named[shape]
        if len(alike) != len(holders):
            continue
        if len({number for number, _ in holders}) == 1:
            members[holders[0][0]].extend(alike)
        if len(alike) == 1:
            names[holders[0][1]] = alike[0]
    if not any(members):
        return Assignment({}, ((),) * len(groups), "unknown: no order of the weights fits the shapes of the state")
    return Assignment(names, tuple(map(tuple, members)), "by shape, for those weights whose shape proves it")


def _holders(
    groups: Sequence[Sequence[Any]], known: Mapping[Any, Shape | None]
) -> Mapping[Shape, list[tuple[int, Any]]]:
    """Group number and index of every parameter whose shape is known, by that shape."""
    found: dict[Shape, list[tuple[int, Any]]] = defaultdict(list)
    for number, group in enumerate(groups):
        for index in group:
            shape = known[index]
            if shape is not None:
                found[shape].append((number, index))
    return found
