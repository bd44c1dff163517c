"""Finds the networks in a checkpoint's tree and removes the wrappers around their names."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from sounding.records import Opaque, Stored
from sounding.seeing.special import is_special, why_left_out

Network = dict[str, Stored]
_Kind = TypeVar("_Kind")

# Where networks usually are, best first; other keys follow in the order of the file.
_USUAL = (
    "", "model", "state_dict", "model_state_dict", "net", "network", "module", "params", "model_state", "weights",
    "generator", "ema", "model_ema", "ema_model", "state_dict_ema", "ema_state_dict", "shadow", "teacher",
)  # fmt: skip
_NOT_NETWORKS = (
    "optim",
    "scheduler",
    "scaler",
    "rng",
    "sampler",
    "dataloader",
    "loops",
    "callbacks",
    "loss",
    "metric",
    "history",
)
_ANYWHERE = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
_LEADING = ("module.", "_forward_module.")
_LIGHTNING = "model."
_AVERAGE_COUNT = "n_averaged"  # torch's AveragedModel keeps its count beside the module
_DEEPEST = 3


@dataclass(frozen=True, slots=True)
class Networks:
    """What a tree holds of networks, by the key each was found under, the default first."""

    tensors: Mapping[str, Network]
    left_out: Mapping[str, Mapping[str, str]]  # of the same networks: why an entry is not among the tensors, by name
    wrappers: tuple[str, ...]  # what was unwrapped, in words


@dataclass(frozen=True, slots=True)
class _Candidate:
    entries: Mapping[str, object]  # tensors, and what is left out of them
    said: tuple[str, ...] = ()  # in words


def find_networks(tree: object, *, own_names: bool = False) -> Networks:
    """The networks under the names of their innermost modules; `own_names` as the checkpoint's format says."""
    found = dict(_candidates(tree, "", 0))
    if not found:
        found = _loose(tree)
    order = {key: place for place, key in enumerate(found)}
    networks: dict[str, Network] = {}
    left_out: dict[str, dict[str, str]] = {}
    words: list[str] = []
    for key in sorted(found, key=lambda key: (_place(key), order[key])):
        entries, said = unwrapped(found[key].entries, strip_model=not own_names)
        networks[key] = {name: item for name, item in entries.items() if isinstance(item, Stored)}
        left_out[key] = {name: why_left_out(item) for name, item in entries.items() if name not in networks[key]}
        where = f" of {key}" if len(found) > 1 else ""
        words.extend(word + where for word in (*found[key].said, *said))
    default = next(iter(networks), "")
    return Networks(networks, left_out, (f"taken from {default}", *words) if default else tuple(words))


def _place(key: str) -> tuple[int, int]:
    parts = key.split(".") if key else [""]
    return (_USUAL.index(parts[0]) if parts[0] in _USUAL else len(_USUAL), len(parts))


def _candidates(value: object, key: str, depth: int) -> Iterator[tuple[str, _Candidate]]:
    network = _as_network(value, depth)
    if network is not None:
        yield key, network
        return
    inner = value.state if isinstance(value, Opaque) else value
    if isinstance(inner, Mapping) and depth < _DEEPEST:
        for name, item in inner.items():
            if isinstance(name, str) and not name.lower().startswith(_NOT_NETWORKS):
                yield from _candidates(item, f"{key}.{name}" if key else name, depth + 1)


def _as_network(value: object, depth: int) -> _Candidate | None:
    """A state dict or a whole module as entries by name; None for anything else."""
    if isinstance(value, Opaque) and isinstance(value.state, Mapping) and "_parameters" in value.state:
        entries: dict[str, object] = {}
        _collect_module(value, "", entries, 0)
        return _Candidate(entries) if entries else None
    if _is_scripted(value):
        scripted = dict(_scripted_tensors(value, "", 0))
        return _Candidate(scripted, ("taken from a TorchScript module",)) if scripted else None
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        return None
    entries = {name: item for name, item in value.items() if not _is_extra(name, item)}
    tensors = [item for item in entries.values() if isinstance(item, Stored) or is_special(item)]
    # States of random generators are lone byte vectors, metrics lone numbers.
    if not any(is_special(item) or (item.shape and item.dtype != "uint8") for item in tensors):  # type: ignore[attr-defined]
        return None
    others = [item for item in entries.values() if not isinstance(item, Stored) and not is_special(item)]
    if len(others) * 9 > len(tensors) or not all(depth > 0 and _is_number(item) for item in others):
        return None
    return _Candidate(entries)


