"""What the daemon itself writes down: numbered without repetition, and nothing twice."""

from pathlib import Path

import pytest
from making import START, checkpoint, complete, outcome, publish, results_in, sheet, sighting, task_on

from sounding.keeping.ledger import Ledger
from sounding.keeping.requests import Redo
from sounding.keeping.results import ResultsDirectory
from sounding.keeping.rows import outcome_row
from sounding.records import Attribute, Catalogue, Ending, Examination, State, Verdict
from sounding.running.journal import Journal
from sounding.seeing.lookout import Seen


class Desk:
    """A journal with its ledger; `restart` begins the next life of the results."""

    def __init__(self, path: Path) -> None:
        self.results = results_in(path)
        self.restart()

    def restart(self) -> None:
        self.ledger = Ledger(ResultsDirectory(self.results.path))
        self.ledger.refresh()
        self.journal = Journal(self.results, self.ledger, "epoch")

    def files(self) -> int:
        return len(self.results.files())


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path / "results")


def seen(step: int, *attributes: Attribute, state: State = State.COMPLETE) -> Seen:
    examination = complete(f"f{step}")
    examination = Examination(Verdict(state, "said"), fingerprint=examination.fingerprint, attributes=attributes)
    found = checkpoint(step) if state is State.COMPLETE else None
    return Seen(sighting(step), examination.verdict, found, examination)


def test_numbers_never_repeat_whatever_was_published_and_whoever_died(desk: Desk):
    assert [desk.journal.next_seq() for _ in range(3)] == [1, 2, 3]
    publish(desk.results, [outcome_row(outcome(*_work(), seq=70))], 70)
    desk.ledger.refresh()
    assert desk.journal.next_seq() == 71
    desk.restart()
    assert desk.journal.next_seq() == 71, "71 was never published"


def test_sightings_are_one_file_and_come_back(desk: Desk):
    desk.journal.write_sightings([seen(1), seen(2, state=State.BROKEN)], START)
    assert desk.files() == 1
    assert desk.ledger.refresh() == {("runs", "a")}
    past = desk.ledger.past(("runs", "a"))
    assert {Path(path).name: known.verdict.state for path, known in past.recorded.items()} == {
        "ckpt_1.pt": State.COMPLETE,
        "ckpt_2.pt": State.BROKEN,
    }
    assert past.history == {checkpoint(1).checkpoint_id: checkpoint(1)}
    assert list(desk.results.tmp.iterdir()) == []


def test_attributes_are_written_where_they_are_new(desk: Desk):
    lr, width = Attribute("lr", 0.1, "0.1", "path"), Attribute("width", 16.0, "16", "file")
    desk.journal.write_sightings([seen(1, lr, width)], START)
    desk.ledger.refresh()
    desk.journal.write_sightings([seen(2, lr, Attribute("width", 32.0, "32", "file"))], START)
    desk.ledger.refresh()
    assert desk.ledger.run_attributes(("runs", "a")) == {"lr": 0.1, "width": 32}
    written = desk.results.read_rows(desk.results.files(), ("attribute",))
    assert [(row["key"], row["number"]) for row in written] == [("lr", 0.1), ("width", 16.0), ("width", 32.0)]


def test_of_checkpoints_seen_at_once_the_last_says_what_a_run_is(desk: Desk):
    values = [Attribute("tokens", float(step), str(step), "checkpoint:args") for step in (1, 2, 3)]
    desk.journal.write_sightings([seen(step, value) for step, value in enumerate(values, 1)], START)
    desk.ledger.refresh()
    assert desk.ledger.run_attributes(("runs", "a")) == {"tokens": 3}
    assert len(desk.results.read_rows(desk.results.files(), ("attribute",))) == 1


def test_text_that_no_file_can_hold_is_escaped_and_stops_nothing(desk: Desk):
    half = Attribute("no\udcfftext", None, "\ud83d", "file")
    desk.journal.write_sightings([seen(1, half, Attribute("name", None, "Größe 😀", "file"))], START)
    desk.ledger.refresh()
    assert desk.ledger.run_attributes(("runs", "a")) == {"no\\udcfftext": "\\ud83d", "name": "Größe 😀"}


def test_settings_are_written_when_they_change(desk: Desk):
    def write(*sheets: object) -> None:
        desk.journal.write_settings(Catalogue({one.name: one for one in sheets}), START)  # type: ignore[attr-defined]
        desk.ledger.refresh()

    write(sheet("norm"), sheet("loss"))
    assert desk.files() == 1
    write(sheet("norm"), sheet("loss"))
    assert desk.files() == 1
    write(sheet("norm", version=2), sheet("loss"))
    write(sheet("norm", version=2), sheet("loss", options_hash="other"))
    assert desk.files() == 3
    assert {name: (s.version, s.options_hash) for name, s in desk.ledger.settings.items()} == {
        "norm": (2, "o"),
        "loss": (1, "other"),
    }


def test_a_redo_owes_again_what_it_matches(desk: Desk):
    rows = []
    for step in (1, 2):
        for name in ("norm", "loss"):
            task = task_on(checkpoint(step), sheet(name))
            rows.append(outcome_row(outcome(task.key, task.subject)))
    publish(desk.results, rows, 1)
    desk.ledger.refresh()
    desk.journal.write_redo(Redo(plugin="loss", step=2), START)
    desk.ledger.refresh()
    ended = {
        (o.key.plugin, o.subject.step): (o.ending, o.attempt) for o in desk.ledger.outcomes(("runs", "a")).values()
    }
    assert ended.pop(("loss", 2)) == (Ending.REDO, 0)
    assert set(ended.values()) == {(Ending.OK, 1)}


def test_nothing_to_say_writes_nothing(desk: Desk):
    desk.journal.write_sightings([], START)
    desk.journal.write_settings(Catalogue({}), START)
    desk.journal.write_redo(Redo(plugin="unknown"), START)
    assert desk.files() == 0


def _work():
    task = task_on(checkpoint(), sheet())
    return task.key, task.subject
