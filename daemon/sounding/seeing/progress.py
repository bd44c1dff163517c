"""How far training had come, as far as a checkpoint's tree tells, each fact with the place it was read from."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from sounding.formats.scalars import number, numbers
from sounding.records import Fact, Progress

_STEP = ("global_step", "global_steps", "iter_num", "iteration", "step", "steps", "it", "iter", "num_updates", "epoch")
_UPDATES = ("global_step", "global_steps", "iter_num", "num_updates", "optimizer_steps")
_EPOCH = ("epoch", "current_epoch", "epochs")
_TOKENS = ("tokens", "tokens_seen", "ntokens_seen", "num_tokens", "total_tokens", "n_tokens", "num_input_tokens_seen",
           "consumed_tokens")  # fmt: skip
_EXAMPLES = ("examples", "examples_seen", "samples", "samples_seen", "num_samples", "consumed_samples",
             "consumed_train_samples", "global_samples")  # fmt: skip
_WALL_TIME = ("wall_time", "walltime", "train_time", "training_time", "elapsed", "elapsed_time", "time_elapsed",
              "timestamp", "time")  # fmt: skip
_MOST_STATES = 256
_INSIDE = ("trainer_state", "__metadata__", "progress", "train_state", "training_state", "meta", "state", "metadata")

_USERS_OWN = "custom_checkpoint_"  # what Accelerate saves of objects registered with it


def find_progress(tree: object, optimizer: object | None) -> Progress:
    """Everything that the tree says of progress."""
    places = list(_places(tree))
    rate = _rate(optimizer)
    return Progress(
        step=_whole(_first(places, _STEP)),
        updates=_whole(_first(places, _UPDATES)) or _counted(optimizer),
        epoch=_first(places, _EPOCH),
        tokens=_positive(_whole(_first(places, _TOKENS))),
        examples=_positive(_whole(_first(places, _EXAMPLES))),
        wall_time=_first(places, _WALL_TIME) or _timed(tree),
        lr_stored=rate,
        lr_last=_logged_rate(tree, rate),
    )


def with_path(progress: Progress, step: int | None, parts: Mapping[str, int | float | str]) -> Progress:
    """The same progress, with what the path itself tells in the first place."""
    told = {name: Fact(parts[name], "path") for name in ("updates", "epoch", "tokens", "examples") if name in parts}
    if step is not None:
        told["step"] = Fact(step, "path")
    return replace(progress, **told)


def _places(tree: object) -> Iterator[tuple[str, Mapping[object, object]]]:
    if not isinstance(tree, Mapping):
        return
    yield "", tree
    own = [key for key in tree if isinstance(key, str) and key.startswith(_USERS_OWN)]
    for key in (*_INSIDE, *own):
        inner = tree.get(key)
        if isinstance(inner, Mapping):
            yield f"{key}.", inner


def _first(places: Sequence[tuple[str, Mapping[object, object]]], keys: Sequence[str]) -> Fact | None:
    """The first key that has a number, at the top before further inside."""
    for prefix, mapping in places:
        for key in keys:
            value = _number_of(mapping.get(key))
            if value is not None:
                return Fact(value, prefix + key)
    return None


def _number_of(value: object) -> int | float | None:
    """A number; text too, since safetensors files can say nothing else."""
    if isinstance(value, str):
        try:
            value = float(value) if "." in value else int(value)
        except ValueError:
            return None
    return number(value)


def _timed(tree: object) -> Fact | None:
    """Seconds of training by the Timer of Lightning, which keeps them among the states of callbacks."""
    value: object = tree
    for key in ("callbacks", "Timer", "time_elapsed", "train"):
        value = value.get(key) if isinstance(value, Mapping) else None
    seconds = number(value)
    return None if seconds is None else Fact(seconds, "callbacks.Timer.time_elapsed.train")


def _whole(fact: Fact | None) -> Fact | None:
    if fact is None or isinstance(fact.value, str) or fact.value != int(fact.value):
        return None
    return Fact(int(fact.value), fact.source)


def _positive(fact: Fact | None) -> Fact | None:
    """Counters that trainers leave at 0 when they do not count say nothing."""
    return fact if fact is not None and not isinstance(fact.value, str) and fact.value > 0 else None


def _counted(optimizer: object | None) -> Fact | None:
    """The greatest step of any parameter (those that got no gradient lag behind), or that of a group."""
    if not isinstance(optimizer, Mapping):
        return None
    states, groups = optimizer.get("state"), optimizer.get("param_groups")
    by_parameter = _spread(states.values()) if isinstance(states, Mapping) else []
    by_group = groups if isinstance(groups, (list, tuple)) else []
    for source, holders in (("optimizer.state.step", by_parameter), ("optimizer.param_groups.step", by_group)):
        steps = numbers([holder.get("step") for holder in holders if isinstance(holder, Mapping)])
        known = [step for step in steps if step is not None]
        if known:
            return _whole(Fact(max(known), source))
    return None


def _spread(states: Iterable[object]) -> list[object]:
    """Some of many: every step lies on a page of its own, and reading thousands is slow on a network."""
    listed = list(states)
    return listed[:: max(1, len(listed) // _MOST_STATES)]


def _rate(optimizer: object | None) -> Fact | None:
    groups = optimizer.get("param_groups") if isinstance(optimizer, Mapping) else None
    if not isinstance(groups, (list, tuple)) or not groups or not isinstance(groups[0], Mapping):
        return None
    rate = number(groups[0].get("lr"))
    return None if rate is None else Fact(float(rate), "optimizer.param_groups[0].lr")


def _logged_rate(tree: object, stored: Fact | None) -> Fact | None:
    """The rate of the last update from the Trainer's log, where the log can only mean that.

    Older Trainers logged the rate of the next update, newer ones that of the last. A logged rate other than the
    stored (next) one is the last one's; an equal one is so only while the schedule stands still.
    """
    state = tree.get("trainer_state") if isinstance(tree, Mapping) else None
    log = state.get("log_history") if isinstance(state, Mapping) else None
    if not isinstance(state, Mapping) or not isinstance(log, list) or stored is None:
        return None
    rates = [(entry.get("step"), number(entry.get("learning_rate"))) for entry in log if isinstance(entry, Mapping)]
    logged = [(step, rate) for step, rate in rates if rate is not None]
    if not logged or logged[-1][0] != state.get("global_step"):
        return None
    rate = logged[-1][1]
    constant = len(logged) > 1 and logged[-2][1] == rate
    if rate != stored.value or constant:
        return Fact(float(rate), "trainer_state.log_history[-1].learning_rate")
    return None
