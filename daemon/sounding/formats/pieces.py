"""Tensors that were written in several pieces: checked to cover the whole once, or seen to be one piece after all."""

import math
from collections.abc import Sequence
from dataclasses import replace

from sounding.formats.dtypes import contiguous_stride
from sounding.formats.proof import ImpossibleError
from sounding.records import Piece, Pieces, Stored

_Box = tuple[tuple[int, int], ...]  # first and one past the last element, by dimension


def put_together(dtype: str, shape: tuple[int, ...], pieces: Sequence[Piece]) -> Stored:
    """The tensor of `shape` that the pieces, blocks of it, make. Raises ImpossibleError unless they cover it once."""
    return _checked(Pieces(dtype, shape, shape, tuple(pieces)))


def put_in_line(dtype: str, shape: tuple[int, ...], pieces: Sequence[Piece]) -> Stored:
    """The same from pieces of the flattened tensor."""
    return _checked(Pieces(dtype, shape, (math.prod(shape),), tuple(pieces)))


def _checked(whole: Pieces) -> Stored:
    boxes = [_box(whole, piece) for piece in whole.pieces]
    held = [(box, piece) for box, piece in zip(boxes, whole.pieces, strict=True) if _volume(box)]
    missing = math.prod(whole.grid) - sum(_volume(box) for box, _ in held)
    if missing > 0:
        raise ImpossibleError(f"{missing} of {math.prod(whole.grid)} elements are in no piece")
    if _overlapping([box for box, _ in held], len(whole.grid)):
        raise ImpossibleError("two pieces hold the same elements")
    kept = tuple(piece for _, piece in held) or whole.pieces[:1]
    if len(kept) == 1 and kept[0].ref.stride == contiguous_stride(kept[0].ref.shape):
        return replace(kept[0].ref, shape=whole.shape, stride=contiguous_stride(whole.shape))
    return Pieces(whole.dtype, whole.shape, whole.grid, kept)


def _box(whole: Pieces, piece: Piece) -> _Box:
    if not len(piece.start) == len(piece.ref.shape) == len(whole.grid):
        raise ImpossibleError(f"a piece has {len(piece.start)} dimensions, the whole has {len(whole.grid)}")
    if piece.ref.dtype != whole.dtype:
        raise ImpossibleError(f"a piece is {piece.ref.dtype}, the whole is {whole.dtype}")
    box = tuple((start, start + size) for start, size in zip(piece.start, piece.ref.shape, strict=True))
    if _volume(box) and any(start < 0 or end > size for (start, end), size in zip(box, whole.grid, strict=True)):
        raise ImpossibleError(f"a piece at {list(piece.start)} reaches beyond the whole, {list(whole.grid)}")
    return box


def _volume(box: _Box) -> int:
    return math.prod(end - start for start, end in box)


def _overlapping(boxes: Sequence[_Box], dimensions: int) -> bool:
    """Whether two boxes share an element, by a sweep along the dimension that was cut most often."""
    if dimensions == 0:
        return len(boxes) > 1
    cuts = [len({box[axis][0] for box in boxes}) for axis in range(dimensions)]
    axis = cuts.index(max(cuts))
    open_boxes: list[_Box] = []
    for box in sorted(boxes, key=lambda box: box[axis][0]):
        open_boxes = [other for other in open_boxes if other[axis][1] > box[axis][0]]
        if any(_meet(box, other) for other in open_boxes):
            return True
        open_boxes.append(box)
    return False


def _meet(one: _Box, other: _Box) -> bool:
    return all(start < end_of_other and start_of_other < end
               for (start, end), (start_of_other, end_of_other) in zip(one, other, strict=True))  # fmt: skip
