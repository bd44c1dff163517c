"""Whatever torch.load reads is read the same without it: random trees, tensor by tensor, byte by byte."""

import argparse
import pathlib
import random
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from sounding.opening import Opened, open_checkpoint
from sounding.records import Opaque, TensorRef

_OLD = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex128, torch.complex64,
        torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool]  # fmt: skip
_NEW = [torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz, torch.float8_e8m0fnu,
        torch.complex32, torch.uint16, torch.uint32, torch.uint64]  # fmt: skip


class Tagged(torch.Tensor):
    """A tensor of another class, whose attributes are saved beside it."""


class Trees:
    """Draws trees; tensors often share a storage with one drawn before."""

    def __init__(self, seed: int, dtypes: list[torch.dtype]) -> None:
        self.choice = random.Random(seed)
        self.generator = torch.Generator().manual_seed(seed)
        self.dtypes = dtypes
        self.earlier: list[torch.Tensor] = []

    def tree(self, depth: int = 0) -> object:
        kinds = [self.special, self.plain, *[self.tensor] * 4, *([self.container] * 4 if depth < 4 else [])]
        return self.choice.choice(kinds)(depth) if depth else self.dictionary(depth)

    def container(self, depth: int) -> object:
        made = [self.dictionary, self.ordered, self.listed, self.pair, self.module, self.namespace]
        return self.choice.choice(made)(depth)

    def dictionary(self, depth: int) -> dict[object, object]:
        keys = self.choice.sample(["w", "b", "layer.0.weight", 0, 7, (1, "a"), True, 2.5, None], self._few())
        return {key: self.tree(depth + 1) for key in keys}

    def ordered(self, depth: int) -> object:
        kind = self.choice.choice([OrderedDict, lambda pairs: defaultdict(list, pairs)])
        return kind([(str(place), self.tree(depth + 1)) for place in range(self._few())])

    def listed(self, depth: int) -> object:
        return [self.tree(depth + 1) for _ in range(self._few())]

    def pair(self, depth: int) -> object:
        return tuple(self.tree(depth + 1) for _ in range(self._few()))

    def module(self, _depth: int) -> object:
        model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 2))
        return self.choice.choice([model, model.state_dict(), torch.optim.Adam(model.parameters()).state_dict()])

    def namespace(self, depth: int) -> object:
        return argparse.Namespace(inside=self.tree(depth + 1), rate=0.1)

    def plain(self, _depth: int) -> object:
        values = [None, True, 3, -(10**30), 0.25, "text", b"bytes", 1 + 2j, {1, 2}, frozenset({"a"}), np.float32(0.5),
                  np.int64(-3), np.bool_(True), np.float64("inf"), Counter("aab"), torch.Size([1, 2]),
                  pathlib.PurePosixPath("/runs/a")]  # fmt: skip
        return self.choice.choice(values)

    def tensor(self, _depth: int) -> torch.Tensor:
        if self.earlier and self.choice.random() < 0.4:
            whole = self.choice.choice(self.earlier)
        else:
            whole = self._fresh()
            self.earlier.append(whole)
        return self._worn(self._viewed(whole))

    def special(self, _depth: int) -> torch.Tensor:
        dense = torch.randn(4, 6, generator=self.generator)
        dense[self.choice.randrange(4)] = 0
        made: list[Callable[[], torch.Tensor]] = [
            lambda: dense.to_sparse(),
            lambda: dense.to_sparse_csr(),
            lambda: dense.to_sparse_csc(),
            lambda: dense.to_sparse_bsr((2, 3)),
            lambda: torch.quantize_per_tensor(dense, 0.1, 3, torch.quint8),
            lambda: torch.quantize_per_channel(dense, torch.rand(4) + 0.1, torch.zeros(4), 0, torch.qint8),
            lambda: torch.view_as_complex(dense.view(4, 3, 2)).conj(),
            lambda: torch.empty(2, 2, device="meta"),
        ]
        return self.choice.choice(made)()

    def _few(self) -> int:
        return self.choice.choice([0, 1, 2, 3, 4])

    def _fresh(self) -> torch.Tensor:
        dtype = self.choice.choice(self.dtypes)
        shape = [self.choice.choice([0, 1, 2, 3, 5]) for _ in range(self.choice.randrange(4))]
        count = int(np.prod(shape)) * dtype.itemsize
        drawn = torch.randint(0, 2 if dtype == torch.bool else 256, (count,), generator=self.generator)
        return drawn.to(torch.uint8).view(dtype).view(shape)

    def _viewed(self, whole: torch.Tensor) -> torch.Tensor:
        views: list[Callable[[], torch.Tensor]] = [
            lambda: whole,
            lambda: whole.movedim(0, -1) if whole.ndim else whole,
            lambda: whole[1:] if whole.ndim else whole,
            lambda: whole[..., ::2] if whole.ndim else whole,
            lambda: whole.narrow(0, 0, 0) if whole.ndim else whole,
            lambda: whole.reshape(-1)[0] if whole.numel() else whole,
            lambda: whole.unsqueeze(0).expand(3, *whole.shape),
            lambda: whole.as_strided((2, 2), (1, 1), 1) if whole.numel() > 3 else whole,  # overlaps itself
            lambda: whole.detach(),
        ]
        return self.choice.choice(views)()

    def _worn(self, tensor: torch.Tensor) -> torch.Tensor:
        """The same values as another kind of tensor."""
        kind = self.choice.randrange(8)
        if kind == 0:
            return torch.nn.Parameter(tensor, requires_grad=False)
        if kind == 1:
            worn = torch.nn.Parameter(tensor, requires_grad=False)
            worn.partition = self.choice.random()  # type: ignore[attr-defined]
            return worn
        if kind == 2:
            return torch.nn.Buffer(tensor)
        if kind == 3:
            tagged = tensor.as_subclass(Tagged)
            tagged.note = "kept"  # type: ignore[attr-defined]
            return tagged
        return tensor


