"""From sightings to verdicts over time: pure functions of what was seen, when, and what the examiner said.

Quiet time is measured by the observer's own monotonic clock between two looks, never as "now minus modification
time": clocks of other hosts lie.
"""

from dataclasses import dataclass, replace

from sounding.records import Examination, Sighting, State, Verdict

_EXAMINE_AGAIN = 4.0  # an unchanged, incomplete file is examined again when its quiet time has grown by this factor
_FIRST_AGAIN = 5.0  # seconds
_GREATEST_STEP = 2**63 - 1  # what the results can hold
_LAST_AGAIN = 600.0  # no longer than this between two: what could not be read may have become readable


@dataclass(frozen=True, slots=True)
class Observed:
    """A sighting with its history: since when its stamp is unchanged, and what the examiner said of that stamp."""

    sighting: Sighting
    quiet_since: float  # monotonic
    examination: Examination | None = None
    examined_at: float = 0.0  # monotonic


def observe(before: Observed | None, sighting: Sighting, now: float) -> Observed:
    """Take in one more look at a path; a changed stamp forgets what was known of the old one."""
    if before is None or before.sighting.stamp != sighting.stamp:
        return Observed(sighting, now)
    return replace(before, sighting=sighting)


def examined(observed: Observed, examination: Examination, now: float) -> Observed:
    """Add what the examiner said of the stamp last seen."""
    return replace(observed, examination=examination, examined_at=now)


def plausible(examination: Examination) -> Examination:
    """The examination, unless it read a step that cannot be written down."""
    step = examination.progress.step
    if step is None or abs(int(step.value)) <= _GREATEST_STEP:
        return examination
    verdict = Verdict(State.BROKEN, f"{step.source} is {step.value}, which cannot be a step")
    return replace(examination, verdict=verdict, progress=replace(examination.progress, step=None))


def wants_examination(observed: Observed, now: float) -> bool:
    """Whether the examiner should look (again): at every new stamp, and ever more rarely at an incomplete one."""
    examination = observed.examination
    if examination is None:
        return True
    if examination.verdict.state is not State.PENDING:
        return False
    waited = observed.examined_at - observed.quiet_since
    due = now - observed.quiet_since >= max(_FIRST_AGAIN, _EXAMINE_AGAIN * waited)
    return due or now - observed.examined_at >= _LAST_AGAIN


def settle(observed: Observed, quiet_seconds: float, newest_complete: int | None, now: float) -> Verdict:
    """The verdict on a sighting.

    `newest_complete` is the greatest step of a complete checkpoint of the same run: an incomplete one below it was
    left behind. A verdict of abandoned is revoked by the next examination that finds the file whole.
    """
    examination = observed.examination
    if examination is None:
        return Verdict(State.PENDING, "not examined yet")
    verdict = examination.verdict
    if verdict.state is State.COMPLETE and examination.needs_quiet:
        quiet = now - observed.quiet_since
        if quiet < quiet_seconds:
            return Verdict(State.PENDING, f"whole; waiting for {quiet_seconds:g} s without a change")
    if verdict.state is State.PENDING and _left_behind(observed, newest_complete):
        return Verdict(State.ABANDONED, f"{verdict.reason}; the run has gone on to step {newest_complete}")
    return verdict


def may_become_complete_by_waiting(observed: Observed, quiet_seconds: float, now: float) -> bool:
    """Whether only quiet time is missing, so that a single pass is worth extending."""
    examination = observed.examination
    if examination is None:
        return True
    quiet = now - observed.quiet_since
    return examination.verdict.state is State.COMPLETE and examination.needs_quiet and quiet < quiet_seconds


def _left_behind(observed: Observed, newest_complete: int | None) -> bool:
    step = observed.sighting.step
    return step is not None and newest_complete is not None and step < newest_complete
