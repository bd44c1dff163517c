"""What is known of the past: the same, however and in whatever order its files were read."""

import random
import shutil
from datetime import timedelta
from pathlib import Path

import pytest
from making import START, checkpoint, complete, publish, results_in, sheet, sighting, stamp, task_on

from sounding.keeping.ledger import Ledger, Setting
from sounding.keeping.results import ResultsDirectory
from sounding.keeping.rows import Row, attribute_row, outcome_row, setting_row, verdict_row
from sounding.records import (
    SETTLED,
    Attribute,
    Checkpoint,
    Ending,
    Examination,
    Fact,
    Outcome,
    Progress,
    Sighting,
    State,
    Verdict,
)

A = ("runs", "a")


def known_to(ledger: Ledger) -> dict[str, object]:
    """All that a ledger answers with."""
    return {
        "outcomes": {run: ledger.outcomes(run) for run in ledger.runs()},
        "endings": +ledger.endings,
        "unsettled": ledger.unsettled,
        "pasts": {run: ledger.past(run) for run in ledger.runs()},
        "settings": ledger.settings,
        "greatest_seq": ledger.greatest_seq,
    }


def cold(results: ResultsDirectory) -> Ledger:
    ledger = Ledger(ResultsDirectory(results.path))
    ledger.refresh()
    return ledger


def outcome_of(known: Checkpoint, ending: Ending, seq: int, plugin: str = "norm", attempt: int = 1) -> Row:
    task = task_on(known, sheet(plugin))
    return outcome_row(Outcome(task.key, task.subject, ending, f"said at {seq}", attempt, seq, START))


def verdict_of(known: Checkpoint, seq: int, state: State = State.COMPLETE) -> Row:
    seen = Sighting(known.store, known.run, known.path, known.step, {}, known.stamp)
    examination = Examination(Verdict(state, f"said at {seq}"), fingerprint=known.fingerprint)
    found = known if state is State.COMPLETE else None
    return verdict_row(seen, examination.verdict, found, examination, START, seq)


def random_publication(chance: random.Random, seq: int) -> list[Row]:
    """What a daemon might write at once: every fact of it repeats or contradicts an earlier one now and then."""
    rows: list[Row] = []
    for _ in range(chance.randint(1, 4)):
        run, step, content = chance.choice("ab"), chance.randrange(3), chance.choice("xy")
        path = f"/lab/runs/{run}/{chance.choice(['ckpt', 'copy'])}_{step}.pt"
        known = checkpoint(step, run, content, path=path, stamp=stamp(mtime_ns=chance.randrange(3)), ordinal=seq)
        kind = chance.randrange(4)
        if kind == 0:
            rows.append(outcome_of(known, chance.choice(list(Ending)), seq, chance.choice(["norm", "loss"]), seq))
        elif kind == 1:
            rows.append(verdict_of(known, seq, chance.choice(list(State))))
        elif kind == 2:
            value = chance.randrange(3)
            source = chance.choice(["path", "file"])
            rows.append(attribute_row("runs", known.run, Attribute("lr", value, str(value), source), seq, START))
        else:
            rows.append(setting_row(sheet(version=chance.randint(1, 3), options_hash=content), seq, START))
    return list({_about(row): row for row in rows}.values())


def _about(row: Row) -> tuple[object, ...]:
    """A publication says one thing of each path, piece of work, attribute and plugin."""
    names = {"verdict": ("path",), "outcome": ("plugin", "checkpoint_id"), "attribute": ("run", "key", "source")}
    return row["record"], *(row[name] for name in names.get(str(row["record"]), ("plugin",)))


@pytest.mark.parametrize("seed", range(3))
def test_a_ledger_that_followed_file_by_file_knows_what_a_cold_one_knows(tmp_path: Path, seed: int):
    chance = random.Random(seed)
    results = ResultsDirectory(tmp_path / "results", grace=timedelta(0), most_loose=4)
    results.prepare()
    following, folding = Ledger(results), Ledger(results)
    folds = 0
    for seq in range(1, 31):
        publish(results, random_publication(chance, seq), seq)
        if chance.random() < 0.6:
            following.refresh()
        folding.refresh()
        if chance.random() < 0.3 and (name := results.fold(START)) is not None:
            folding.folded(name)
            folds += 1
        if chance.random() < 0.2:
            folding.refresh()
            following.refresh()
            results.delete_replaced(START + timedelta(hours=1))
    following.refresh()
    assert folds > 2
    assert known_to(following) == known_to(folding) == known_to(cold(results))
    assert following.greatest_seq == 30


