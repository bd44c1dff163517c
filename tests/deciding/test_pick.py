"""Choosing the next job: the newest first, then from coarse to fine, and suspects alone."""

from dataclasses import replace
from datetime import timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from making import START, checkpoint, outcome, sheet, task_on

from sounding.deciding.pick import Choice, RunPlan, at_risk, choose, suspects
from sounding.deciding.plan import Owed, coarse_to_fine
from sounding.records import Checkpoint, Ending, Key, Subject, Task

NORM, LOSS, RANK = sheet("norm"), sheet("loss"), sheet("rank")


def nobody(key: Key) -> bool:
    return False


def owed_on(of: Checkpoint, *by: str) -> Owed:
    return Owed(of, tuple(task_on(of, sheet(name)) for name in by or ("norm",)), ())


def plan_of(checkpoints: list[Checkpoint], *owed: Owed) -> RunPlan:
    every = owed or tuple(owed_on(known) for known in checkpoints)
    return RunPlan(tuple(checkpoints), {one.checkpoint.checkpoint_id: one for one in every})


def run_of(name: str, count: int, first_seen: int = 0) -> list[Checkpoint]:
    return [checkpoint(step, name, first_seen=START + timedelta(seconds=first_seen + step)) for step in range(count)]


def in_order(*plans: RunPlan) -> list[tuple[str, int]]:
    """The order in which one worker would take everything."""
    running: set[Key] = set()
    order = []
    while (choice := choose(plans, frozenset(running), nobody)) is not None:
        running |= {task.key for task in choice.tasks}
        order.append((choice.checkpoint.run, choice.checkpoint.step))
    return order


@given(st.integers(0, 500))
def test_coarse_to_fine_takes_every_position_once_and_the_newest_first(count: int):
    order = coarse_to_fine(count)
    assert sorted(order) == list(range(count))
    assert order[:1] == ([count - 1] if count else [])


@pytest.mark.parametrize("count", [2, 3, 7, 64, 65, 100, 127, 128, 1000])
def test_every_beginning_of_the_order_is_spread_over_the_whole_run(count: int):
    order = coarse_to_fine(count)
    for taken in range(2, count + 1):
        here = sorted(order[:taken])
        gap = max(after - before for before, after in pairwise(here))
        assert here[0] == 0
        assert here[-1] == count - 1
        assert gap <= 2 * count / (taken - 1), f"{taken} of {count} leave a hole of {gap}"


def test_an_order_known_by_hand():
    assert coarse_to_fine(9) == [8, 0, 4, 6, 2, 7, 5, 3, 1]


def test_the_newest_of_every_run_comes_before_any_backfill():
    assert in_order(plan_of(run_of("a", 5)), plan_of(run_of("b", 3, first_seen=100))) == [
        ("b", 2),
        ("a", 4),
        ("a", 0),
        ("b", 0),
        ("a", 2),
        ("b", 1),
        ("a", 3),
        ("a", 1),
    ]


def test_backfill_goes_on_past_checkpoints_that_are_done_or_under_way():
    run = run_of("a", 9)
    assert in_order(plan_of(run, owed_on(run[1]), owed_on(run[6]))) == [("a", 6), ("a", 1)]


def test_a_new_checkpoint_goes_before_the_backfill_of_its_run():
    run = run_of("a", 9)
    choice = choose([plan_of(run)], frozenset({task_on(run[0], NORM).key}), nobody)
    assert choice is not None
    assert choice.checkpoint.step == 8


def test_nothing_owed_or_everything_under_way_is_no_choice():
    run = run_of("a", 2)
    everything = frozenset(task_on(known, NORM).key for known in run)
    assert choose([], frozenset(), nobody) is None
    assert choose([RunPlan(tuple(run), {})], frozenset(), nobody) is None
    assert choose([plan_of(run)], everything, nobody) is None
    waiting = Owed(run[0], (), (), waiting=3)
    assert choose([plan_of(run, waiting)], frozenset(), nobody) is None


def test_all_tasks_of_a_checkpoint_that_are_free_run_together():
    (known,) = run_of("a", 1)
    plan = plan_of([known], owed_on(known, "norm", "loss", "rank"))
    choice = choose([plan], frozenset({task_on(known, LOSS).key}), nobody)
    assert choice is not None
    assert [task.key.plugin for task in choice.tasks] == ["norm", "rank"]