def _is_number(item: object) -> bool:
    """Whether something that is no tensor may be in a state dict, below the top of a checkpoint."""
    return item is None or isinstance(item, (bool, int, float, str))


def _is_extra(name: str, item: object) -> bool:
    return name == "__metadata__" or (name.endswith("_extra_state") and not isinstance(item, Stored))


def _collect_module(module: Opaque, prefix: str, into: dict[str, object], depth: int) -> None:
    state = module.state
    if not isinstance(state, Mapping) or depth > 100:
        return
    hidden = state.get("_non_persistent_buffers_set") or ()
    for kind in ("_parameters", "_buffers"):
        for name, item in (state.get(kind) or {}).items():
            if (isinstance(item, Stored) or is_special(item)) and not (kind == "_buffers" and name in hidden):
                into[f"{prefix}{name}"] = item
    for name, child in (state.get("_modules") or {}).items():
        if isinstance(child, Opaque):
            _collect_module(child, f"{prefix}{name}.", into, depth + 1)


def _is_scripted(value: object) -> bool:
    return isinstance(value, Opaque) and value.class_name.startswith("__torch__.")


def _scripted_tensors(module: object, prefix: str, depth: int) -> Iterator[tuple[str, object]]:
    """The tensors of a TorchScript module, whose attributes are its parameters, buffers and submodules alike."""
    state = module.state if isinstance(module, Opaque) else None
    for name, item in state.items() if isinstance(state, Mapping) and depth <= 100 else ():
        if isinstance(item, Stored) or is_special(item):
            yield f"{prefix}{name}", item
        elif _is_scripted(item):
            yield from _scripted_tensors(item, f"{prefix}{name}.", depth + 1)


def _loose(tree: object) -> dict[str, _Candidate]:
    """Tensors that lie beside other things at the top of the tree, if they look like a network's."""
    if not isinstance(tree, Mapping):
        return {}
    named = {name: item for name, item in tree.items() if isinstance(name, str) and isinstance(item, Stored)}
    tensors = {name: ref for name, ref in named.items() if ref.shape and not name.lower().startswith(_NOT_NETWORKS)}
    return {"": _Candidate(tensors)} if any(ref.dtype != "uint8" for ref in tensors.values()) else {}


def unwrapped(network: Mapping[str, _Kind], *, strip_model: bool) -> tuple[Mapping[str, _Kind], list[str]]:
    """The network under the names of its innermost module, and what was removed, in words."""
    words: list[str] = []
    average = {name: item for name, item in network.items() if name != _AVERAGE_COUNT}
    if len(average) < len(network) and all(name.startswith("module.") for name in average):
        network = average
        words.append(f"left out {_AVERAGE_COUNT}")
    for wrapper in _ANYWHERE:
        network = _renamed(network, {name: name.replace(wrapper, "") for name in network}, wrapper, words)
    leading = (*_LEADING, _LIGHTNING) if strip_model else _LEADING
    stripped = True
    while stripped:
        stripped = False
        for wrapper in leading:
            if network and all(name.startswith(wrapper) for name in network):
                network = _renamed(network, {name: name[len(wrapper) :] for name in network}, wrapper, words)
                stripped = True
    return network, words


def _renamed(
    network: Mapping[str, _Kind], names: Mapping[str, str], wrapper: str, words: list[str]
) -> Mapping[str, _Kind]:
    """The network under new names, unless two of them would become one."""
    if len(set(names.values())) < len(names) or all(old == new for old, new in names.items()):
        return network
    words.append(f"removed {wrapper}")
    return {names[name]: item for name, item in network.items()}
