"""Flattened state dicts, as sharded writers keep them, back in their nested form."""

from collections.abc import Mapping, Sequence

from sounding.formats.proof import ImpossibleError

_DEEPEST = 100


def nested(flat: Mapping[str, object], paths: Mapping[str, Sequence[str | int]]) -> object:
    """The tree whose leaf under the keys `paths[name]` is `flat[name]`; names without a path are keys at the top."""
    tree: dict[object, object] = {}
    for name, value in flat.items():
        keys = paths.get(name, (name,))
        if not 0 < len(keys) <= _DEEPEST or not all(isinstance(key, (str, int)) for key in keys):
            raise ImpossibleError(f"{name[:80]} lies under keys that are not readable: {str(keys)[:80]}")
        place = tree
        for key in keys[:-1]:
            inner = place.setdefault(key, _Branch())
            if not isinstance(inner, _Branch):
                raise ImpossibleError(f"{name[:80]} lies inside something that holds nothing")
            place = inner
        if keys[-1] in place:
            raise ImpossibleError(f"two entries lie at the place of {name[:80]}")
        place[keys[-1]] = value
    return _plain(_Branch(tree))


class _Branch(dict[object, object]):
    """A dictionary or list under construction, told from one that is a value."""


def _plain(value: object) -> object:
    if not isinstance(value, _Branch):
        return value
    # A place in a list was numbered; it is a list only when none is missing: a number is a stranger's.
    if value and all(type(key) is int for key in value) and set(value) == set(range(len(value))):
        return [_plain(value[place]) for place in range(len(value))]
    plain = {key: _plain(item) for key, item in value.items()}
    if "param_groups" in plain and isinstance(plain.get("state"), dict):
        plain["state"] = _numbered(plain["state"])
    return plain


def _numbered(state: object) -> object:
    """An optimizer's states by number again where they were: flattening makes every key text."""
    assert isinstance(state, dict)
    if all(isinstance(key, str) and key.isdecimal() for key in state):
        return {int(key): item for key, item in state.items()}
    return state