def _is_plain(tensor: torch.Tensor) -> bool:
    strided = tensor.layout is torch.strided and not tensor.is_quantized and tensor.device.type == "cpu"
    return strided and not tensor.is_conj() and not tensor.is_neg()


def _parts(tensor: torch.Tensor) -> list[torch.Tensor]:
    """The plain tensors that a special one is made of, in the order in which torch saves them."""
    if tensor.layout is torch.sparse_coo:
        return [tensor._indices(), tensor._values()]
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return [tensor.crow_indices(), tensor.col_indices(), tensor.values()]
    if tensor.layout is torch.sparse_csc:
        return [tensor.ccol_indices(), tensor.row_indices(), tensor.values()]
    if tensor.is_quantized:
        by_row = tensor.qscheme() is not torch.per_tensor_affine
        return [
            tensor.int_repr(),
            *([tensor.q_per_channel_scales(), tensor.q_per_channel_zero_points()] if by_row else []),
        ]
    return [tensor.conj()] if tensor.is_conj() else []


def _refs(value: object) -> Iterator[TensorRef]:
    if isinstance(value, TensorRef):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ():
        yield from _refs(item)
    if isinstance(value, Opaque):
        yield from _refs(value.state)


class Comparison:
    """Walks what we read beside what torch loads."""

    def __init__(self, opened: Opened) -> None:
        self.opened = opened
        self.pairs: list[tuple[TensorRef, torch.Tensor]] = []
        self.seen = 0

    def compare(self, ours: object, theirs: object) -> None:
        self.seen += 1
        if isinstance(theirs, torch.Tensor):
            self._tensor(ours, theirs)
        elif isinstance(theirs, (torch.nn.Module, argparse.Namespace)):
            assert isinstance(ours, Opaque)
            assert ours.class_name == f"{type(theirs).__module__}.{type(theirs).__qualname__}"
            self.compare(ours.state, theirs.__dict__)
        elif isinstance(theirs, dict):
            assert isinstance(ours, dict)
            assert list(ours) == list(theirs)
            for key, value in theirs.items():
                self.compare(ours[key], value)
        elif isinstance(theirs, (list, tuple)):
            assert isinstance(ours, (list, tuple))
            for mine, value in zip(ours, theirs, strict=True):
                self.compare(mine, value)
        else:
            assert ours == (str(theirs) if isinstance(theirs, pathlib.PurePath) else theirs)

    def _tensor(self, ours: object, theirs: torch.Tensor) -> None:
        if _is_plain(theirs):
            assert isinstance(ours, TensorRef)
            self.pairs.append((ours, theirs))
            return
        assert isinstance(ours, Opaque)
        self.pairs += zip(_refs(ours), _parts(theirs), strict=True)

    def equal_bytes(self) -> int:
        storages: dict[int, int] = {}
        kept: list[torch.Tensor] = []  # so that no address is used twice
        ours = None
        for ref, theirs in self.pairs:
            with torch.no_grad():
                ours = self.opened.tensor(ref)
                assert (ours.dtype, ours.shape, ours.stride()) == (theirs.dtype, theirs.shape, theirs.stride())
                assert _bits(ours) == _bits(theirs)
                if theirs.numel():
                    assert ours.storage_offset() == theirs.storage_offset()
                    mine, other = ours.untyped_storage().data_ptr(), theirs.untyped_storage().data_ptr()
                    assert storages.setdefault(mine, other) == other
            kept.append(ours)
        del ours
        kept.clear()
        assert len(set(storages.values())) == len(storages)  # what shared a storage shares one, and nothing else does
        return len(self.pairs)


def _bits(tensor: torch.Tensor) -> list[int]:
    plain = tensor.detach().as_subclass(torch.Tensor)
    return plain.reshape(-1).clone(memory_format=torch.contiguous_format).view(torch.uint8).tolist()


@pytest.mark.filterwarnings("ignore")  # torch's own, of prototypes and of storages
@pytest.mark.parametrize("count", [25, pytest.param(3000, marks=pytest.mark.soak)])
@pytest.mark.parametrize("legacy", [False, True])
def test_random_trees_are_read_as_torch_loads_them(tmp_path: Path, legacy: bool, count: int):
    path = tmp_path / "tree.pt"
    compared = 0
    for seed in range(count):
        trees = Trees(seed, _OLD if legacy else _OLD + _NEW)
        tree = [trees.tree() for _ in range(4)]
        torch.save(tree, path, pickle_protocol=2 + seed % 4, _use_new_zipfile_serialization=not legacy)
        theirs = torch.load(path, weights_only=False)
        with open_checkpoint(str(path)) as opened:
            comparison = Comparison(opened)
            comparison.compare(opened.tree, theirs)
            compared += comparison.equal_bytes()
    assert compared > 10 * count
