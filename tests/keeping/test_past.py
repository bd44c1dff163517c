"""What a plugin over a run is given of its past, read from explicit files; every expectation is written out by hand."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from making import START, checkpoint, ended, pair, publish, results_in, sheet, task_on

from sounding.errors import SoundingError
from sounding.keeping.past import Course, Line, read_courses
from sounding.keeping.results import ResultsDirectory
from sounding.keeping.rows import result_rows, verdict_row
from sounding.records import (
    Checkpoint,
    Ending,
    Fact,
    Ground,
    Job,
    MetricSheet,
    PluginSheet,
    Progress,
    Reading,
    RunInput,
    Sighting,
    State,
    Subject,
    Task,
    Verdict,
)

LOSS = sheet("loss", metrics=(MetricSheet("loss", "nat", "", ""),))
CHANGE = pair("change")
GROUNDS = (Ground("loss", 1, "o", "b", ""), Ground("change", 1, "o", "b", ""))


class Shelf:
    def __init__(self, path: Path) -> None:
        self.results: ResultsDirectory = results_in(path)
        self.seq = 0

    def publish(self, rows: list[dict[str, object]]) -> str:
        self.seq += 1
        return publish(self.results, rows, self.seq)

    def saw(self, of: Checkpoint) -> str:
        sighting = Sighting(of.store, of.run, of.path, of.step, {}, of.stamp)
        return self.publish([verdict_row(sighting, Verdict(State.COMPLETE, ""), of, None, START, 0)])

    def measured(
        self,
        of: Checkpoint,
        *found: Reading,
        by: PluginSheet = LOSS,
        ending: Ending = Ending.OK,
        task: Task | None = None,
    ) -> str:
        task = task or task_on(of, by)
        result = dataclasses.replace(ended(task, ending), findings=found)
        return self.publish(result_rows(Job(0, of, (task,)), result, by, START, 1))

    def read(self, *, files: list[str] | None = None, model: str = "", grounds: tuple[Ground, ...] = GROUNDS):
        names = self.results.files() if files is None else files
        given = RunInput(str(self.results.path), tuple(names), grounds, ())
        return read_courses(given, "runs", "a", model)


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "results")


def plain(course: Course) -> list[tuple[int, float, float]]:
    return list(zip(course.steps.tolist(), course.updates.tolist(), course.values.tolist(), strict=True))


def with_updates(step: int, updates: int | None) -> Checkpoint:
    fact = None if updates is None else Fact(updates, "optimizer")
    return checkpoint(step, progress=Progress(step=Fact(step, "path"), updates=fact))


def test_readings_become_lines_over_ascending_steps(shelf: Shelf):
    for step in (30, 10, 20):
        known = with_updates(step, step * 2)
        shelf.saw(known)
        shelf.measured(
            known,
            Reading("loss", step / 10, split="train"),
            Reading("loss", step / 5, split="heldout"),
            Reading("top", 1.0, index=0),
            Reading("top", float(step), index=1),
            Reading("norm", float(step), part="fc", group="late"),
        )
    found = shelf.read()
    assert set(found) == {
        Line("loss.loss", split="train"),
        Line("loss.loss", split="heldout"),
        Line("loss.top", index=0),
        Line("loss.top", index=1),
        Line("loss.norm", "fc", group="late"),
    }
    assert plain(found[Line("loss.loss", split="heldout")]) == [(10, 20, 2.0), (20, 40, 4.0), (30, 60, 6.0)]
    assert plain(found[Line("loss.top", index=1)]) == [(10, 20, 10.0), (20, 40, 20.0), (30, 60, 30.0)]


def test_updates_that_no_source_tells_are_nan(shelf: Shelf):
    shelf.saw(with_updates(1, None))
    shelf.measured(with_updates(1, None), Reading("loss", 1.0))
    shelf.measured(checkpoint(2), Reading("loss", 2.0))  # no verdict on it in these files at all
    course = shelf.read()[Line("loss.loss")]
    assert np.isnan(course.updates).all()
    assert course.steps.dtype == np.int64


def test_of_repeated_work_the_newest_attempt_counts(shelf: Shelf):
    known = checkpoint(1)
    shelf.measured(known, Reading("loss", 1.0))
    shelf.measured(known, Reading("loss", 2.0))
    assert plain(shelf.read()[Line("loss.loss")])[0][2] == 2.0
    shelf.measured(known, ending=Ending.REDO)
    assert shelf.read() == {}, "asked for again: what was read before is no longer the newest"


def test_only_the_run_the_network_and_the_grounds_asked_for(shelf: Shelf):
    ema = task_on(checkpoint(1), LOSS)
    subject = dataclasses.replace(ema.subject, model="ema")
    ema = Task(dataclasses.replace(ema.key, subject=subject.identity), subject, {})
    shelf.measured(checkpoint(1), Reading("loss", 1.0))
    shelf.measured(checkpoint(1), Reading("loss", 2.0), task=ema)
    shelf.measured(checkpoint(1, run="b"), Reading("loss", 3.0))
    shelf.measured(checkpoint(1), Reading("loss", 4.0), by=dataclasses.replace(LOSS, version=2))
    shelf.measured(checkpoint(1), Reading("loss", 5.0), by=sheet("other"))
    assert {line: plain(course)[0][2] for line, course in shelf.read().items()} == {Line("loss.loss"): 1.0}
    second = (Ground("loss", 1, "o", "b", "ema"), Ground("loss", 2, "o", "b", ""))
    assert plain(shelf.read(model="ema", grounds=second)[Line("loss.loss")])[0][2] == 2.0
    assert plain(shelf.read(grounds=second)[Line("loss.loss")])[0][2] == 4.0
    assert shelf.read(grounds=()) == {}


def test_a_pair_stands_at_its_later_step_and_the_last_partner_counts(shelf: Shelf):
    later = checkpoint(9)
    for other, value in ((checkpoint(1), 1.0), (checkpoint(5), 2.0)):
        subject = Subject("pair", "runs", "a", 9, later.checkpoint_id, "", "a", other.step, other.checkpoint_id)
        task = Task(dataclasses.replace(task_on(later, CHANGE).key, subject=subject.identity), subject, {})
        shelf.measured(later, Reading("rotation", value), by=CHANGE, task=task)
    assert [row[::2] for row in plain(shelf.read()[Line("change.rotation")])] == [(9, 2.0)]


def test_labels_have_no_course_and_nan_is_a_value(shelf: Shelf):
    shelf.measured(checkpoint(1), Reading("regime", label="late"), Reading("loss", float("nan")))
    found = shelf.read()
    assert set(found) == {Line("loss.loss")}
    assert np.isnan(found[Line("loss.loss")].values).all()


def test_exactly_the_files_given_are_read(shelf: Shelf):
    first = shelf.measured(checkpoint(1), Reading("loss", 1.0))
    shelf.measured(checkpoint(2), Reading("loss", 2.0))
    assert shelf.read(files=[first])[Line("loss.loss")].steps.tolist() == [1]
    assert shelf.read(files=[]) == {}
    (shelf.results.jobs / first).unlink()
    with pytest.raises(SoundingError, match="folded away"):
        shelf.read(files=[first])
