"""Which stored tensor belongs to which name of an architecture, and, when none does, what went wrong in words."""

from collections.abc import Iterable, Mapping, Sequence

from sounding.errors import SoundingError

Shape = tuple[int, ...]

# Segments that wrappers (DataParallel, torch.compile, FSDP, activation checkpointing) put between a model's names.
_WRAPPING = frozenset({"module", "_orig_mod", "_forward_module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
_SHOWN = 10
_OPTIONAL = "num_batches_tracked"  # counts batches for a cumulative average; old checkpoints lack it, eval ignores it


def match(stored: Mapping[str, Shape], target: Mapping[str, Shape], twins: Mapping[str, str]) -> dict[str, str]:
    """Target name → stored name, strictly one to one and of equal shapes.

    Names are compared as they are, then without wrappers' segments, then without the prefix that all of a side
    share. `twins` maps a target name to the first name of the same (tied) tensor, which may stand in for it.
    Raises SoundingError listing missing and unexpected names and shapes that differ, with a guess at the wrapper.
    """
    for simplify in (_as_is, _without_wrappers, _without_prefix):
        pairs = _pairs(simplify(list(stored)), simplify(list(target)), target, twins)
        if pairs is not None:
            _require_shapes(pairs, stored, target)
            return pairs
    raise SoundingError(_explain(list(stored), list(target), twins))


def _pairs(
    stored: Mapping[str, str], target: Mapping[str, str], names: Iterable[str], twins: Mapping[str, str]
) -> dict[str, str] | None:
    """`stored` and `target` map names to their simplified forms."""
    by_form = {form: name for name, form in stored.items()}
    if len(by_form) != len(stored):
        return None
    tied = _tied_groups(twins)
    pairs: dict[str, str] = {}
    for name in names:
        candidates = (name, *tied.get(twins.get(name, name), ()))
        found = next((by_form[target[each]] for each in candidates if target[each] in by_form), None)
        if found is not None:
            pairs[name] = found
        elif not name.endswith(_OPTIONAL):
            return None
    return pairs if set(stored) <= set(pairs.values()) else None


def _tied_groups(twins: Mapping[str, str]) -> dict[str, list[str]]:
    """Every name of a tied tensor, by its first."""
    groups: dict[str, list[str]] = {}
    for name, first in twins.items():
        groups.setdefault(first, [first]).append(name)
    return groups


def _as_is(names: Sequence[str]) -> dict[str, str]:
    return {name: name for name in names}


def _without_wrappers(names: Sequence[str]) -> dict[str, str]:
    return {name: ".".join(part for part in name.split(".") if part not in _WRAPPING) for name in names}


def _without_prefix(names: Sequence[str]) -> dict[str, str]:
    bare = _without_wrappers(names)
    prefix = shared_prefix(bare.values())
    return {name: form.removeprefix(prefix) for name, form in bare.items()}


def shared_prefix(names: Iterable[str]) -> str:
    """The longest dotted prefix of all names, with its dot; empty when they share none."""
    paths = [name.split(".")[:-1] for name in names]
    shared: list[str] = []
    for level in zip(*paths, strict=False):
        if len(set(level)) > 1:
            break
        shared.append(level[0])
    return "".join(f"{part}." for part in shared)


def _require_shapes(pairs: Mapping[str, str], stored: Mapping[str, Shape], target: Mapping[str, Shape]) -> None:
    wrong = [
        f"{name} (stored {list(stored[source])}, architecture {list(target[name])})"
        for name, source in pairs.items()
        if tuple(stored[source]) != tuple(target[name])
    ]
    if wrong:
        raise SoundingError(
            f"the checkpoint's tensors do not fit the recipe's architecture; shapes differ: {_listing(wrong)}. "
            "Let `architecture` build the network with the sizes this run was trained with."
        )


def _explain(stored: Sequence[str], target: Sequence[str], twins: Mapping[str, str]) -> str:
    missing = [name for name in target if name not in stored and name not in twins and not name.endswith(_OPTIONAL)]
    unexpected = [name for name in stored if name not in target]
    lines = ["the checkpoint's names do not match the recipe's architecture."]
    if missing:
        lines.append(f"Missing in the checkpoint: {_listing(missing)}.")
    if unexpected:
        lines.append(f"Unexpected in the checkpoint: {_listing(unexpected)}.")
    lines.append(_guess(stored, target))
    return " ".join(lines)


def _guess(stored: Sequence[str], target: Sequence[str]) -> str:
    theirs, ours = shared_prefix(stored), shared_prefix(target)
    if theirs != ours and theirs:
        return (
            f"Every stored name starts with `{theirs}`, no such prefix is shared by the architecture: "
            f"perhaps a wrapper calling its network `{theirs[:-1]}` was saved, and its network differs from this one."
        )
    common = len({*stored} & {*target})
    if common:
        return f"{common} of {len(target)} names do match: another version or configuration of the same network?"
    return "No name matches: is this the recipe of another network?"


def _listing(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return f"{shown} and {len(names) - _SHOWN} more" if len(names) > _SHOWN else shown
