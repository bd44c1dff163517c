"""Runs as a whole: measured first when there is enough of them, again when they have grown, once more at rest."""

import dataclasses
from collections.abc import Iterable, Mapping
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from making import PATIENCE, START, checkpoint, outcome, pair, sheet, uses, view, wish

from sounding.deciding.patience import given_up
from sounding.deciding.plan import RunView, Wish, owed, wanted
from sounding.deciding.runs import ENOUGH, grounds, rest_seconds, stock, wanted_of_run
from sounding.records import Checkpoint, Ending, Ground, Key, LogState, Outcome, RecipeSheet, Task

NORM = wish(sheet())
SPIKES = sheet("spikes", over="run", passes=uses("history", "logs"))
TREND = wish(sheet("trend", over="run", passes=uses("history")))
LOGGED = wish(sheet("logged", over="run", passes=uses("logs")))
WALK = wish(sheet("walk", over="run", passes=uses("checkpoints")))
SETTINGS = {"norm": (1, "o"), "change": (1, "o")}
NONE: Mapping[Key, Outcome] = {}


class Story:
    """What happens to one run: checkpoints come, work is done, and every outcome has a number of its own."""

    def __init__(self, *wishes: Wish) -> None:
        self.wishes = wishes
        self.checkpoints: list[Checkpoint] = []
        self.gone: set[int] = set()
        self.outcomes: dict[Key, Outcome] = {}
        self.log = LogState()
        self.models: tuple[str, ...] = ("",)
        self.now = START
        self.seq = 0

    def save(self, *steps: int) -> None:
        self.checkpoints += [checkpoint(step) for step in steps]

    def view(self, growing: bool = True) -> RunView:
        here = [known for known in self.checkpoints if known.step not in self.gone]
        return view(here, history=self.checkpoints, growing=growing, models=self.models)

    def single(self) -> list[Task]:
        """What is owed of checkpoints and pairs."""
        wants = wanted(self.view(), self.wishes, self.outcomes, {})
        return [task for one in owed(wants, self.outcomes, PATIENCE, self.now).values() for task in one.tasks]

    def whole(self, *, resting: bool = False) -> list[Task]:
        """What is owed of the run itself."""
        offered = stock(self.outcomes.values(), SETTINGS, self.log)
        wants = wanted_of_run(self.view(), offered, self.wishes, {}, PATIENCE, resting=resting)
        return [task for one in owed(wants, self.outcomes, PATIENCE, self.now).values() for task in one.tasks]

    def do(self, tasks: Iterable[Task], ending: Ending = Ending.OK) -> None:
        for task in tasks:
            self.seq += 1
            made = outcome(task.key, task.subject, ending, attempt=task.attempt, seq=self.seq, at=self.now)
            self.outcomes[task.key] = dataclasses.replace(made, excused=task.excused)

    def grow(self, *steps: int) -> None:
        """Checkpoints come and are measured one by one."""
        for step in steps:
            self.save(step)
            self.do(self.single())


@pytest.fixture
def story() -> Story:
    return Story(NORM, TREND)


# --- first, again, and once more ---------------------------------------------------------------------------------


def test_a_run_is_measured_once_there_is_enough_of_it(story: Story):
    story.grow(*range(ENOUGH - 1))
    assert story.whole() == []
    story.grow(ENOUGH - 1)
    (task,) = story.whole()
    subject = task.subject
    assert (subject.over, subject.step, subject.horizon, subject.members, subject.log_rows) == ("run", 9, 9, 10, 0)
    assert task.attempt == 1


