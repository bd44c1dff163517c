"""Optimizer state dicts that torch flattened for a sharded checkpoint, back in their nested form."""

from collections.abc import Mapping

_STATE, _GROUPS = "state.", "param_groups."


def nested_states(flat: Mapping[object, object]) -> dict[str, object] | None:
    """The state dict of entries `state.NAME.QUANTITY` and `param_groups.NAME.SETTING`; None when there are others.

    Parameters with the same settings make one group.
    """
    state: dict[str, dict[str, object]] = {}
    settings: dict[str, dict[str, object]] = {}
    for key, value in flat.items():
        kind, into = (_STATE, state) if str(key).startswith(_STATE) else (_GROUPS, settings)
        name, dot, last = str(key).removeprefix(kind).rpartition(".")
        if not str(key).startswith(kind) or not dot:
            return None
        into.setdefault(name, {})[last] = value
    groups: dict[str, tuple[dict[str, object], list[str]]] = {}
    for name, setting in settings.items():
        groups.setdefault(repr(sorted(setting.items())), (setting, []))[1].append(name)
    return (
        {"state": state, "param_groups": [{**own, "params": names} for own, names in groups.values()]}
        if groups
        else None
    )
