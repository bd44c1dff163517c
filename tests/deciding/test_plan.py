"""Deciding: the work owed is what is wanted less what is done; doing it leaves nothing owed."""

import dataclasses
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st
from making import PATIENCE, START, checkpoint, outcome, pair, sheet, uses, view, wish

from sounding.deciding.patience import Patience, given_up
from sounding.deciding.plan import RunView, Wanted, Wish, basis, owed, wanted
from sounding.records import BLAMELESS, Checkpoint, Ending, Key, OptionSheet, Outcome, PluginSheet, RecipeSheet, Task

NORM, CHANGE = wish(sheet()), wish(pair())
LOSS = sheet("loss", cost="data", needs_recipe=True, passes=uses("predictions"))
RECIPE = RecipeSheet(1, {"probe": "h1"})
Passes: TypeAlias = Mapping[str, Mapping[str, object]]
NOTHING: Mapping[Key, Outcome] = {}


def wants(
    run: RunView, *wishes: Wish, outcomes: Mapping[Key, Outcome] = NOTHING, passes: Passes = MappingProxyType({})
) -> list[Wanted]:
    return list(wanted(run, wishes, outcomes, passes))


def tasks(
    run: RunView,
    *wishes: Wish,
    outcomes: Mapping[Key, Outcome] = NOTHING,
    now: datetime = START,
    patience: Patience = PATIENCE,
) -> list[Task]:
    due = owed(wants(run, *wishes, outcomes=outcomes), outcomes, patience, now)
    return [task for one in due.values() for task in one.tasks]


def done(of: Iterable[Task], ending: Ending = Ending.OK) -> dict[Key, Outcome]:
    return {task.key: outcome(task.key, task.subject, ending, attempt=task.attempt) for task in of}


def subjects(found: Iterable[Wanted | Task]) -> list[tuple[int, int | None]]:
    return sorted((each.subject.step, each.subject.other_step) for each in found)


def steps(*numbers: int) -> list[Checkpoint]:
    return [checkpoint(number) for number in numbers]


# --- what is wanted ---------------------------------------------------------------------------------------------


def test_a_plugin_is_wanted_on_every_readable_checkpoint():
    run = view(steps(1, 3), history=steps(1, 2, 3))
    (first, second) = wants(run, NORM)
    assert subjects([first, second]) == [(1, None), (3, None)]
    assert first.key == Key("norm", 1, "o", first.key.basis, first.subject.identity)
    assert first.checkpoint == run.readable[0]
    assert first.subject.checkpoint_id == run.readable[0].checkpoint_id


def test_nothing_is_wanted_where_nothing_can_be_read():
    assert wants(view([], history=steps(1)), NORM, CHANGE) == []


@pytest.mark.parametrize(
    ("at", "growing", "found"),
    [
        ("all", True, [0, 5, 8, 10, 12]),
        ("every 5", True, [0, 5, 10]),
        ("log2", True, [0, 8]),
        ("first", True, []),  # the first was -1 and can no longer be read
        ("last", True, []),
        ("last", False, [12]),
        ("log2,last", False, [0, 8, 12]),
    ],
)
def test_schedules_choose_steps_of_the_whole_history(at: str, growing: bool, found: list[int]):
    run = view(steps(0, 5, 8, 10, 12), history=steps(-1), growing=growing)
    assert [step for step, _ in subjects(wants(run, wish(sheet(), at)))] == found


def test_offline_plugins_and_those_over_runs_are_never_automatic():
    wishes = [wish(sheet(cost="offline")), wish(sheet(over="run")), wish(sheet(over="group"))]
    assert wants(view(steps(1, 2)), *wishes) == []


def test_every_network_of_a_checkpoint_has_work_of_its_own():
    found = wants(view(steps(1, 2), models=("raw", "ema")), NORM, CHANGE)
    assert [(w.subject.step, w.subject.other_step, w.subject.model) for w in found] == [
        (1, None, "raw"),
        (1, None, "ema"),
        (2, None, "raw"),
        (2, None, "ema"),
        (2, 1, "raw"),
        (2, 1, "ema"),
    ]
    assert len({w.key for w in found}) == 6


