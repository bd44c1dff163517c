"""Verdicts over time, with scripted clocks."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from making import complete, sighting

from sounding.records import Examination, State, Verdict
from sounding.seeing.settle import (
    Observed,
    examined,
    may_become_complete_by_waiting,
    observe,
    settle,
    wants_examination,
)

QUIET = 2.0
HALF = Examination(Verdict(State.PENDING, "6 of 8 shards"))
BROKEN = Examination(Verdict(State.BROKEN, "no tensors"))
WHOLE = complete("f")
WHOLE_IF_QUIET = complete("f", needs_quiet=True)


def seen_at(now: float, examination: Examination | None = None, **fields: object) -> Observed:
    fresh = observe(None, sighting(**fields), now)  # type: ignore[arg-type]
    return fresh if examination is None else examined(fresh, examination, now)


def state_at(observed: Observed, now: float, newest: int | None = None) -> State:
    return settle(observed, QUIET, newest, now).state


def test_what_nobody_examined_is_pending():
    assert settle(seen_at(0), QUIET, None, 100) == Verdict(State.PENDING, "not examined yet")
    assert state_at(seen_at(0), 100, newest=99) is State.PENDING, "it may yet be found whole"


def test_a_proof_that_excludes_a_writer_counts_at_once():
    assert settle(seen_at(0, WHOLE), QUIET, None, 0) == WHOLE.verdict


def test_a_weaker_proof_counts_after_the_quiet_time():
    observed = seen_at(10, WHOLE_IF_QUIET)
    assert [state_at(observed, now) for now in (10, 11.9, 12, 13)] == [State.PENDING] * 2 + [State.COMPLETE] * 2
    assert settle(observed, QUIET, None, 11).reason == "whole; waiting for 2 s without a change"
    assert settle(observed, QUIET, 99, 11).state is State.PENDING, "whole, so not left behind"


def test_a_change_forgets_the_examination_and_starts_the_quiet_time_anew():
    before = seen_at(0, WHOLE_IF_QUIET)
    grown = observe(before, sighting(size=101), 5)
    assert grown.examination is None
    again = examined(grown, WHOLE_IF_QUIET, 5)
    assert [state_at(again, now) for now in (6.9, 7)] == [State.PENDING, State.COMPLETE]


def test_another_look_at_the_same_stamp_keeps_the_history():
    before = seen_at(0, WHOLE_IF_QUIET)
    renamed = sighting(parts={"seed": 1})
    after = observe(before, renamed, 5)
    assert after == dataclasses.replace(before, sighting=renamed)


def test_a_half_checkpoint_below_a_complete_one_is_abandoned_until_it_is_found_whole():
    observed = seen_at(0, HALF)  # of step 10
    for newest, state in ((None, State.PENDING), (9, State.PENDING), (10, State.PENDING), (11, State.ABANDONED)):
        assert state_at(observed, 100, newest) is state
    assert settle(observed, QUIET, 11, 100).reason == "6 of 8 shards; the run has gone on to step 11"
    revoked = examined(observe(observed, sighting(size=200), 200), WHOLE, 200)
    assert state_at(revoked, 200, newest=11) is State.COMPLETE


def test_a_half_checkpoint_without_a_step_is_never_abandoned():
    assert state_at(seen_at(0, HALF, step=None), 10**6, newest=10**6) is State.PENDING


@pytest.mark.parametrize("newest", [None, 11])
def test_what_is_broken_stays_so_until_it_changes(newest: int | None):
    observed = seen_at(0, BROKEN)
    for now in (0.0, 10.0, 1e9):
        assert settle(observed, QUIET, newest, now) == BROKEN.verdict
        assert not wants_examination(observed, now)
    assert wants_examination(observe(observed, sighting(mtime_ns=2), 5), 5)


def test_every_new_stamp_is_examined_and_a_complete_one_only_once():
    assert wants_examination(seen_at(0), 0)
    assert not wants_examination(seen_at(0, WHOLE), 1e9)
    assert not wants_examination(seen_at(0, WHOLE_IF_QUIET), 1e9)


def test_a_half_checkpoint_is_examined_ever_more_rarely():
    observed, moments = seen_at(0, HALF), []
    for now in range(2600):
        if wants_examination(observed, now):
            moments.append(now)
            observed = examined(observed, HALF, now)
    assert moments == [5, 20, 80, 320, 920, 1520, 2120]


def test_waiting_helps_only_what_lacks_an_examination_or_quiet():
    def may(observed: Observed, now: float) -> bool:
        return may_become_complete_by_waiting(observed, QUIET, now)

    assert may(seen_at(0), 100)
    assert [may(seen_at(0, WHOLE_IF_QUIET), now) for now in (0, 1.9, 2)] == [True, True, False]
    assert not any(may(seen_at(0, examination), 0) for examination in (WHOLE, HALF, BROKEN))


@given(
    st.lists(st.tuples(st.floats(0.01, 3.0), st.booleans()), min_size=1, max_size=20),
    st.sampled_from([WHOLE_IF_QUIET, HALF]),
)
def test_complete_needs_quiet_since_the_last_change_whatever_came_before(
    looks: list[tuple[float, bool]], found: Examination
):
    now, changed_at, size = 0.0, 0.0, 1
    observed = seen_at(now, found, size=size)
    for wait, changes in looks:
        now += wait
        if changes:
            size, changed_at = size + 1, now
        observed = observe(observed, sighting(size=size), now)
        if observed.examination is None:
            observed = examined(observed, found, now)
        is_quiet = now - changed_at >= QUIET
        assert (state_at(observed, now) is State.COMPLETE) == (is_quiet and found is WHOLE_IF_QUIET)
