"""What every kind of log is made of: entries, each with the update it belongs to and the numbers logged there."""

import hashlib
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

STEPS = (
    "step", "global_step", "_step", "trainer/global_step", "updates", "num_updates", "update", "iteration",
    "iter_num", "iter", "it", "steps",
)  # fmt: skip
EMPTY = ""  # the digest of no entries
_MOST_KEYS = 5000  # of one entry
_LONGEST_KEY = 200  # characters
_DEEPEST = 4


@dataclass(frozen=True, slots=True)
class Entry:
    """Numbers that were logged together; `values` are sorted by key and not empty."""

    updates: int
    values: tuple[tuple[str, float], ...]


class LogError(Exception):
    """The log cannot be read on as it is; the message says why, and what would help."""


def entry_of(found: Mapping[str, object], step_keys: Sequence[str]) -> Entry | None:
    """The entry among named values, nested or not; None where no update or no other number is told.

    The update is under the first of `step_keys` that holds a whole number. Texts, truths and lists are left out.
    """
    flat = dict(_flat(found))
    told = next((key for key in step_keys if key in flat and flat[key].is_integer()), None)
    if told is None or abs(flat[told]) >= 2**63:
        return None
    updates = int(flat.pop(told))
    values = {_clean(key): value for key, value in flat.items()}
    return Entry(updates, tuple(sorted(values.items()))) if values else None


def number(value: object) -> float | None:
    """The value as a float where it is a number; NaN and infinities are numbers that a trainer may well log."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def digest(before: str, entry: Entry) -> str:
    """The digest of a series of entries, from that of all but the last."""
    text = hashlib.blake2b(before.encode(), digest_size=6)
    text.update(struct.pack("<q", entry.updates))
    for key, value in entry.values:
        text.update(key.encode() + b"\0" + struct.pack("<d", value))
    return text.hexdigest()


def _flat(found: Mapping[str, object], prefix: str = "", depth: int = 1) -> Iterator[tuple[str, float]]:
    for count, (name, value) in enumerate(found.items()):
        if count == _MOST_KEYS:
            raise LogError(f"an entry has more than {_MOST_KEYS} values")
        if isinstance(value, dict) and depth < _DEEPEST:
            yield from _flat(value, f"{prefix}{name}.", depth + 1)
            continue
        read = number(value)
        if read is not None:
            yield f"{prefix}{name}", read


def _clean(key: str) -> str:
    """The key as it can be written down: halves of characters escaped, and not endless."""
    key = key if key.isascii() else key.encode("utf-8", "backslashreplace").decode()
    return key if len(key) <= _LONGEST_KEY else f"{key[:_LONGEST_KEY]}…"