@pytest.mark.parametrize("recipe", [None, RecipeSheet(error="no such file")])
def test_without_a_usable_recipe_its_plugins_are_not_wanted_and_the_others_are(recipe: RecipeSheet | None):
    found = wants(view(steps(1), recipe=recipe), wish(LOSS), NORM)
    assert [each.key.plugin for each in found] == ["norm"]


def test_with_a_recipe_its_plugins_are_wanted():
    assert [each.key.plugin for each in wants(view(steps(1), recipe=RECIPE), wish(LOSS))] == ["loss"]


# --- what numbers rest on ---------------------------------------------------------------------------------------


WEIGHTS = sheet(passes=uses("weights"))


@pytest.mark.parametrize(
    ("plugin", "recipe", "passes", "changes"),
    [
        (LOSS, RecipeSheet(2, {"probe": "h1"}), {}, True),
        (LOSS, RecipeSheet(1, {"probe": "h2"}), {}, True),
        (LOSS, RecipeSheet(1, {"probe": "h1", "noisy": "h3"}), {}, True),
        (LOSS, RECIPE, {"predictions": {"top": 5}}, True),
        (LOSS, RECIPE, {"weights": {"top": 5}}, False),
        (LOSS, RECIPE, {}, False),
        (WEIGHTS, RecipeSheet(2, {"probe": "h2"}), {}, False),
        (WEIGHTS, None, {}, False),
        (WEIGHTS, RECIPE, {"predictions": {"top": 5}}, False),
        (WEIGHTS, RECIPE, {"weights": {"top": 5}}, True),
        (dataclasses.replace(WEIGHTS, passes=uses("weights", version=2)), RECIPE, {}, True),
        (dataclasses.replace(WEIGHTS, passes=uses("weights", "optimizer")), RECIPE, {}, True),
        (dataclasses.replace(WEIGHTS, options_hash="other", version=2), RECIPE, {}, False),
    ],
)
def test_the_basis_changes_with_what_a_plugin_uses_and_with_nothing_else(
    plugin: PluginSheet, recipe: RecipeSheet | None, passes: Passes, changes: bool
):
    before = basis(LOSS if plugin is LOSS else WEIGHTS, RECIPE, {})
    assert (basis(plugin, recipe, passes) != before) == changes


def test_another_network_under_the_same_name_is_measured_anew():
    one, other = (view(steps(1), models=("ema",), networks={"ema": key}) for key in ("ema.shadow", "average"))
    (first,), (second,) = wants(one, NORM), wants(other, NORM)
    assert first.subject == second.subject
    assert first.key != second.key
    assert basis(WEIGHTS, RECIPE, {}, "") == basis(WEIGHTS, RECIPE, {})


def test_the_basis_does_not_depend_on_the_order_of_names():
    one = RecipeSheet(1, {"a": "1", "b": "2"}), {"predictions": {"x": 1, "y": 2}}
    other = RecipeSheet(1, {"b": "2", "a": "1"}), {"predictions": {"y": 2, "x": 1}}
    assert basis(LOSS, *one) == basis(LOSS, *other)


def test_changed_data_owes_everything_that_used_it_again():
    first = view(steps(1, 2), recipe=RECIPE)
    outcomes = done(tasks(first, wish(LOSS), NORM))
    assert len(outcomes) == 4
    second = dataclasses.replace(first, recipe=RecipeSheet(1, {"probe": "other data"}))
    assert [task.key.plugin for task in tasks(second, wish(LOSS), NORM, outcomes=outcomes)] == ["loss", "loss"]


# --- pairs ------------------------------------------------------------------------------------------------------


def test_a_pair_is_a_checkpoint_with_the_one_before():
    run = view(steps(1, 5, 9))
    found = wants(run, CHANGE)
    assert subjects(found) == [(5, 1), (9, 5)]
    assert found[0].other == run.readable[0]
    assert found[0].subject.other_checkpoint_id == run.readable[0].checkpoint_id


def test_where_the_one_before_is_gone_the_nearest_readable_takes_its_place():
    assert subjects(wants(view(steps(1, 9), history=steps(1, 3, 5, 9)), CHANGE)) == [(9, 1)]


def test_a_pair_waits_while_a_nearer_checkpoint_may_yet_come():
    assert subjects(wants(view(steps(1, 9), undecided=(5,)), CHANGE)) == []
    for outside in (0, 1, 9, 12):
        assert subjects(wants(view(steps(1, 9), undecided=(outside,)), CHANGE)) == [(9, 1)]