@pytest.mark.parametrize("seed", range(3))
def test_the_order_in_which_files_arrive_does_not_matter(tmp_path: Path, seed: int):
    chance = random.Random(seed)
    written = results_in(tmp_path / "written")
    names = [publish(written, random_publication(chance, seq), seq) for seq in range(1, 26)]
    arriving = results_in(tmp_path / "arriving")
    ledger = Ledger(arriving)
    chance.shuffle(names)
    for name in names:
        shutil.copyfile(written.jobs / name, arriving.jobs / name)
        ledger.refresh()
    assert known_to(ledger) == known_to(cold(written))


def test_every_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    results = ResultsDirectory(tmp_path / "results", most_loose=2)
    results.prepare()
    read: list[str] = []
    real = ResultsDirectory.each_row

    def counted(of: ResultsDirectory, names: list[str], *chosen: tuple[str, ...]) -> object:
        read.extend(names)
        return real(of, names, *chosen)

    monkeypatch.setattr(ResultsDirectory, "each_row", counted)
    ledger = Ledger(results)
    names = []
    for seq in range(1, 5):
        names.append(publish(results, [outcome_of(checkpoint(seq), Ending.OK, seq)], seq))
        ledger.refresh()
        ledger.refresh()
    name = results.fold(START)
    assert name is not None
    ledger.folded(name)
    assert ledger.refresh() == set()
    assert read == names


def test_refreshing_tells_which_runs_something_was_said_of(tmp_path: Path):
    results = results_in(tmp_path)
    ledger = Ledger(results)
    publish(results, [outcome_of(checkpoint(1, "a"), Ending.OK, 1), setting_row(sheet(), 1, START)], 1)
    publish(results, [verdict_of(checkpoint(1, "b"), 2)], 2)
    assert ledger.refresh() == {("runs", "a"), ("runs", "b")}
    publish(results, [setting_row(sheet(), 3, START)], 3)
    assert ledger.refresh() == set()
    assert ledger.greatest_seq == 3


def test_the_newest_outcome_of_a_key_counts(tmp_path: Path):
    results = results_in(tmp_path)
    known = checkpoint()
    for seq, ending in ((3, Ending.OK), (5, Ending.REDO), (4, Ending.FAILED)):
        publish(results, [outcome_of(known, ending, seq, attempt=seq)], seq)
    ledger = cold(results)
    (newest,) = ledger.outcomes(A).values()
    assert (newest.ending, newest.attempt, newest.seq, newest.reason) == (Ending.REDO, 5, 5, "said at 5")
    assert newest.recorded_at == START
    assert newest.subject == task_on(known, sheet()).subject


def test_endings_are_counted_as_they_change(tmp_path: Path):
    results = results_in(tmp_path)
    ledger = Ledger(results)
    story = (Ending.FAILED, Ending.CRASHED, Ending.OK, Ending.REDO, Ending.SKIPPED)
    other = outcome_of(checkpoint(99), Ending.OK, 1)
    for seq, ending in enumerate(story, 1):
        publish(results, [outcome_of(checkpoint(1), ending, seq), *([other] if seq == 1 else [])], seq)
        ledger.refresh()
        expected = {Ending.OK: 1} | {ending: 1 + (ending is Ending.OK)}
        assert +ledger.endings == expected
        assert [outcome.ending for outcome in ledger.unsettled.values()] == [ending] * (ending not in SETTLED)


def test_a_checkpoint_lives_in_history_for_ever_and_on_its_path_while_it_is_there(tmp_path: Path):
    results = results_in(tmp_path)
    old, new = checkpoint(1, content="old"), checkpoint(1, content="new", stamp=stamp(mtime_ns=2), ordinal=2)
    publish(results, [verdict_of(old, 1)], 1)
    publish(results, [verdict_of(new, 2)], 2)
    ledger = cold(results)
    assert ledger.past(A).history == {old.checkpoint_id: old, new.checkpoint_id: new}
    assert ledger.past(A).recorded[new.path].checkpoint == new
    publish(results, [verdict_of(new, 3, State.PENDING)], 3)
    ledger.refresh()
    assert ledger.past(A).recorded[new.path].checkpoint is None
    assert ledger.past(A).recorded[new.path].verdict == Verdict(State.PENDING, "said at 3")
    assert set(ledger.past(A).history) == {old.checkpoint_id, new.checkpoint_id}


