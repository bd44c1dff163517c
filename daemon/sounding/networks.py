"""Finds the networks in a checkpoint's tree and removes the wrappers around their names."""

from collections.abc import Iterator, Mapping

from sounding.records import Opaque, TensorRef

_Network = dict[str, TensorRef]

# Where networks usually are, best first; other keys follow in the order of the file.
_USUAL = (
    "", "model", "state_dict", "model_state_dict", "net", "network", "module", "params", "model_state", "weights",
    "generator", "ema", "model_ema", "ema_model", "state_dict_ema", "ema_state_dict", "shadow", "teacher",
)  # fmt: skip
_NOT_NETWORKS = ("optim", "scheduler", "scaler", "rng", "random", "sampler", "dataloader", "loops", "callbacks", "amp")
_ANYWHERE = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
_LEADING = ("module.", "_forward_module.")
_LIGHTNING = "model."
_AVERAGE_COUNT = "n_averaged"  # torch's AveragedModel keeps its count beside the module
_DEEPEST = 3


def find_networks(tree: object) -> tuple[dict[str, _Network], tuple[str, ...]]:
    """Networks by the key they were found under, default first, and what was unwrapped, in words."""
    found = dict(_candidates(tree, "", 0))
    if not found:
        found = {"": _loose(tree)}
    order = {key: place for place, key in enumerate(found)}
    wrappers: list[str] = []
    networks: dict[str, _Network] = {}
    for key in sorted(found, key=lambda key: (_place(key), order[key])):
        if found[key]:
            networks[key], words = _unwrapped(found[key], strip_model=not _is_directory(tree))
            where = f" of {key}" if len(found) > 1 else ""
            wrappers.extend(word + where for word in words)
    default = next(iter(networks), "")
    if default:
        wrappers.insert(0, f"taken from {default}")
    return networks, tuple(wrappers)


def _is_directory(tree: object) -> bool:
    """Whether weights came as a library saved them: then `model.` is part of the architecture's own names."""
    return isinstance(tree, Mapping) and "config" in tree and isinstance(tree.get("model"), Mapping)


def _place(key: str) -> tuple[int, int]:
    parts = key.split(".") if key else [""]
    return (_USUAL.index(parts[0]) if parts[0] in _USUAL else len(_USUAL), len(parts))


def _candidates(value: object, key: str, depth: int) -> Iterator[tuple[str, _Network]]:
    network = _as_network(value)
    if network is not None:
        yield key, network
    elif isinstance(value, Mapping) and depth < _DEEPEST:
        for name, item in value.items():
            if isinstance(name, str) and not name.lower().startswith(_NOT_NETWORKS):
                yield from _candidates(item, f"{key}.{name}" if key else name, depth + 1)


def _as_network(value: object) -> _Network | None:
    """A state dict or a whole module as tensors by name; None for anything else."""
    if isinstance(value, Opaque) and isinstance(value.state, Mapping) and "_parameters" in value.state:
        tensors: _Network = {}
        _collect_module(value, "", tensors, 0)
        return tensors or None
    if not isinstance(value, Mapping):
        return None
    named = {name: item for name, item in value.items() if isinstance(name, str) and not _is_extra(name)}
    if not named or len(named) < sum(not isinstance(name, str) for name in value):
        return None
    if not all(isinstance(name, str) for name in value) or not all(isinstance(t, TensorRef) for t in named.values()):
        return None
    tensors = {name: item for name, item in named.items() if isinstance(item, TensorRef)}
    # States of random generators are lone byte vectors.
    return tensors if any(ref.dtype != "uint8" for ref in tensors.values()) else None


def _is_extra(name: str) -> bool:
    return name == "__metadata__" or name.endswith("_extra_state")


def _collect_module(module: Opaque, prefix: str, into: _Network, depth: int) -> None:
    state = module.state
    if not isinstance(state, Mapping) or depth > 100:
        return
    hidden = state.get("_non_persistent_buffers_set") or ()
    for kind in ("_parameters", "_buffers"):
        for name, item in (state.get(kind) or {}).items():
            if isinstance(item, TensorRef) and not (kind == "_buffers" and name in hidden):
                into[f"{prefix}{name}"] = item
    for name, child in (state.get("_modules") or {}).items():
        if isinstance(child, Opaque):
            _collect_module(child, f"{prefix}{name}.", into, depth + 1)


def _loose(tree: object) -> _Network:
    """Tensors that lie beside other things at the top of the tree, if they look like a network's."""
    if not isinstance(tree, Mapping):
        return {}
    tensors = {name: item for name, item in tree.items() if isinstance(name, str) and isinstance(item, TensorRef)}
    return {name: ref for name, ref in tensors.items() if ref.shape and not name.lower().startswith(_NOT_NETWORKS)}


def _unwrapped(network: _Network, *, strip_model: bool) -> tuple[_Network, list[str]]:
    words: list[str] = []
    average = {name: ref for name, ref in network.items() if name != _AVERAGE_COUNT}
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


def _renamed(network: _Network, names: Mapping[str, str], wrapper: str, words: list[str]) -> _Network:
    """The network under new names, unless two of them would become one."""
    if len(set(names.values())) < len(names) or all(old == new for old, new in names.items()):
        return network
    words.append(f"removed {wrapper}")
    return {names[name]: ref for name, ref in network.items()}