def test_rotation_never_owes_a_measured_pair_again():
    outcomes = done(tasks(view(steps(1, 5, 9)), CHANGE))
    for here in ((9,), (1, 9), (5, 9), (1, 5), (1,)):
        assert tasks(view(steps(*here), history=steps(1, 5, 9)), CHANGE, outcomes=outcomes) == []


def test_a_pair_that_failed_before_the_rotation_is_measured_with_the_nearest_readable():
    outcomes = done(tasks(view(steps(1, 5, 9)), CHANGE), Ending.FAILED)
    found = tasks(view(steps(1, 9), history=steps(1, 5, 9)), CHANGE, outcomes=outcomes)
    assert subjects(found) == [(9, 1)]


def test_a_checkpoint_that_appears_strictly_between_makes_a_new_pair():
    outcomes = done(tasks(view(steps(1, 9)), CHANGE))
    found = tasks(view(steps(1, 5, 9)), CHANGE, outcomes=outcomes)
    assert subjects(found) == [(5, 1), (9, 5)]
    outcomes |= done(found)
    assert tasks(view(steps(1, 9), history=steps(1, 5, 9)), CHANGE, outcomes=outcomes) == []


def test_a_new_generation_makes_new_pairs_on_both_sides():
    old = steps(1, 5, 9)
    outcomes = done(tasks(view(old), CHANGE))
    new = [old[0], checkpoint(5, content="rerun"), old[2]]
    assert subjects(tasks(view(new), CHANGE, outcomes=outcomes)) == [(5, 1), (9, 5)]


def test_pairs_with_the_first():
    first = wish(pair(against="first"))
    assert subjects(wants(view(steps(1, 5, 9)), first)) == [(5, 1), (9, 1)]
    assert subjects(wants(view(steps(1, 5, 9), undecided=(0,)), first)) == []
    assert subjects(wants(view(steps(5, 9), history=steps(1)), first)) == [(9, 5)]
    outcomes = done(tasks(view(steps(1, 5, 9)), first))
    assert tasks(view(steps(5, 9), history=steps(1)), first, outcomes=outcomes) == []


def test_pairs_with_the_last_wait_until_the_run_no_longer_grows():
    last = wish(pair(against="last"))
    assert wants(view(steps(1, 5, 9)), last) == []
    assert subjects(wants(view(steps(1, 5, 9), growing=False), last)) == [(1, 9), (5, 9)]


def test_pairs_at_the_same_step_of_another_run_are_not_planned_yet():
    assert wants(view(steps(1, 5), growing=False), wish(pair(against="same_step"))) == []


def test_the_schedule_of_a_pair_is_that_of_its_later_checkpoint():
    assert subjects(wants(view(steps(1, 5, 8, 10)), wish(pair(), "every 5"))) == [(5, 1), (10, 8)]


def test_the_partners_of_what_is_owed_come_with_it():
    run = view(steps(1, 5))
    (one,) = owed(wanted(run, [CHANGE], {}, {}), {}, PATIENCE, START).values()
    assert (one.checkpoint, one.others) == (run.readable[1], (run.readable[0],))


# --- trying again -----------------------------------------------------------------------------------------------


def earlier(ending: Ending, attempt: int) -> int:
    """How many earlier attempts are excused when all of them ended alike."""
    return attempt - 1 if ending in BLAMELESS else 0


def after(ending: Ending, attempt: int, seconds: float, patience: Patience = PATIENCE) -> list[Task]:
    run = view(steps(1))
    (want,) = wants(run, NORM)
    before = outcome(want.key, want.subject, ending, attempt=attempt, excused=earlier(ending, attempt))
    return tasks(run, NORM, outcomes={want.key: before}, now=START + timedelta(seconds=seconds), patience=patience)


def test_settled_work_is_not_owed():
    assert after(Ending.OK, 1, 1e6) == after(Ending.SKIPPED, 1, 1e6) == []


@pytest.mark.parametrize("ending", sorted(set(Ending) - {Ending.OK, Ending.SKIPPED, Ending.REDO, Ending.INTERRUPTED}))
def test_a_failure_is_tried_again_after_a_delay_that_doubles(ending: Ending):
    for attempt, seconds in ((1, 30), (2, 60)):
        assert after(ending, attempt, seconds - 1) == []
        (task,) = after(ending, attempt, seconds)
        assert task.attempt == attempt + 1


