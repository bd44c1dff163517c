"""What is seen beside what the results know of it."""

from sounding.keeping.ledger import Ledger
from sounding.records import Examination
from sounding.seeing.roll import Seen, run_of
from sounding.seeing.settle import Observed, examined


def recall(ledger: Ledger, observed: Observed, sources: frozenset[str], now: float) -> Observed:
    """Spare the examiner what was recorded of the same stamp before a restart.

    Only complete checkpoints are recalled: this version may understand what an earlier one called broken.
    """
    recorded = ledger.recognise(observed.sighting)
    if observed.examination is not None or recorded is None or recorded.checkpoint is None:
        return observed
    sighting, checkpoint = observed.sighting, recorded.checkpoint
    if sighting.step not in (None, checkpoint.step):
        return observed  # the pattern has changed since
    if not sources <= recorded.asked:
        return observed  # more attributes are asked for
    recalled = Examination(
        recorded.verdict,
        format=checkpoint.format,
        fingerprint=checkpoint.fingerprint,
        progress=checkpoint.progress,
        asked=tuple(sorted(recorded.asked)),
    )
    return examined(observed, recalled, now)


def is_news(ledger: Ledger, seen: Seen) -> bool:
    """Whether the results do not know this yet; a growing file is news once, not at every block."""
    recorded = ledger.past(run_of(seen.sighting)).recorded.get(seen.sighting.path)
    if recorded is None or recorded.verdict.state is not seen.verdict.state:
        return True
    if seen.checkpoint is not None and recorded.stamp != seen.sighting.stamp:
        return True
    return seen.examination is not None and not recorded.asked.issuperset(seen.examination.asked)