def test_what_is_owed_on_a_run_comes_after_the_newest_checkpoints_and_before_backfill():
    old, new = run_of("a", 2)
    subject = Subject("run", "runs", "a", 1, "digest", horizon=1, members=2, log_rows=0)
    whole = Owed(new, (Task(Key("trend", 1, "o", "b", subject.identity), subject, {}),), ())
    owed = {each.checkpoint_id: Owed(each, (task_on(each, NORM),), ()) for each in (old, new)}
    plan, running, order = RunPlan((old, new), owed, whole), set[Key](), []
    plans = [plan, plan_of(run_of("b", 1, first_seen=100))]
    while (choice := choose(plans, frozenset(running), nobody)) is not None:
        running |= {task.key for task in choice.tasks}
        order.append((choice.tasks[0].key.plugin, choice.checkpoint.run, choice.checkpoint.step, choice.of_run))
    assert order == [
        ("norm", "b", 0, False),
        ("norm", "a", 1, False),
        ("trend", "a", 1, True),
        ("norm", "a", 0, False),
    ]
    assert len(plan.everything) == 3


def test_a_run_without_readable_checkpoints_is_still_measured():
    (gone,) = run_of("a", 1)
    subject = Subject("run", "runs", "a", 1, "digest", horizon=1)
    whole = Owed(gone, (Task(Key("trend", 1, "o", "b", subject.identity), subject, {}),), ())
    choice = choose([RunPlan((), {}, whole)], frozenset(), nobody)
    assert choice is not None
    assert choice.of_run


def test_suspects_run_alone_and_after_the_others():
    (known,) = run_of("a", 1)
    plan = plan_of([known], owed_on(known, "norm", "loss", "rank"))
    dangerous = {task_on(known, NORM).key, task_on(known, RANK).key}
    running: set[Key] = set()
    jobs = []
    while (choice := choose([plan], frozenset(running), dangerous.__contains__)) is not None:
        running |= {task.key for task in choice.tasks}
        jobs.append([task.key.plugin for task in choice.tasks])
    assert jobs == [["loss"], ["norm"], ["rank"]]


def test_only_the_partners_of_the_chosen_tasks_are_opened():
    known, before, long_before = checkpoint(9), checkpoint(5), checkpoint(1)

    def against(other: Checkpoint, name: str) -> Task:
        subject = Subject("pair", "runs", "a", 9, known.checkpoint_id, "", "a", other.step, other.checkpoint_id)
        return Task(Key(name, 1, "o", "b", subject.identity), subject, {})

    one, two = against(before, "previous"), against(long_before, "first")
    plan = plan_of([long_before, before, known], Owed(known, (one, two), (before, long_before)))
    assert choose([plan], frozenset(), nobody) == Choice(known, (one, two), (before, long_before))
    assert choose([plan], frozenset({one.key}), nobody) == Choice(known, (two,), (long_before,))


@pytest.mark.parametrize(
    ("ending", "is_suspect"),
    [
        (Ending.CRASHED, True),
        (Ending.TIMEOUT, True),
        (Ending.MEMORY, True),
        (Ending.INTERRUPTED, True),
        (Ending.FAILED, False),
        (Ending.GONE, False),
        (Ending.SUPERSEDED, False),
        (Ending.REDO, False),
    ],
)
def test_a_suspect_is_what_a_process_died_under(ending: Ending, is_suspect: bool):
    task = task_on(checkpoint(), NORM)
    assert suspects({task.key: outcome(task.key, task.subject, ending)}, set())(task.key) == is_suspect


def test_a_task_caught_in_a_death_just_now_is_a_suspect_before_it_is_recorded():
    task = task_on(checkpoint(), NORM)
    assert suspects({}, {task.key})(task.key)
    assert not suspects({}, set())(task.key)


def rotating(name: str, count: int, kept: range | list[int], first_seen: int = 0) -> RunPlan:
    """A run of which only some checkpoints are left."""
    ever = [replace(known, ordinal=known.step) for known in run_of(name, count, first_seen)]
    here = [ever[step] for step in kept]
    return replace(plan_of(here), at_risk=at_risk(here, ever))


