"""Learning rates of a checkpoint's last update, and updates between two, as far as they can be known."""

from collections.abc import Sequence
from dataclasses import dataclass

from sounding.passes.optimizer import Group
from sounding.records import Checkpoint, Progress


@dataclass(frozen=True)
class Rates:
    """One rate for each group, None where none is stored; `certain` when they are surely the last update's."""

    values: tuple[float | None, ...]
    source: str
    certain: bool


def rates_of(groups: Sequence[Group], progress: Progress) -> Rates:
    """The last update's rates.

    A log's word is taken, in proportion for the groups it does not speak of. Otherwise the stored rates are, which a
    scheduler of torch's own (it leaves `initial_lr`) has already set to the next update's: these are not certain.
    """
    stored = tuple(group.learning_rate for group in groups)
    last = progress.lr_last
    if last is not None and not isinstance(last.value, str) and groups:
        shares = shares_of(groups)
        return Rates(tuple(None if share is None else share * last.value for share in shares), last.source, True)
    scheduled = any("initial_lr" in group.settings for group in groups)
    source = "stored, which a scheduler has set to the next update's" if scheduled else "stored, and no scheduler seen"
    return Rates(stored, source, not scheduled)


def updates_between(before: Checkpoint, after: Checkpoint) -> int | None:
    """Updates from one checkpoint to another; None where either's count is unknown, or they do not ascend."""
    counts = [each.progress.updates.value if each.progress.updates else None for each in (before, after)]
    if not all(isinstance(count, int) for count in counts):
        return None
    passed = int(counts[1] or 0) - int(counts[0] or 0)
    return passed if passed > 0 else None


def shares_of(groups: Sequence[Group]) -> list[float | None]:
    """Each group's rate over the first one's: as stored, or as they began where a schedule has ended at zero."""
    for rates in ([group.learning_rate for group in groups], [group.number("initial_lr") for group in groups]):
        if rates[0]:
            return [None if rate is None else rate / rates[0] for rate in rates]
    return [1.0, *[None] * (len(groups) - 1)]
