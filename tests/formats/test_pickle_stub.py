import dataclasses
import os
import pickle
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
import torch

from sounding.formats import torch_zip
from sounding.formats.archive import Member
from sounding.formats.pickle_stub import read_pickle
from sounding.formats.proof import ImpossibleError
from sounding.records import Opaque, TensorRef

_STORAGE = {"data/0": Member("data/0", 64, 48, 0)}  # twelve floats


def _read(data: bytes) -> object:
    return read_pickle(data, "/store/a.pt", _STORAGE)


class _Calls:
    """Pickles as a call of a function with arguments."""

    def __init__(self, function: Callable[..., object], *args: object) -> None:
        self._call = (function, args)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self._call


def _dangers(marker: Path) -> list[_Calls]:
    command = f"touch {marker}"
    return [
        _Calls(os.system, command),
        _Calls(subprocess.Popen, ["touch", str(marker)]),
        _Calls(eval, f"open({str(marker)!r}, 'w')"),
        _Calls(exec, f"open({str(marker)!r}, 'w')"),
        _Calls(open, str(marker), "w"),
        _Calls(__import__, "os"),
        _Calls(getattr, _Calls(__import__, "os"), "system"),
        _Calls(os.mkdir, str(marker)),
        _Calls(Path.touch, marker),
    ]


@pytest.mark.parametrize("protocol", range(6))
def test_no_payload_runs(tmp_path: Path, protocol: int):
    marker = tmp_path / "marker"
    for danger in _dangers(marker):
        tree = _read(pickle.dumps({"w": danger}, protocol=protocol))
        assert isinstance(tree, dict)
        assert isinstance(tree["w"], Opaque)
        assert not marker.exists()


def test_a_saved_payload_leaves_no_marker_and_imports_nothing(tmp_path: Path):
    marker = tmp_path / "marker"
    torch.save(
        {"model": {"w": torch.ones(2)}, "step": 1, "bad": _Calls(os.system, f"touch {marker}")}, tmp_path / "a.pt"
    )
    (tmp_path / "wicked.py").write_text(f"open({str(marker)!r}, 'w')\nclass Thing: pass\n")
    script = (
        "import pathlib, sys\n"
        "from sounding.formats.torch_zip import FORMAT\n"
        "from sounding.formats.pickle_stub import read_pickle\n"
        f"path = pathlib.Path({str(tmp_path / 'a.pt')!r})\n"
        "assert FORMAT.prove(path).state == 'complete'\n"
        "print(FORMAT.read(path)['bad'].class_name)\n"
        "print(read_pickle(b'cwicked\\nThing\\n)R.', '', {}).class_name, 'wicked' in sys.modules)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["posix.system", "wicked.Thing", "False"]
    assert not marker.exists()


def test_a_pickle_cannot_change_what_stands_in_for_globals():
    poison = b"\x80\x02ccollections\nOrderedDict\n(NX\x0c\x00\x00\x00__setstate__K\x01st\x86b."
    for data in (
        b"\x80\x02ccollections\nOrderedDict\nN}X\x01\x00\x00\x00aK\x01s\x86b.",
        b"\x80\x02cos\nsystem\nN}X\x01\x00\x00\x00aK\x01s\x86b.",
        poison,
    ):
        with pytest.raises(ImpossibleError):
            _read(data)
    assert _read(b"\x80\x02ccollections\nOrderedDict\n)R.") == {}


_VIEW = "ctorch._utils\n_rebuild_tensor_v2\n"


def _tensor_pickle(size: str, stride: str, offset: int = 0, count: int = 12) -> bytes:
    """A protocol 0 pickle of one tensor on the storage of twelve floats."""
    persistent = f"(Vstorage\nctorch\nFloatStorage\nV0\nVcpu\nI{count}\ntQ"
    return f"{_VIEW}({persistent}I{offset}\n{size}{stride}I00\nccollections\nOrderedDict\n)RtR.".encode()


def _tuple(*values: int) -> str:
    return "(" + "".join(f"I{value}\n" for value in values) + "t"


def test_a_view_inside_its_storage_is_kept():
    assert _read(_tensor_pickle(_tuple(3, 2), _tuple(4, 2), offset=1)) == TensorRef(
        "/store/a.pt", 64, 48, "float32", (3, 2), (4, 2), 1
    )


@pytest.mark.parametrize(
    ("size", "stride", "offset", "count"),
    [
        (_tuple(13), _tuple(1), 0, 12),  # longer than the storage
        (_tuple(12), _tuple(1), 1, 12),  # pushed out by its offset
        (_tuple(3, 2), _tuple(4, 4), 0, 12),  # its last element is the 13th
        (_tuple(1 << 40), _tuple(0), 0, 12),  # a stride of 0 shows one element for ever
        (_tuple(1 << 30, 1 << 30), _tuple(0, 0), 0, 12),
        (_tuple(2), _tuple(-1), 1, 12),
        (_tuple(-1), _tuple(1), 0, 12),
        (_tuple(2), _tuple(1), -1, 12),
        (_tuple(2), _tuple(1, 1), 0, 12),
        (_tuple(*[1] * 65), _tuple(*[1] * 65), 0, 12),
        (_tuple(1 << 70), _tuple(1), 0, 12),
        (_tuple(2), _tuple(1), 0, 13),  # the storage itself claims too much
        (_tuple(2), _tuple(1), 0, -1),
        ("N", _tuple(1), 0, 12),
    ],
)
def test_a_view_outside_its_storage_is_broken(size: str, stride: str, offset: int, count: int):
    with pytest.raises(ImpossibleError):
        _read(_tensor_pickle(size, stride, offset, count))


def test_expanded_views_of_modest_size_are_kept():
    ref = _read(_tensor_pickle(_tuple(1000, 12), _tuple(0, 1)))
    assert isinstance(ref, TensorRef)
    assert ref.shape == (1000, 12)


def test_a_tensor_cannot_be_changed_after_it_was_checked():
    data = _tensor_pickle(_tuple(2), _tuple(1))[:-1] + b"(N}Vref\nI1\nstb."
    with pytest.raises(ImpossibleError):
        _read(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b".",
        b"\x80\x02}",
        b"\x80\x02X\xff\xff\xff\x7fabc.",  # a text of two gigabytes
        b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7fabc.",
        b"\x80\x02]r\xff\xff\xff\x0f.",  # a memo of gigabytes
        b"c__builtin__\nbytes\n(I9999999999\ntR.",
        b"c__builtin__\nbytearray\n(I9999999999\ntR.",
        b"\x80\x02U\x01aQ.",  # a persistent id that is no storage
        b"\x80\x02\x82\x01.",  # the extension registry
        b"\x80\x05\x97.",  # an out-of-band buffer
    ],
)
def test_damaged_and_greedy_pickles_are_broken_at_once(data: bytes):
    began = time.perf_counter()
    with pytest.raises(ImpossibleError):
        _read(data)
    assert time.perf_counter() - began < 1.0


