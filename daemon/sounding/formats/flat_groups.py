"""Parameters laid one after the other into flat vectors that are cut among ranks."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

from sounding.formats.pieces import put_in_line
from sounding.formats.proof import ImpossibleError
from sounding.records import Piece, Stored, TensorRef

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]  # of a group's parameters, in the order in which they are laid
Vectors: TypeAlias = tuple[TensorRef, ...]  # one rank's part of each group


def vectors_of(value: object) -> Vectors:
    """A rank's vectors as they were found. Raises ImpossibleError for anything else."""
    listed = value if isinstance(value, (list, tuple)) else ()
    found = tuple(ref for ref in listed if isinstance(ref, TensorRef) and len(ref.shape) == 1)
    if not found or len(found) < len(listed):
        raise ImpossibleError("a rank's file holds no flat weights")
    return found


def laid_by_parameter(
    vectors: Sequence[Vectors], groups: Sequence[Shapes], paddings: Sequence[Sequence[int]] = ()
) -> dict[str, Stored]:
    """Each group is one vector, cut into one part per rank: a parameter may begin in one and end in the next.

    `paddings` are elements left free after each parameter.
    """
    if any(len(of_rank) != len(groups) for of_rank in vectors):
        raise ImpossibleError(f"there are {len(groups)} groups of parameters, and ranks with another number of vectors")
    found: dict[str, Stored] = {}
    for place, shapes in enumerate(groups):
        line = [of_rank[place] for of_rank in vectors]
        free = paddings[place] if place < len(paddings) else ()
        at = 0
        for number, (name, shape) in enumerate(shapes.items()):
            size = math.prod(shape)
            found[name] = _whole(name, shape, list(_cut(line, 0, at, size)))
            at += size + (free[number] if number < len(free) else 0)
    return found


def laid_by_rank(vectors: Sequence[Vectors], groups: Sequence[Shapes]) -> dict[str, Stored]:
    """Each parameter is cut into one equal part per rank (the last may be padded), at the same place for all."""
    found: dict[str, Stored] = {}
    at = 0
    for shapes in groups:
        for name, shape in shapes.items():
            size = math.prod(shape)
            part = math.ceil(size / len(vectors))
            pieces: list[Piece] = []
            for rank, line in enumerate(vectors):
                start = min(rank * part, size)
                pieces.extend(_cut(line, start, at, min(part, size - start)))
            found[name] = _whole(name, shape, pieces)
            at += part
    return found


def _whole(name: str, shape: tuple[int, ...], pieces: Sequence[Piece]) -> Stored:
    try:
        return put_in_line(pieces[0].ref.dtype if pieces else "float32", shape, pieces)
    except ImpossibleError as error:
        raise ImpossibleError(f"{name[:80]}: {error}") from error


def _cut(line: Sequence[TensorRef], start: int, at: int, size: int) -> Iterator[Piece]:
    """The elements from `at` of vectors that follow one another, as pieces that begin at `start`."""
    end, begins = at + size, 0
    for vector in line:
        (length,) = vector.shape
        first, last = max(at, begins), min(end, begins + length)
        if first < last:
            ref = replace(vector, shape=(last - first,), offset=vector.offset + (first - begins) * vector.stride[0])
            yield Piece((start + first - at,), ref)
        begins += length
