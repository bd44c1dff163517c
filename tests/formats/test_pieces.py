import itertools
import random

import pytest
import torch

from sounding.formats.nesting import nested
from sounding.formats.pieces import put_in_line, put_together
from sounding.formats.proof import ImpossibleError
from sounding.records import Piece, Pieces, TensorRef


def _block(*shape: int, start: int = 0, dtype: str = "float32") -> TensorRef:
    return TensorRef("/store/a", start, 1 << 20, dtype, shape, torch.empty(shape).stride(), 0)


def test_one_piece_is_the_tensor_itself():
    ref = _block(4, 5)
    assert put_together("float32", (4, 5), [Piece((0, 0), ref)]) == ref
    assert put_in_line("float32", (4, 5), [Piece((0,), _block(20))]) == ref
    assert put_together("float32", (), [Piece((), _block())]) == _block()
    assert put_together("float32", (0, 3), [Piece((0, 0), _block(0, 3))]) == _block(0, 3)


def test_flattened_pieces_keep_the_shape_of_the_whole():
    pieces = (Piece((0,), _block(13)), Piece((13,), _block(7)))
    assert put_in_line("float32", (4, 5), pieces) == Pieces("float32", (4, 5), (20,), pieces)


def test_random_grids_are_whole_and_no_piece_can_be_missing_doubled_or_moved():
    generator = random.Random(3)
    for _ in range(200):
        shape = [generator.randrange(1, 7) for _ in range(generator.randrange(1, 4))]
        cuts = [sorted({0, size, *(generator.randrange(size) for _ in range(2))}) for size in shape]
        boxes = list(itertools.product(*(list(itertools.pairwise(cut)) for cut in cuts)))
        pieces = [
            Piece(tuple(a for a, _ in box), _block(*(b - a for a, b in box), start=place))
            for place, box in enumerate(boxes)
        ]
        generator.shuffle(pieces)
        put_together("float32", tuple(shape), pieces)
        with pytest.raises(ImpossibleError, match="in no piece"):
            put_together("float32", tuple(shape), pieces[1:])
        with pytest.raises(ImpossibleError, match="same elements"):
            put_together("float32", tuple(shape), [*pieces, pieces[0]])
        moved = tuple(start + (axis == 0) for axis, start in enumerate(pieces[0].start))
        with pytest.raises(ImpossibleError):
            put_together("float32", tuple(shape), [Piece(moved, pieces[0].ref), *pieces[1:]])


@pytest.mark.parametrize(
    ("piece", "words"),
    [
        (Piece((0,), _block(2, 2)), "dimensions"),
        (Piece((0, 0), _block(2, 3)), "beyond"),
        (Piece((0, 0), _block(2, 2, dtype="float16")), "float16"),
    ],
)
def test_pieces_that_cannot_belong_are_refused(piece: Piece, words: str):
    with pytest.raises(ImpossibleError, match=words):
        put_together("float32", (2, 2), [piece])


def test_flat_names_become_the_tree_they_came_from():
    paths = {"a.b.0": ("a", "b", 0), "a.b.1.c": ("a", "b", 1, "c"), "step": ("step",)}
    flat = {"a.b.0": 1, "a.b.1.c": 2, "step": {"value": 3}, "left.alone": 4}
    assert nested(flat, paths) == {"a": {"b": [1, {"c": 2}]}, "step": {"value": 3}, "left.alone": 4}


def test_an_optimizers_states_are_numbered_again():
    paths = {"0": ("optimizer", "state", "0", "step"), "1": ("optimizer", "param_groups", 0, "params")}
    assert nested({"0": 5, "1": [0]}, paths) == {"optimizer": {"state": {0: {"step": 5}}, "param_groups": [{"params": [0]}]}}  # fmt: skip  # noqa: E501


def test_a_strangers_list_index_asks_for_no_memory():
    assert nested({"a": 1}, {"a": ("list", 1 << 60)}) == {"list": {1 << 60: 1}}


@pytest.mark.parametrize(
    "paths",
    [{"a": ("x",), "b": ("x", "y")}, {"a": ("x",), "b": ("x",)}, {"a": ()}, {"a": (None,)}, {"a": ("x",) * 101}],
)
def test_impossible_paths_are_refused(paths: dict[str, tuple[str, ...]]):
    with pytest.raises(ImpossibleError):
        nested({"a": 1, "b": 2}, paths)
