"""The place in a log up to which it has been read, and what tells whether the log is still the one that was read.

Trainers append to their logs, write them anew with another header, replace them by a longer copy, cut them off and
begin again. So a place holds, beside the bytes already passed, digests of the entries already taken: a log that was
written anew is read from its beginning, and what it says as before is not taken twice.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TypeAlias

from sounding.logs.entries import EMPTY, Entry, digest
from sounding.logs.lines import Spot

Stat: TypeAlias = tuple[int, int, int]  # inode, size, mtime_ns
NOWHERE: Stat = (0, 0, 0)
UNREAD = (-1, -1)  # size and time of a file that has more to read
_SPARED = 8  # every cut up to this many entries is kept
_GROWTH = 1.25  # beyond, each kept one lies so much further than the one before


@dataclass(frozen=True, slots=True)
class Place:
    """Where reading stands in one file.

    A pass over the file has met `met` entries up to `spot`; while that is less than `taken`, it meets known ones.
    """

    stat: Stat = NOWHERE  # of the file when it was read
    spot: Spot = Spot()
    tail: str = ""  # digest of the last bytes before the spot
    met: int = 0
    chain: str = EMPTY  # digest of the entries met
    greatest: Mapping[str, int] = field(default_factory=dict)  # updates met since the log last went back, by key
    taken: int = 0
    cuts: tuple[tuple[int, str], ...] = ()  # counts of entries taken, with the digests of so many; the last is `taken`
    attempt: int = 0
    fresh: bool = True  # the next entry taken begins a new attempt

    def again(self) -> "Place":
        """The same knowledge at the beginning of the file."""
        return replace(self, spot=Spot(), tail="", met=0, chain=EMPTY, greatest={})

    def meet(self, entry: Entry, spot: Spot) -> "Place | None":
        """The place after one more entry, known or new; None where the log says otherwise than it did."""
        chain, met = digest(self.chain, entry), self.met + 1
        if met > self.taken:
            return self._after(entry, spot, chain, met, _with_cut(self.cuts, met, chain), fresh=False)
        if dict(self.cuts).get(met, chain) != chain:
            return None
        return self._after(entry, spot, chain, self.taken, self.cuts, fresh=self.fresh)

    def parted(self) -> "Place":
        """The place at the beginning, once the next entry was found to be another: what was the same stays taken."""
        cuts = tuple(cut for cut in self.cuts if cut[0] <= self.met)
        return replace(self.again(), taken=cuts[-1][0] if cuts else 0, cuts=cuts, fresh=True)

    def goes_back(self, entry: Entry) -> bool:
        """Whether a quantity was logged at a later update before: the log was begun again from an earlier one."""
        return any(self.greatest.get(key, entry.updates) > entry.updates for key, _ in entry.values)

    def _after(
        self, entry: Entry, spot: Spot, chain: str, taken: int, cuts: tuple[tuple[int, str], ...], *, fresh: bool
    ) -> "Place":
        before = {} if self.goes_back(entry) else self.greatest
        greatest = {**before, **dict.fromkeys((key for key, _ in entry.values), entry.updates)}
        # Spelt out, as this is done for every entry of every log: `replace` takes twice as long.
        return Place(self.stat, spot, self.tail, self.met + 1, chain, greatest, taken, cuts, self.attempt, fresh)


def place_text(place: Place) -> str:
    """The place as it is kept."""
    return json.dumps(asdict(place), separators=(",", ":"))


def read_place(text: str) -> Place:
    """The place that `place_text` wrote."""
    kept = json.loads(text)
    inode, size, mtime_ns = kept.pop("stat")
    offset, header = kept.pop("spot")
    cuts = tuple((count, digest) for count, digest in kept.pop("cuts"))
    return Place(stat=(inode, size, mtime_ns), spot=Spot(offset, tuple(header)), cuts=cuts, **kept)


def _with_cut(cuts: tuple[tuple[int, str], ...], taken: int, chain: str) -> tuple[tuple[int, str], ...]:
    """The cuts with a new last one, in the place of the former last one where that lies too close to its neighbour."""
    kept = cuts[:-1] if len(cuts) > _SPARED and cuts[-1][0] < cuts[-2][0] * _GROWTH else cuts
    return (*kept, (taken, chain))