def test_two_names_of_one_checkpoint_recorded_at_once_have_one_place_in_history(tmp_path: Path):
    one, last = checkpoint(), checkpoint(path="/lab/runs/a/last.pt")
    for name, order in (("ab", (one, last)), ("ba", (last, one))):
        results = results_in(tmp_path / name)
        publish(results, [verdict_of(known, 1) for known in order], 1)
        ledger = cold(results)
        assert ledger.past(A).history == {one.checkpoint_id: last}
        assert set(ledger.past(A).recorded) == {one.path, last.path}


def test_a_sighting_is_recognised_by_path_and_stamp(tmp_path: Path):
    results = results_in(tmp_path)
    publish(results, [verdict_of(checkpoint(), 1)], 1)
    ledger = cold(results)
    seen = sighting()
    recorded = ledger.recognise(seen)
    assert recorded is not None
    assert recorded.checkpoint == checkpoint()
    assert ledger.recognise(sighting(mtime_ns=2)) is None
    assert ledger.recognise(sighting(path="/lab/runs/a/elsewhere.pt")) is None


@pytest.mark.parametrize(
    ("attributes", "value"),
    [
        ([Attribute("lr", 0.1, "0.1", "path")], 0.1),
        ([Attribute("lr", 100000.0, "1e5", "path")], 100000),
        ([Attribute("seed", 3.0, "3", "path")], 3),
        ([Attribute("lr", 3.0, "3.0", "path")], 3.0),
        ([Attribute("name", None, "wide", "path")], "wide"),
        ([Attribute("lr", 0.2, "0.2", "b"), Attribute("lr", 0.1, "0.1", "a")], 0.1),
        ([Attribute("lr", 0.1, "0.1", "a"), Attribute("lr", 0.3, "0.3", "a")], 0.3),
    ],
)
def test_attributes_are_numbers_where_they_parse_and_of_one_source(
    tmp_path: Path, attributes: list[Attribute], value: float | str
):
    results = results_in(tmp_path)
    for seq, attribute in enumerate(attributes, 1):
        publish(results, [attribute_row("runs", "a", attribute, seq, START)], seq)
    (found,) = cold(results).run_attributes(("runs", "a")).values()
    assert (found, type(found)) == (value, type(value))
    assert cold(results).run_attributes(("runs", "b")) == {}


def test_the_newest_setting_of_a_plugin_counts(tmp_path: Path):
    results = results_in(tmp_path)
    for seq, version in ((2, 7), (1, 6)):
        publish(results, [setting_row(sheet(version=version, options_hash=f"o{version}"), seq, START)], seq)
    assert cold(results).settings == {"norm": Setting(2, 7, "o7")}


def test_results_without_any_file_are_an_empty_past(tmp_path: Path):
    ledger = cold(results_in(tmp_path))
    assert known_to(ledger) == known_to(Ledger(ResultsDirectory(tmp_path)))
    assert ledger.greatest_seq == 0


def test_progress_comes_back_as_it_was_written(tmp_path: Path):
    progress = Progress(Fact(3, "path"), Fact(2**62, "u"), Fact(1.5, "e"), lr_last=Fact(1e-3, "log"))
    known = checkpoint(3, progress=progress)
    publish(results := results_in(tmp_path), [verdict_of(known, 1)], 1)
    assert cold(results).past(A).history[known.checkpoint_id].progress == progress


def test_a_count_that_no_column_can_hold_is_left_out_and_its_source_kept(tmp_path: Path):
    progress = Progress(Fact(3, "path"), tokens=Fact(2**63, "tokens"), examples=Fact(1e300, "examples"))
    row = verdict_of(checkpoint(3, progress=progress), 1)
    assert (row["tokens"], row["tokens_source"]) == (None, "tokens")
    publish(results := results_in(tmp_path), [row], 1)
    (known,) = cold(results).past(A).history.values()
    assert known.progress == Progress(Fact(3, "path"))


def test_an_examination_of_a_half_checkpoint_keeps_no_identity(tmp_path: Path):
    seen = sighting()
    row = verdict_row(seen, Verdict(State.PENDING, "half"), None, complete("f"), START, 1)
    publish(results := results_in(tmp_path), [row], 1)
    ledger = cold(results)
    assert ledger.past(A).history == {}
    assert ledger.past(A).recorded[seen.path].checkpoint is None
