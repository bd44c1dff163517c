"""Passes over a pair of checkpoints: those that need `other`, themselves or through another pass."""

from sounding.measuring.collecting import AnyPass, AnyPlugin
from sounding.measuring.discovery import Loaded

OFFERED = ("checkpoint", "run", "opened")  # roots that `other` has whether or not its user needs its own


def paired(loaded: Loaded, name: str) -> bool:
    """Whether a pass is computed for a pair, and not for one checkpoint."""
    return name in loaded.passes and "other" in loaded.transitive([name])


def paired_only(loaded: Loaded) -> Loaded:
    """The passes over pairs alone; what they take from one checkpoint is given to them."""
    return Loaded({}, {name: item for name, item in loaded.passes.items() if paired(loaded, name)})


def asked_of_one(loaded: Loaded, user: AnyPlugin | AnyPass) -> tuple[str, ...]:
    """What a plugin or pass takes from its own checkpoint, passes over pairs on its behalf included."""
    names: dict[str, None] = {}
    for need in user.needs:
        if paired(loaded, need):
            names.update(dict.fromkeys(asked_of_one(loaded, loaded.passes[need])))
        elif need != "other":
            names[need] = None
    return tuple(names)


def asked_of_other(loaded: Loaded, user: AnyPlugin | AnyPass) -> tuple[str, ...]:
    """What it takes from the second checkpoint of its pair, passes over pairs on its behalf included."""
    names = dict.fromkeys(offered_by_other(loaded, user) if "other" in user.needs else ())
    for need in user.needs:
        if paired(loaded, need):
            names.update(dict.fromkeys(asked_of_other(loaded, loaded.passes[need])))
    return tuple(names)


def offered_by_other(loaded: Loaded, user: AnyPlugin | AnyPass) -> tuple[str, ...]:
    """What `other` has for this user: the same as it needs of its own checkpoint, and a few roots."""
    own = (need for need in user.needs if need != "other" and not paired(loaded, need))
    return tuple(dict.fromkeys((*own, *OFFERED)))