def test_it_is_measured_again_when_its_input_has_grown_by_a_tenth(story: Story):
    measured_at = []
    for step in range(60):
        story.grow(step)
        if tasks := story.whole():
            measured_at.append(tasks[0].subject.members)
            story.do(tasks)
    by_tenths = [10]
    while (following := -(-by_tenths[-1] * 11 // 10)) <= 60:
        by_tenths.append(following)
    assert measured_at == by_tenths


def test_at_rest_it_is_measured_once_more_and_then_never_again(story: Story):
    story.grow(*range(21))
    story.do(story.whole())
    story.grow(21)
    assert story.whole() == []
    (last,) = story.whole(resting=True)
    assert (last.subject.horizon, last.subject.members) == (21, 22)
    story.do([last])
    assert story.whole(resting=True) == story.whole() == []


def test_at_rest_a_short_run_is_measured_too_but_nothing_without_any_input(story: Story):
    assert story.whole(resting=True) == []
    story.save(1)
    assert story.whole(resting=True) == []
    story.do(story.single())
    (task,) = story.whole(resting=True)
    assert task.subject.members == 1


def test_a_log_alone_is_input_and_its_last_update_the_horizon():
    story = Story(LOGGED)
    story.save(5)
    assert story.whole(resting=True) == []
    story.log = LogState(9, 90, "1")
    assert story.whole() == []
    story.log = LogState(100, 1000, "1")
    (task,) = story.whole()
    assert (task.subject.horizon, task.subject.step, task.subject.members, task.subject.log_rows) == (1000, 5, 0, 100)
    story.do([task])
    story.log = LogState(109, 1090, "1")
    assert story.whole() == []
    story.log = LogState(110, 1100, "1")
    story.do(story.whole())
    story.log = LogState(50, 500, "2")
    (anew,) = story.whole()
    assert anew.subject.horizon == 500, "a log that has shrunk was begun again"
    story.do([anew])
    story.log = LogState(50, 500, "3")
    assert story.whole() == []
    assert len(story.whole(resting=True)) == 1, "as long, but of another attempt"


def test_only_readings_in_force_of_the_same_network_count(story: Story):
    story.models = ("raw", "ema")
    story.grow(*range(5))
    tasks = story.whole(resting=True)
    assert [(task.subject.model, task.subject.members) for task in tasks] == [("raw", 5), ("ema", 5)]
    assert tasks[0].key != tasks[1].key
    offered = stock(story.outcomes.values(), {"norm": (2, "o")})
    assert offered.measured == ()
    assert grounds(offered) == ()


def test_skips_failures_and_other_runs_results_are_no_input(story: Story):
    story.save(1, 2, 3)
    one, two, three = story.single()
    story.do([one], Ending.SKIPPED)
    story.do([two], Ending.FAILED)
    story.do([three])
    (task,) = story.whole(resting=True)
    assert (task.subject.members, task.subject.horizon) == (1, three.subject.step)
    story.do([task])
    assert len(stock(story.outcomes.values(), {**SETTINGS, "trend": (1, "o")}).measured) == 1


def test_the_newest_basis_counts_as_in_the_views():
    plugin = sheet("loss", needs_recipe=True, passes=uses("predictions"))
    story = Story(wish(plugin))
    run = view([checkpoint(1), checkpoint(2)])
    for version in (1, 2):
        (first, second) = wanted(dataclasses.replace(run, recipe=RecipeSheet(version)), story.wishes, {}, {})
        story.do([Task(first.key, first.subject, {})])
        newest = second
    offered = stock(story.outcomes.values(), {"loss": (1, "o")})
    assert [each.seq for each in offered.measured] == [2]
    assert grounds(offered) == (Ground("loss", 1, "o", newest.key.basis, ""),)


def test_pairs_are_input_and_partners_told_apart():
    story = Story(NORM, wish(pair()), TREND)
    story.grow(1, 2, 3)
    (task,) = story.whole(resting=True)
    assert task.subject.members == 5


def test_redone_readings_are_news_at_rest(story: Story):
    story.grow(*range(12))
    story.do(story.whole(resting=True))
    again = next(iter(story.outcomes.values()))
    story.do([Task(again.key, again.subject, {})])
    assert story.whole() == []
    assert len(story.whole(resting=True)) == 1


def test_rotation_owes_nothing_anew():
    story = Story(NORM, TREND, WALK)
    story.grow(*range(12))
    story.do(story.whole(resting=True))
    for gone in ({0}, {0, 1, 2}, set(range(12))):
        story.gone = gone
        assert story.whole(resting=True) == []
    story.gone = {0}
    story.save(12)
    found = {task.key.plugin: task.subject.members for task in story.whole(resting=True)}
    assert found == {"walk": 12}, "the new checkpoint is not measured yet, but can be opened"


def test_a_run_of_which_everything_was_deleted_is_still_measured(story: Story):
    story.grow(*range(3))
    story.gone = {0, 1, 2}
    assert len(story.whole(resting=True)) == 1


# --- what is not wanted ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "unwanted",
    [
        sheet("trend", over="run", passes=uses("history"), cost="offline"),
        sheet("trend", over="group", passes=uses("history")),
        sheet("trend", over="run", passes=uses("history"), needs_recipe=True),
        sheet("trend", over="run"),
    ],
)
def test_what_is_never_automatic(unwanted: object):
    story = Story(NORM, wish(unwanted))  # type: ignore[arg-type]
    story.grow(*range(12))
    assert story.whole(resting=True) == []


@pytest.mark.parametrize("at", ["last", "every 5", "first,last", "log2"])
def test_with_another_schedule_than_all_it_is_measured_at_rest_only(at: str):
    story = Story(NORM, wish(TREND.sheet, at))
    story.grow(*range(12))
    assert story.whole() == []
    story.do(story.whole(resting=True))
    story.grow(*range(12, 40))
    assert story.whole() == []
    assert len(story.whole(resting=True)) == 1


# --- trying again ------------------------------------------------------------------------------------------------


def test_attempts_go_on_counting_while_the_run_grows_and_are_bounded(story: Story):
    story.grow(*range(100))
    attempts = []
    for step in range(100, 105):  # less than a tenth
        story.now += timedelta(hours=2)
        story.grow(step)
        tasks = story.whole()
        attempts += [task.attempt for task in tasks]
        story.do(tasks, Ending.FAILED)
    assert attempts == [1, 2, 3]
    assert given_up(
        max(story.outcomes.values(), key=lambda each: each.seq if each.subject.over == "run" else 0), PATIENCE
    )
    story.grow(*range(105, 114))
    (anew,) = story.whole()
    assert anew.attempt == 1, "with a tenth more, it may succeed"


def test_a_failed_attempt_waits_before_the_next(story: Story):
    story.grow(*range(10))
    story.do(story.whole(), Ending.FAILED)
    assert story.whole() == []
    story.now += timedelta(minutes=1)
    assert [task.attempt for task in story.whole()] == [2]


def test_redo_owes_the_run_as_it_is_now(story: Story):
    story.grow(*range(10))
    (task,) = story.whole()
    story.do([task])
    story.grow(10)  # a tenth exactly, so one more to be safe from growth
    story.do(story.whole())
    assert story.whole() == []
    latest = max((o for o in story.outcomes.values() if o.subject.over == "run"), key=lambda each: each.seq)
    story.do([Task(latest.key, latest.subject, {})], Ending.REDO)
    (anew,) = story.whole()
    assert (anew.attempt, anew.subject.members) == (1, 11)
    story.do([anew])
    assert story.whole() == []


# --- whatever happens --------------------------------------------------------------------------------------------

events = st.lists(
    st.one_of(
        st.tuples(st.just("save"), st.integers(0, 40)),
        st.tuples(st.just("gone"), st.integers(0, 40)),
        st.tuples(st.just("log"), st.integers(0, 300)),
        st.tuples(st.just("work"), st.integers(1, 5)),
        st.tuples(st.just("rest"), st.just(0)),
    ),
    max_size=25,
)


@given(events)
def test_doing_the_plan_leaves_an_empty_plan_and_nothing_is_done_twice(happening: list[tuple[str, int]]):
    story = Story(NORM, wish(pair()), TREND, LOGGED, WALK, wish(SPIKES))

    def work(limit: int, *, resting: bool) -> None:
        for _ in range(limit):
            tasks = story.single() or story.whole(resting=resting)
            if not tasks:
                return
            settled = {key for key, each in story.outcomes.items() if each.ending is Ending.OK}
            assert not settled & {task.key for task in tasks}
            story.do(tasks[:1])

    for what, number in happening:
        if what == "save" and number not in {known.step for known in story.checkpoints}:
            story.save(number)
        elif what == "gone":
            story.gone.add(number)
        elif what == "log":
            story.log = LogState(number, number * 10, "1") if number else LogState()
        else:
            work(number or 500, resting=what == "rest")
    work(500, resting=True)
    assert story.single() == story.whole(resting=True) == story.whole() == []


# --- rest --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "rest"),
    [
        ([], 60),
        ([0], 60),
        ([0, 0, 0, 0], 60),  # all there before the daemon came
        ([0, 10, 20], 60),
        ([0, 600, 1200], 1200),
        ([0, 900, 1800, 3000, 3100, 3200], 200),  # only the last pauses count
        ([0, 600, 100_000, 100_600], 1200),  # the job stood still for a day
        ([0, 0, 0, 100_000], 60),  # the daemon came late
    ],
)
def test_a_run_rests_when_nothing_came_for_twice_its_usual_pause(seconds: list[int], rest: float):
    history = [checkpoint(step, first_seen=START + timedelta(seconds=s)) for step, s in enumerate(seconds)]
    assert rest_seconds(reversed(history), 60.0) == rest
