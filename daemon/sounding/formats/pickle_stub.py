"""Reads a pickle as data: nothing is imported or called on its behalf, unknown classes become `Opaque`."""

import io
import pickle
import pickletools
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TypeAlias

from sounding.formats.archive import Member
from sounding.formats.dtypes import ITEM_BYTES
from sounding.formats.pickle_globals import CALLS, STORAGE_KINDS, VALUES
from sounding.formats.proof import ImpossibleError, UnfinishedError
from sounding.formats.stubs import Array, Foreign, NumpyType, Sealed, Storage, StorageKind, View
from sounding.records import Opaque

MOST_PICKLE_BYTES = 256 << 20
_DEEPEST = 150  # a module inside a module takes three levels
_STOP = b"."

Locate: TypeAlias = Callable[[str, str, int], Storage]  # from element type, key and number of elements


class _Unpickler(pickle.Unpickler):
    """The standard machine with every door to the outside closed."""

    def __init__(self, data: bytes, locate: Locate) -> None:
        super().__init__(io.BytesIO(data), encoding="latin1")  # of Python 2's texts; never fails
        self._locate = locate

    def find_class(self, module_name: str, global_name: str, /) -> object:
        """A stand-in for a global; never the global itself."""
        module_name = "builtins" if module_name == "__builtin__" else module_name
        name = f"{module_name}.{global_name}"
        if name in STORAGE_KINDS:
            return STORAGE_KINDS[name]
        return VALUES[name] if name in VALUES else _stand_in(name)

    def persistent_load(self, pid: object, /) -> object:
        """The storage that a persistent id names."""
        if isinstance(pid, tuple) and len(pid) >= 2 and pid[0] == "module" and isinstance(pid[1], Sealed):
            return pid[1]  # the class of a module, which the legacy format keeps with its source
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage" or not isinstance(pid[1], StorageKind):
            raise ImpossibleError(f"the pickle refers to something outside it: {str(pid)[:80]}")
        if len(pid) > 5 and pid[5] is not None:
            raise ImpossibleError("a storage inside another one, as torch wrote before 0.4; save it again")
        kind, key, count = pid[1], pid[2], pid[4]
        if type(count) is not int or not 0 <= count < 1 << 62:
            raise ImpossibleError(f"storage {str(key)[:40]} should hold {str(count)[:40]} elements")
        return self._locate(kind.dtype, str(key), count)


def _attribute(owner: object, name: str, *_: object) -> object:
    return _stand_in(f"{owner.__name__}.{name}") if isinstance(owner, Sealed) else Foreign(name, (owner,))


@lru_cache(maxsize=4096)
def _stand_in(name: str) -> Sealed:
    call: Callable[..., object] | None = CALLS.get(name)

    if name == "builtins.getattr":  # how nested classes and bound methods are named
        call = _attribute

    def make(_cls: type, *args: object, **_: object) -> object:
        return Foreign(name, args) if call is None else call(*args)

    return Sealed(name, (), {"__slots__": (), "__new__": make})


def read_pickle(data: bytes, file: str, storages: Mapping[str, Member]) -> object:
    """The tree of a torch pickle: dictionaries, lists, tuples, sets and plain values, TensorRefs and Opaques.

    Raises ImpossibleError for a pickle that is damaged, oversized, or asks for more than data.
    """

    def locate(dtype: str, key: str, count: int) -> Storage:
        member = storages.get(f"data/{key}")
        if member is None:
            raise ImpossibleError(f"the pickle refers to storage {key[:40]}, which the archive does not have")
        if count * ITEM_BYTES[dtype] > member.size:
            raise ImpossibleError(f"storage {key} should hold {count} elements, but has {member.size} bytes")
        return Storage(file, member.start, member.size, dtype)

    return read_pickle_by(data, locate)


def read_pickle_by(data: bytes, locate: Locate) -> object:
    """The same, where `locate` says where storages lie."""
    if not data.endswith(_STOP):
        raise ImpossibleError("the pickle does not end with STOP")
    try:
        _refuse_wild_memo(data)
        root = _Unpickler(data, locate).load()
        return _Settling().settle(root, 0)
    except (ImpossibleError, UnfinishedError):
        raise
    except Exception as error:  # damaged bytes can make the machine raise anything
        raise ImpossibleError(f"the pickle cannot be read: {type(error).__name__}: {str(error)[:120]}") from error


def _refuse_wild_memo(data: bytes) -> None:
    """The machine allocates room up to the greatest memo number, so a few bytes could ask for gigabytes."""
    for opcode, argument, position in pickletools.genops(data):
        if opcode.name in ("BINPUT", "LONG_BINPUT", "PUT") and isinstance(argument, int) and argument > len(data):
            raise ImpossibleError(f"the pickle numbers an object {argument} at byte {position}")


