"""What is put away comes back as it was, and what is never asked for is never unpacked."""

import random
from dataclasses import dataclass

import pytest
from making import START, checkpoint, complete, sheet, sighting, task_on

from sounding.keeping import drawers
from sounding.keeping.drawers import Drawers
from sounding.keeping.ledger import Past, Recorded
from sounding.records import Attribute, Ending, Key, Outcome, State, Verdict
from sounding.seeing.roll import Member, Seen
from sounding.seeing.settle import Observed

RUNS = [("runs", name) for name in "abcdef"]


@dataclass(frozen=True)
class Alone:
    """A record of one field."""

    value: tuple[int, ...]


def kept(drawer: Drawers[dict[str, object]], known: dict[str, object]) -> dict[str, object]:
    """What has been in the drawer of a run, and out of it and in again."""
    drawer.open(RUNS[0]).update(known)
    for run in RUNS[1:] * 2:
        drawer.read(run)
    return drawer.read(RUNS[0])


def test_records_come_back_as_they_were():
    task, known = task_on(checkpoint(), sheet()), checkpoint()
    verdict = Verdict(State.COMPLETE, "whole")
    recorded = Recorded(1, RUNS[0], 10, known.path, known.stamp, verdict, known, frozenset({"path"}))
    past = Past({known.path: recorded}, {known.checkpoint_id: known}, {("lr", "f"): (3, Attribute("lr", 0.1, "", "f"))})
    seen = Seen(sighting(), verdict, known, complete("f"))
    records: dict[str, object] = {
        "outcome": {task.key: Outcome(task.key, task.subject, Ending.OK, "said", 2, 7, START, 1)},
        "past": past,
        "member": Member(Observed(sighting(parts={"lr": 0.1}), 3.5, complete("f", 10), 4.5), seen),
        "alone": Alone((1, 2)),
    }
    drawer: Drawers[dict[str, object]] = Drawers(dict)
    assert kept(drawer, records) == records
    found = drawer.read(RUNS[0])
    assert isinstance(found["outcome"], dict)
    assert isinstance(next(iter(found["outcome"])), Key)
    assert found["past"] is not past, "it was packed"


@pytest.mark.parametrize("seed", range(3))
def test_drawers_are_dicts_by_run_whatever_is_open(seed: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(drawers, "MOST_OPEN", 2)
    chance = random.Random(seed)
    tested: Drawers[dict[str, int]] = Drawers(dict)
    expected: dict[tuple[str, str], dict[str, int]] = {run: {} for run in RUNS}
    for _ in range(500):
        run, key = chance.choice(RUNS), chance.choice("xyz")
        match chance.randrange(6):
            case 0:
                tested.hold(run)[key] = expected[run][key] = chance.randrange(9)
            case 1:
                tested.let_go(run)
            case 2:
                tested.open(run).pop(key, None)
                expected[run].pop(key, None)
            case 3:
                tested.open(run)[key] = expected[run][key] = chance.randrange(9)
            case _:
                assert tested.read(run) == expected[run]
        assert sorted(tested) == [run for run in RUNS if expected[run]]


def test_what_was_only_read_is_not_packed_again(monkeypatch: pytest.MonkeyPatch):
    drawer: Drawers[dict[str, object]] = Drawers(dict)
    kept(drawer, {"x": 1})
    kept(drawer, {"x": 1})
    monkeypatch.setattr(drawers, "_packed", lambda known: pytest.fail("packed"))
    for run in RUNS * 2:
        drawer.read(run)