def test_deep_nesting_is_broken_at_once():
    with pytest.raises(ImpossibleError, match="levels deep"):
        _read(b"]" * 200_000 + b"a" * 199_999 + b".")


class _Settings(dict[str, object]):
    """A dictionary with attributes, as configuration libraries have them."""


class _Lists(list[int]):
    pass


@pytest.mark.parametrize("protocol", [2, 4])
def test_subclasses_of_containers_are_worth_their_items(protocol: int):
    tree = {"a": _Settings(lr=0.1), "b": _Lists([1, 2]), "c": frozenset({1}), "d": {frozenset({2}), 3}}
    assert _read(pickle.dumps(tree, protocol=protocol)) == tree


class _Outer:
    class Inner:
        def __init__(self) -> None:
            self.x = 5


@pytest.mark.parametrize("protocol", range(6))
def test_nested_classes_stay_opaque(protocol: int):
    tree = _read(pickle.dumps(_Outer.Inner(), protocol=protocol))
    assert isinstance(tree, Opaque)
    assert tree.class_name.endswith("_Outer.Inner") or protocol < 2
    assert isinstance(tree.state, dict)
    assert tree.state["x"] == 5


@dataclasses.dataclass(frozen=True)
class _Place:
    name: str
    offset: tuple[int, ...] | None


def test_records_as_keys_stay_apart():
    tree = _read(pickle.dumps({_Place("a", (0, 1)): 1, _Place("a", (0, 2)): 2, _Place("b", None): 3}, protocol=4))
    assert isinstance(tree, dict)
    assert [key[1:] for key in tree] == [
        (("name", "a"), ("offset", (0, 1))),
        (("name", "a"), ("offset", (0, 2))),
        (("name", "b"), ("offset", None)),
    ]
    assert list(tree.values()) == [1, 2, 3]


def test_cycles_and_sharing_survive():
    cycle: dict[str, object] = {"a": [1]}
    cycle["self"] = cycle
    cycle["again"] = cycle["a"]
    tree = _read(pickle.dumps(cycle, protocol=2))
    assert isinstance(tree, dict)
    assert tree["self"] is tree
    assert tree["again"] is tree["a"]


def test_random_pickles_give_a_tree_or_are_broken(training: dict[str, object]):
    model = training.pop("model")
    del model, training["whole"], training["ema"], training["optimizer"], training["views"], training["types"]
    del training["seen"], training["rng"]
    generator = random.Random(5)
    broken = 0
    for protocol in (2, 4, 5):
        whole = pickle.dumps(training, protocol=protocol)
        for _ in range(700):
            data = bytearray(whole)
            for _ in range(generator.choice((1, 2, 10))):
                data[generator.randrange(len(data) - 1)] = generator.randrange(256)
            try:
                _read(bytes(data))
            except ImpossibleError:
                broken += 1
    assert 500 < broken < 2100


@pytest.mark.parametrize(("code", "value"), [("f8", 0.1), ("f4", 0.5), ("i8", -3), ("u1", 200), ("f2", 1.5)])
@pytest.mark.parametrize("protocol", [2, 4])
def test_numpy_scalars_become_numbers(code: str, value: float, protocol: int):
    for order in "<>":
        array = numpy.array(value, dtype=order + code)
        for item in (array, array[()]):
            assert _read(pickle.dumps(item, protocol=protocol)) == value


def test_unknown_dtypes_stay_opaque():
    data = _tensor_pickle(_tuple(2), _tuple(1)).replace(b"_rebuild_tensor_v2", b"_rebuild_tensor_v3")
    data = data.replace(b"FloatStorage", b"UntypedStorage").replace(b")RtR.", b")Rctorch\nint3\ntR.")
    tree = _read(data)
    assert isinstance(tree, Opaque)
    assert tree.class_name == "torch._utils._rebuild_tensor_v3"


def test_pickles_of_absurd_size_are_refused_before_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch_zip, "MOST_PICKLE_BYTES", 100)
    torch.save({"model": {"w": torch.ones(2)}}, tmp_path / "a.pt")
    assert "more than is read" in torch_zip.FORMAT.prove(tmp_path / "a.pt").reason