def test_the_delay_never_exceeds_an_hour():
    endless = Patience(10**6, timedelta(seconds=30))
    assert after(Ending.FAILED, 10**5, 3599, endless) == []
    assert len(after(Ending.FAILED, 10**5, 3600, endless)) == 1
    assert len(after(Ending.FAILED, 10**5, 3600, Patience(10**6, timedelta(hours=1)))) == 1


@pytest.mark.parametrize(
    ("ending", "last"),
    [
        (Ending.FAILED, 3),
        (Ending.CRASHED, 3),
        (Ending.TIMEOUT, 3),
        (Ending.MEMORY, 3),
        (Ending.GONE, 15),
        (Ending.SUPERSEDED, 15),
        (Ending.INTERRUPTED, 15),
    ],
)
def test_attempts_are_bounded_and_the_environment_is_borne_longer(ending: Ending, last: int):
    assert len(after(ending, last - 1, 1e6)) == 1
    assert after(ending, last, 1e6) == []
    (want,) = wants(view(steps(1)), NORM)
    ended = [outcome(want.key, want.subject, ending, attempt=n, excused=earlier(ending, n)) for n in (last - 1, last)]
    assert [given_up(each, PATIENCE) for each in ended] == [False, True]


def lived_through(endings: Iterable[Ending]) -> Outcome | None:
    """The last outcome of one piece of work whose attempts ended so, one by one; None as soon as it is given up."""
    run = view(steps(1))
    (want,) = wants(run, NORM)
    last: Outcome | None = None
    for number, ending in enumerate(endings):
        known = {} if last is None else {want.key: last}
        now = START + timedelta(hours=2 * number)
        due = tasks(run, NORM, outcomes=known, now=now, patience=PATIENCE)
        if not due:
            return None
        (task,) = due
        last = outcome(want.key, want.subject, ending, attempt=task.attempt, excused=task.excused, at=now)
    return last


def test_three_interruptions_and_a_failure_are_one_failed_attempt():
    last = lived_through([Ending.INTERRUPTED] * 3 + [Ending.FAILED])
    assert last is not None
    assert (last.attempt, last.failures, last.mishaps) == (4, 1, 3)
    assert not given_up(last, PATIENCE)
    assert PATIENCE.due(last, last.recorded_at + PATIENCE.retry), "the delay is that of a first failure"
    assert lived_through([Ending.INTERRUPTED] * 3 + [Ending.FAILED] * 3) is not None
    assert lived_through([Ending.INTERRUPTED] * 3 + [Ending.FAILED] * 4) is None


def test_failures_and_mishaps_in_any_order_are_each_bounded():
    mixed = [Ending.CRASHED, Ending.GONE, Ending.TIMEOUT, Ending.SUPERSEDED, Ending.INTERRUPTED]
    last = lived_through(mixed)
    assert last is not None
    assert (last.failures, last.mishaps) == (2, 3)
    assert lived_through([*mixed, Ending.MEMORY, Ending.OK]) is None, "the third failure was the last"


def test_work_under_which_the_machine_dies_again_and_again_is_given_up():
    """A mark without a result is all that such a death leaves; it must not be tried for ever."""
    assert lived_through([Ending.INTERRUPTED] * 15) is not None
    assert lived_through([Ending.INTERRUPTED] * 16) is None
    between = [Ending.INTERRUPTED] * 14 + [Ending.FAILED, Ending.INTERRUPTED]
    assert lived_through(between) is not None
    assert lived_through([*between, Ending.OK]) is None, "a failure between them does not begin the count anew"


def test_work_that_the_daemon_died_under_is_tried_again_at_once():
    (task,) = after(Ending.INTERRUPTED, 2, 0)
    assert task.attempt == 3


@pytest.mark.parametrize("jump", [61, 1e3, 1e8])
def test_a_clock_that_jumped_back_blocks_nothing(jump: float):
    assert len(after(Ending.FAILED, 1, -jump)) == 1


def test_what_failed_in_this_very_turn_waits_like_any_other_failure():
    """The daemon records deaths after the turn began whose time it plans with; that is no jump of a clock."""
    assert after(Ending.CRASHED, 1, -0.01) == after(Ending.CRASHED, 1, -5) == []


