"""When a checkpoint first came into sight, under whatever name, and as which of its run."""

from dataclasses import dataclass, field
from datetime import datetime

from sounding.deciding.plan import checkpoint_identity
from sounding.keeping.ledger import Ledger, RunName
from sounding.records import Checkpoint
from sounding.seeing.roll import run_of, step_of
from sounding.seeing.settle import Observed


@dataclass
class Births:
    """Ordinals and times, from the results where they are recorded; given once where they are not."""

    ledger: Ledger
    _ordinals: dict[RunName, int] = field(default_factory=dict)  # the greatest given so far
    _given: dict[str, tuple[int, datetime]] = field(default_factory=dict)  # by checkpoint id, until it is recorded

    def checkpoint(self, observed: Observed, wall: datetime) -> Checkpoint:
        """The checkpoint that a complete sighting is; `wall` is now."""
        sighting, examination = observed.sighting, observed.examination
        assert examination is not None
        step = step_of(observed)
        identity = checkpoint_identity(sighting.store, sighting.run, step, examination.fingerprint)
        ordinal, first_seen = self.of(run_of(sighting), identity, wall)
        return Checkpoint(
            identity,
            sighting.store,
            sighting.run,
            step,
            sighting.path,
            examination.format,
            examination.fingerprint,
            sighting.stamp,
            ordinal,
            first_seen,
            examination.progress,
        )

    def of(self, run: RunName, identity: str, wall: datetime) -> tuple[int, datetime]:
        """The checkpoint's ordinal in its run and the time it was first seen; `wall` if that is now."""
        recorded = self.ledger.past(run).history
        if identity in recorded:
            self._given.pop(identity, None)
            return recorded[identity].ordinal, recorded[identity].first_seen
        if identity not in self._given:
            greatest = self._ordinals.get(run, max((known.ordinal for known in recorded.values()), default=-1))
            self._ordinals[run] = greatest + 1
            self._given[identity] = self._ordinals[run], wall
        return self._given[identity]