class _Settling:
    """Turns what the machine made into plain values, each object once, so that sharing and cycles survive."""

    def __init__(self) -> None:
        self._done: dict[int, object] = {}
        self._kept: list[object] = []  # keeps ids unique while they are in use

    def settle(self, value: object, depth: int) -> object:
        """The plain form of a value."""
        if depth > _DEEPEST:
            raise ImpossibleError(f"nested more than {_DEEPEST} levels deep")
        if value is None or isinstance(value, (bool, int, float, str, bytes, complex)):
            return value
        if isinstance(value, View):
            return value.ref
        if id(value) not in self._done:
            self._kept.append(value)
            made = self._container(value, depth) if isinstance(value, (dict, list, tuple, set, frozenset)) else None
            self._done[id(value)] = self._object(value, depth) if made is None else made
        return self._done[id(value)]

    def _container(self, value: object, depth: int) -> object:
        if isinstance(value, dict):
            mapping: dict[object, object] = {}
            self._done[id(value)] = mapping
            self._fill(mapping, value, depth)
            return mapping
        if isinstance(value, list):
            listed: list[object] = []
            self._done[id(value)] = listed
            listed.extend(self.settle(item, depth + 1) for item in value)
            return listed
        assert isinstance(value, (tuple, set, frozenset))
        items = [self.settle(item, depth + 1) for item in value]
        return tuple(items) if isinstance(value, tuple) else _hashable_set(items, type(value))

    def _fill(self, mapping: dict[object, object], source: dict[object, object], depth: int) -> None:
        for key, item in source.items():
            mapping[self._key(key, depth)] = self.settle(item, depth + 1)

    def _key(self, key: object, depth: int) -> object:
        settled = self.settle(key, depth + 1)
        if isinstance(settled, Opaque):
            return _hashable_key(settled, key.args if isinstance(key, Foreign) else ())
        return settled

    def _object(self, value: object, depth: int) -> object:
        if isinstance(value, Array):
            return self._array(value, depth)
        if isinstance(value, Sealed):
            return Opaque(value.__name__, None)
        if isinstance(value, NumpyType):
            return Opaque("numpy.dtype", value.order + value.code)
        if isinstance(value, (Storage, StorageKind)):
            return Opaque("torch.storage", value.dtype)
        if not isinstance(value, Foreign):
            raise ImpossibleError(f"the pickle holds an unexpected {type(value).__name__}")
        if value.state is None and not value.args and (value.entries or value.values):
            # A subclass of dict or list that keeps nothing else is worth its items.
            mapping: dict[object, object] = {}
            self._done[id(value)] = mapping
            self._fill(mapping, value.entries, depth)
            return mapping if value.entries else self.settle(value.values, depth + 1)
        return self._foreign(value, depth)

    def _foreign(self, value: Foreign, depth: int) -> Opaque:
        state: dict[object, object] = {}
        opaque = Opaque(value.class_name, state)
        self._done[id(value)] = opaque
        for part in value.state if _is_slot_state(value.state) else (value.state,):  # type: ignore[attr-defined]
            if isinstance(part, dict):
                self._fill(state, part, depth)
            elif part is not None:
                state["state"] = self.settle(part, depth + 1)
        for name, extra in (("args", value.args), ("items", value.entries), ("values", value.values)):
            if extra and name not in state:
                state[name] = self.settle(extra, depth + 1)
        return opaque

    def _array(self, value: Array, depth: int) -> object:
        if len(value.state) != 5:
            return Opaque("numpy.ndarray", None)
        _, shape, dtype, _, data = value.state
        if shape == () and isinstance(dtype, NumpyType) and isinstance(data, bytes):
            number = dtype.value(data)
            if number is not None:
                return number
        parts = {"shape": shape, "dtype": dtype, "data": data}
        return Opaque("numpy.ndarray", {name: self.settle(part, depth + 1) for name, part in parts.items()})


def _is_slot_state(state: object) -> bool:
    """Objects with slots save (attributes, slots), either of them a dictionary or None."""
    return (
        isinstance(state, tuple) and len(state) == 2 and all(part is None or isinstance(part, dict) for part in state)
    )


def _hashable_key(key: Opaque, args: tuple[object, ...]) -> object:
    """A record as a key: its class and the values it is made of, so that different keys stay different."""
    parts = (key.class_name, *key.state.items()) if isinstance(key.state, Mapping) and not args else None
    try:
        hash(parts)
    except TypeError:
        parts = None
    return parts or f"{key.class_name}{args or ''}"


def _hashable_set(items: list[object], kind: type[set[object]] | type[frozenset[object]]) -> object:
    try:
        return kind(items)
    except TypeError:  # a member became a record that cannot be hashed
        return items