def test_redo_owes_the_work_anew_with_all_its_attempts():
    (task,) = after(Ending.REDO, 0, 0)
    assert task.attempt == 1
    assert not given_up(outcome(task.key, task.subject, Ending.REDO, attempt=99), PATIENCE)


def test_what_waits_is_counted_beside_what_is_due():
    run = view(steps(1, 5))
    norm, _ = wants(run, NORM)
    outcomes = {norm.key: outcome(norm.key, norm.subject, Ending.FAILED)}
    found = owed(wanted(run, [NORM, CHANGE], outcomes, {}), outcomes, PATIENCE, START)
    assert {one.checkpoint.step: (len(one.tasks), one.waiting) for one in found.values()} == {1: (0, 1), 5: (2, 0)}


def test_the_options_in_force_travel_with_the_task():
    plugin = sheet(options=(OptionSheet("top_k", "int", 1, 10), OptionSheet("exact", "bool", False, True)))
    (task,) = tasks(view(steps(1)), wish(plugin))
    assert task.options == {"top_k": 10, "exact": True}


# --- whatever happens -------------------------------------------------------------------------------------------

numbers = st.sets(st.integers(0, 30), max_size=8)
schedules = st.sampled_from(["all", "every 3", "log2", "first,last"])
plugins = st.lists(st.sampled_from(["norm", "previous", "first", "last", "loss"]), min_size=1, max_size=5, unique=True)


def wishes_for(names: list[str], at: str) -> list[Wish]:
    sheets = {"norm": sheet(), "loss": LOSS} | {name: pair(name, name) for name in ("previous", "first", "last")}
    return [wish(sheets[name], at) for name in names]


def worked_off(run: RunView, wishes: list[Wish], outcomes: dict[Key, Outcome]) -> int:
    """Do what is owed until nothing is, and count it."""
    count = 0
    while found := tasks(run, *wishes, outcomes=outcomes):
        assert not {task.key for task in found} & outcomes.keys(), "nothing is done twice"
        outcomes |= done(found)
        count += len(found)
    return count


@given(numbers, numbers, numbers, plugins, schedules, st.booleans())
def test_doing_the_plan_leaves_an_empty_plan(
    here: set[int], gone: set[int], undecided: set[int], names: list[str], at: str, growing: bool
):
    run = view(
        steps(*here), history=steps(*gone), undecided=tuple(sorted(undecided - here)), growing=growing, recipe=RECIPE
    )
    wishes, outcomes = wishes_for(names, at), dict(NOTHING)
    expected = len(wants(run, *wishes))
    assert worked_off(run, wishes, outcomes) == expected
    assert tasks(run, *wishes, outcomes=outcomes) == []


@given(st.permutations(range(6)), plugins, schedules)
def test_the_order_in_which_checkpoints_complete_does_not_change_what_is_measured(
    order: list[int], names: list[str], at: str
):
    every = {number: checkpoint(number * 3) for number in range(6)}
    wishes, outcomes = wishes_for(names, at.replace("first,", "")), dict(NOTHING)
    for count in range(1, 7):
        here = [every[number] for number in order[:count]]
        undecided = tuple(sorted(every[number].step for number in order[count:]))
        worked_off(view(here, undecided=undecided, recipe=RECIPE), wishes, outcomes)
    at_once: dict[Key, Outcome] = {}
    complete = view(every.values(), recipe=RECIPE)
    worked_off(complete, wishes, at_once)
    worked_off(complete, wishes, outcomes)
    assert outcomes.keys() == at_once.keys()


@given(st.lists(st.integers(1, 4), min_size=1, max_size=10), st.booleans())
def test_a_trainer_that_keeps_the_newest_few_has_every_checkpoint_measured_against_one_other(
    kept: list[int], interrupts: bool
):
    outcomes: dict[Key, Outcome] = {}
    for newest, keep in enumerate(kept):
        run = view(steps(*range(max(0, newest - keep + 1), newest + 1)), history=steps(*range(newest + 1)))
        if not interrupts or newest % 2:
            worked_off(run, [CHANGE], outcomes)
    later = [known.subject.step for known in outcomes.values()]
    assert len(later) == len(set(later))
    assert all((known.subject.other_step or 0) < known.subject.step for known in outcomes.values())