def test_where_rotation_is_seen_the_oldest_goes_first():
    assert in_order(rotating("a", 10, range(6, 10))) == [("a", 6), ("a", 7), ("a", 8), ("a", 9)]


def test_what_rotation_has_spared_is_not_at_risk_and_waits_as_ever():
    """Every fourth is kept for good, as trainers do: they would hold up what is about to vanish."""
    plan = rotating("a", 12, [0, 4, 8, 9, 10, 11])
    assert [known.step for known in plan.at_risk] == [8, 9, 10, 11]
    assert in_order(plan) == [("a", step) for step in (8, 9, 10, 11, 0, 4)]


def test_what_is_at_risk_goes_before_the_newest_of_every_other_run():
    plans = rotating("a", 4, [2, 3]), plan_of(run_of("b", 3, first_seen=500)), rotating("c", 4, [2, 3], first_seen=100)
    assert in_order(*plans) == [("a", 2), ("a", 3), ("c", 2), ("c", 3), ("b", 2), ("b", 0), ("b", 1)]


def test_measured_or_under_way_what_is_at_risk_lets_the_next_go():
    plan = rotating("a", 10, range(6, 10))
    (first, *_, last) = plan.readable
    choice = choose([plan], frozenset({task_on(first, NORM).key}), nobody)
    assert choice is not None
    assert choice.checkpoint.step == 7
    done = replace(plan, owed={last.checkpoint_id: plan.owed[last.checkpoint_id]})
    assert in_order(done) == [("a", 9)]


@given(st.sets(st.integers(0, 30)), st.integers(1, 31))
def test_only_what_came_after_the_last_that_vanished_is_at_risk(vanished: set[int], count: int):
    ever = [checkpoint(step, ordinal=step) for step in range(count)]
    here = [known for known in ever if known.ordinal not in vanished]
    newest = max((known.ordinal for known in here), default=-1)
    gaps = [step for step in vanished if step < newest]
    expected = [known.ordinal for known in here if gaps and known.ordinal > max(gaps)]
    assert [known.ordinal for known in at_risk(reversed(here), ever)] == expected


def test_a_file_that_is_overwritten_for_ever_is_at_risk_and_a_whole_run_that_is_not_is_none():
    versions = [checkpoint(step, content=str(step), ordinal=step, path="/lab/runs/a/ckpt.pt") for step in range(3)]
    assert at_risk(versions[2:], versions) == (versions[2],)
    assert at_risk(versions, versions) == ()
    assert at_risk(versions[:2], versions) == (), "somebody deleted the newest"
    assert at_risk([], versions) == ()


def test_what_is_dear_waits_until_nothing_cheap_is_owed_anywhere():
    one, other = run_of("a", 2), run_of("b", 2, 100)
    sharp = sheet("sharpness", cost="curvature")

    def plan(run: list[Checkpoint]) -> RunPlan:
        return plan_of(run, *(Owed(known, (task_on(known, NORM), task_on(known, sharp)), ()) for known in run))

    running: set[Key] = set()
    jobs = []
    while (choice := choose([plan(one), plan(other)], frozenset(running), nobody)) is not None:
        running |= {task.key for task in choice.tasks}
        jobs.append([task.key.plugin for task in choice.tasks])
    assert jobs == [["norm"]] * 4 + [["sharpness"]] * 4


def test_what_will_be_deleted_next_has_its_dear_ones_before_the_others():
    run = run_of("a", 3)
    sharp = sheet("sharpness", cost="curvature")
    owed = {known.checkpoint_id: Owed(known, (task_on(known, NORM), task_on(known, sharp)), ()) for known in run}
    plan = RunPlan(tuple(run), owed, at_risk=(run[0],))
    running: set[Key] = set()
    jobs = []
    while (choice := choose([plan], frozenset(running), nobody)) is not None:
        running |= {task.key for task in choice.tasks}
        jobs.append((choice.checkpoint.step, choice.tasks[0].key.plugin))
    assert jobs[:2] == [(0, "norm"), (0, "sharpness")]
