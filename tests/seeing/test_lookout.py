"""Seeing, with a scripted examiner: verdicts are news once, identities outlive names and restarts."""

import os
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from making import START, publish, settings_in
from seeing.post import QUIET_CONFIG, Post

from sounding.config import Store
from sounding.keeping import drawers
from sounding.keeping.rows import verdict_row
from sounding.records import Attribute, Examination, Fact, Progress, Sighting, State, Verdict
from sounding.seeing import lookout as lookouts
from sounding.seeing.lookout import Lookout, Seen
from sounding.seeing.settle import Observed


@pytest.fixture
def post(tmp_path: Path) -> Post:
    return Post(tmp_path)


def test_verdicts_are_news_until_they_are_recorded_and_then_never_again(post: Post):
    paths = [post.write("a/ckpt_1.pt", "one"), post.write("a/ckpt_2.pt", "half"), post.write("b/ckpt_1.pt", "broken")]
    news, runs = post.look()
    assert [seen.sighting.path for seen in news] == paths, "in the order they were written"
    assert runs == {"a", "b"}
    again, runs = post.look()
    assert ([seen.sighting.path for seen in again], runs) == (paths, set()), "the disk may have been full"
    post.record(again)
    for _ in range(3):
        assert post.look() == ([], set())
    assert post.examined == []
    post.restart()
    news, runs = post.look()
    assert (news, runs) == ([], {"a", "b"})


def test_a_growing_file_is_news_once_and_again_when_it_is_whole(post: Post):
    post.write("a/ckpt_1.pt", "half")
    post.record(post.look()[0])
    for _ in range(3):
        post.write("a/ckpt_1.pt", "half")
        assert post.look()[0] == []
        assert len(post.examined) == 1
    post.write("a/ckpt_1.pt", "whole")
    (seen,), runs = post.look()
    assert (seen.verdict.state, runs) == (State.COMPLETE, {"a"})


def test_after_a_restart_recorded_checkpoints_are_not_examined_again(post: Post):
    post.write("a/ckpt_1.pt", "one")
    post.write("a/ckpt_2.pt", "two")
    post.record(post.look()[0])
    before = {path: seen.checkpoint for path, seen in post.lookout.seen.items()}
    post.write("a/ckpt_2.pt", "two")  # the same content with another time
    post.restart()
    news, _ = post.look()
    assert post.examined == [f"{post.runs}/a/ckpt_2.pt"]
    assert [seen.sighting.step for seen in news] == [2], "its new stamp is worth recording"
    for path, checkpoint in before.items():
        now = post.lookout.seen[path].checkpoint
        assert checkpoint is not None
        assert now is not None
        assert (now.checkpoint_id, now.ordinal, now.first_seen, now.progress) == (
            checkpoint.checkpoint_id,
            checkpoint.ordinal,
            checkpoint.first_seen,
            checkpoint.progress,
        )


def test_after_a_restart_what_was_not_complete_is_examined_again(post: Post):
    paths = {post.write("a/ckpt_1.pt", "broken"), post.write("a/ckpt_2.pt", "half")}
    post.record(post.look()[0])
    post.restart()
    assert post.look()[0] == []
    assert set(post.examined) == paths, "this version may understand what another called broken"


def test_a_recalled_step_that_the_pattern_no_longer_gives_is_not_believed(post: Post, tmp_path: Path):
    post.write("a/ckpt_1.pt", "one@1")
    post.record(post.look()[0])
    text = QUIET_CONFIG.replace("{run}/ckpt_{step}.pt", "{kind}/ckpt_{seed:int}.pt")
    post.settings = settings_in(tmp_path, text + 'run = "{kind}-{seed}"\n')
    post.restart()
    post.look()
    assert len(post.examined) == 1
    post.settings = settings_in(tmp_path, QUIET_CONFIG.replace("{step}", "{updates}"))
    post.restart()
    post.look()
    assert post.examined == [], "the same run and step under another part's name"


def test_checkpoints_are_read_again_when_more_attributes_are_asked_for(post: Post, tmp_path: Path):
    paths = {post.write(f"a/ckpt_{step}.pt", f"content {step}") for step in (1, 2)}
    post.record(post.look()[0])
    for asked, read_again in (
        ('["{run}/config.yaml"]', True),
        ('["{run}/config.yaml"]', False),
        ('["checkpoint:args", "{run}/config.yaml"]', True),
        ('["checkpoint:args"]', False),
        ("[]", False),
    ):
        post.settings = settings_in(tmp_path, f"{QUIET_CONFIG}attributes = {asked}\n")
        post.restart()
        post.record(post.look()[0])
        assert set(post.examined) == (paths if read_again else set()), asked
        assert post.look()[0] == [], "what was read with it is known"
    assert post.steps() == (1, 2)


def test_the_same_content_under_two_names_is_one_checkpoint(tmp_path: Path):
    post = Post(tmp_path, QUIET_CONFIG.replace('"{run}/ckpt_{step}.pt"', '["{run}/ckpt_{step}.pt", "{run}/last.pt"]'))
    post.write("a/ckpt_1.pt", "one")
    post.write("a/ckpt_2.pt", "two")
    post.write("a/last.pt", "two@2")
    news, _ = post.look()
    one, two, last = (seen.checkpoint for seen in news)
    assert one is not None
    assert two is not None
    assert last is not None
    assert one.checkpoint_id != two.checkpoint_id == last.checkpoint_id
    assert (one.ordinal, two.ordinal, last.ordinal) == (0, 1, 1)
    assert post.steps() == (1, 2)
    post.record(news)
    post.write("a/ckpt_3.pt", "three")
    post.write("a/last.pt", "three@3")
    news, _ = post.look()
    assert [seen.checkpoint and seen.checkpoint.ordinal for seen in news] == [2, 2]
    assert post.steps() == (1, 2, 3)


def test_overwriting_makes_a_new_generation_which_the_planner_sees_alone(post: Post):
    post.write("a/ckpt_1.pt", "old")
    post.record(post.look()[0])
    old = post.lookout.view(("runs", "a"), growing=True, models=("",)).readable[0]
    post.write("a/ckpt_1.pt", "new")
    news, runs = post.look()
    view = post.lookout.view(("runs", "a"), growing=True, models=("",))
    (new,) = view.readable
    assert runs == {"a"}
    assert [seen.checkpoint for seen in news] == [new]
    assert (new.step, new.path) == (old.step, old.path)
    assert new.checkpoint_id != old.checkpoint_id
    assert new.ordinal == old.ordinal + 1
    assert view.history == (new,)
    post.record(news)
    assert set(post.ledger.past(("runs", "a")).history) == {old.checkpoint_id, new.checkpoint_id}


def test_one_file_overwritten_for_ever_is_a_run_of_checkpoints(tmp_path: Path):
    post = Post(tmp_path, QUIET_CONFIG.replace("ckpt_{step}.pt", "ckpt.pt"))
    for step in (100, 200, 300):
        post.write("a/ckpt.pt", f"content {step}@{step}")
        news, _ = post.look()
        post.record(news)
        assert post.steps() == (step,)
    view = post.lookout.view(("runs", "a"), growing=True, models=("",))
    assert [known.step for known in view.history] == [100, 200, 300]
    assert [known.ordinal for known in view.history] == [0, 1, 2]


def test_ordinals_increase_over_restarts_and_whatever_is_deleted(post: Post):
    ordinals = []
    for step in range(6):
        path = post.write(f"a/ckpt_{step}.pt", f"content {step}")
        (seen,) = post.look()[0]
        assert seen.checkpoint is not None
        ordinals.append(seen.checkpoint.ordinal)
        post.record([seen])
        if step % 2:
            Path(path).unlink()
            post.look()
            post.restart()
            post.look()
    assert ordinals == [0, 1, 2, 3, 4, 5]


def test_a_checkpoint_keeps_its_birth_while_nothing_can_be_recorded(post: Post):
    path = Path(post.write("a/ckpt_1.pt", "one"))
    (seen,) = post.look()[0]
    away = path.rename(path.with_name("elsewhere"))
    assert post.look() == ([], {"a"})
    away.rename(path)
    (again,) = post.look()[0]
    assert again.checkpoint == seen.checkpoint


def test_quiet_time_is_waited_for_without_a_second_examination(post: Post):
    post.needs_quiet = True
    post.write("a/ckpt_1.pt", "one")
    post.record(post.look()[0])
    assert post.states() == {"a/ckpt_1.pt": State.PENDING}
    assert post.lookout.may_change_by_waiting(post.now + 1.9)
    assert not post.lookout.may_change_by_waiting(post.now + 2)
    assert post.look(after=1.9, full=False)[0] == []
    (seen,), runs = post.look(after=0.1, full=False)
    assert (seen.verdict.state, runs) == (State.COMPLETE, {"a"})
    assert post.examined == []
    assert not post.lookout.may_change_by_waiting(post.now)


def test_a_half_checkpoint_is_abandoned_when_the_run_goes_on_and_revoked_when_it_is_whole(post: Post):
    post.write("a/ckpt_1.pt", "half")
    post.look()
    assert post.lookout.view(("runs", "a"), growing=True, models=("",)).undecided == (1,)
    post.write("a/ckpt_2.pt", "two")
    post.record(post.look()[0])
    assert post.states() == {"a/ckpt_1.pt": State.ABANDONED, "a/ckpt_2.pt": State.COMPLETE}
    assert post.lookout.view(("runs", "a"), growing=True, models=("",)).undecided == ()
    post.write("a/ckpt_1.pt", "one after all")
    news, _ = post.look(full=False)
    assert [(seen.sighting.step, seen.verdict.state) for seen in news] == [(1, State.COMPLETE)]
    assert post.steps() == (1, 2)


def test_a_half_checkpoint_is_awaited_again_when_what_came_after_it_is_deleted(post: Post):
    post.write("a/ckpt_1.pt", "half")
    newer = post.write("a/ckpt_2.pt", "two")
    post.record(post.look()[0])
    assert post.states()["a/ckpt_1.pt"] is State.ABANDONED
    Path(newer).unlink()
    news, runs = post.look(full=False)
    assert ([seen.verdict.state for seen in news], runs) == ([State.PENDING], {"a"})


def test_what_stays_half_is_examined_ever_more_rarely(post: Post, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lookouts, "time", SimpleNamespace(monotonic=lambda: 0.0))  # examining takes no time at all
    post.write("a/ckpt_1.pt", "half")
    post.look(after=0)
    moments = []
    for second in range(1, 100):
        post.look(after=1, full=False)
        moments += [second] * len(post.examined)
    assert moments == [5, 20, 80]


def test_a_deleted_checkpoint_is_no_longer_readable_and_stays_in_history(post: Post):
    paths = [post.write(f"a/ckpt_{step}.pt", f"content {step}") for step in (1, 2)]
    post.record(post.look()[0])
    Path(paths[0]).unlink()
    assert post.look() == ([], {"a"})
    view = post.lookout.view(("runs", "a"), growing=True, models=("",))
    assert [known.step for known in view.readable] == [2]
    assert [known.step for known in view.history] == [1, 2]
    Path(paths[1]).unlink()
    post.look()
    assert list(post.lookout.runs()) == []
    assert post.lookout.counts["runs"].total() == 0


def test_the_newest_are_examined_first_and_the_rest_when_the_budget_is_spent(post: Post):
    paths = [post.write(f"a/ckpt_{step}.pt", f"content {step}") for step in range(4)]
    post.look(budget=-1.0)
    assert post.examined == [paths[3]]
    assert post.lookout.unexamined == 3
    assert post.steps() == (3,)
    assert post.lookout.view(("runs", "a"), growing=True, models=("",)).undecided == (0, 1, 2)
    assert post.lookout.may_change_by_waiting(post.now)
    post.look(full=False)
    assert post.examined == paths[2::-1]
    assert (post.lookout.unexamined, post.steps()) == (0, (0, 1, 2, 3))


def test_a_store_that_goes_away_is_a_problem_and_its_checkpoints_are_not_forgotten(post: Post):
    post.write("a/ckpt_1.pt", "one")
    post.record(post.look()[0])
    away = post.runs.rename(post.runs.with_name("away"))
    assert post.look() == ([], set())
    assert "cannot be listed" in post.lookout.problems["runs"]
    assert post.steps() == (1,)
    away.rename(post.runs)
    assert post.look() == ([], {"a"}), "what was owed meanwhile is to be planned again"
    assert post.lookout.problems["runs"] == ""


def test_the_last_written_checkpoint_is_watched_for_growth_and_older_ones_are_not(post: Post):
    old, new = (post.write(f"a/ckpt_{step}.pt", f"content {step}") for step in (1, 2))
    post.record(post.look()[0])
    for _ in range(3):
        post.look(full=False)
    post.write("a/ckpt_2.pt", "other")
    news, _ = post.look(full=False)
    assert [seen.sighting.path for seen in news] == [new]
    post.record(news)
    post.write("a/ckpt_1.pt", "other")
    assert post.look(full=False)[0] == []
    assert [seen.sighting.path for seen in post.look(full=True)[0]] == [old]


def test_what_is_settled_and_recorded_is_not_judged_again(post: Post, monkeypatch: pytest.MonkeyPatch):
    for step in range(20):
        post.write(f"a/ckpt_{step}.pt", f"content {step}")
    post.write("b/ckpt_1.pt", "broken")
    post.record(post.look()[0])
    post.look()
    judged: list[str] = []
    real = Lookout._judge

    def counted(lookout: Lookout, observed: Observed, now: float, wall: datetime) -> Seen:
        judged.append(observed.sighting.path)
        return real(lookout, observed, now, wall)

    monkeypatch.setattr(Lookout, "_judge", counted)
    post.look(full=True)
    assert judged == []
    added = post.write("a/ckpt_99.pt", "more")
    post.look(full=False)
    assert judged == [added]


def test_a_step_that_no_result_can_hold_makes_a_file_broken(tmp_path: Path):
    post = Post(tmp_path, QUIET_CONFIG.replace("ckpt_{step}.pt", "ckpt.pt"))
    post.write("a/ckpt.pt", f"content@{2**63}")
    (seen,), _ = post.look()
    assert seen.verdict == Verdict(State.BROKEN, f"iter_num is {2**63}, which cannot be a step")
    post.record([seen])
    assert post.look() == ([], set())


def test_counts_say_what_is_there(post: Post):
    for name, text in (("a/ckpt_1.pt", "half"), ("a/ckpt_2.pt", "two"), ("b/ckpt_3.pt", "broken")):
        post.write(name, text)
    post.write("b/ckpt_4.pt", "half")
    post.look()
    assert post.lookout.counts["runs"] == {
        State.COMPLETE: 1,
        State.ABANDONED: 1,
        State.BROKEN: 1,
        State.PENDING: 1,
    }
    post.write("b/ckpt_4.pt", "four")
    post.look()
    assert post.lookout.counts["runs"][State.PENDING] == 0
    assert post.lookout.counts["runs"][State.COMPLETE] == 2


def test_two_stores_are_looked_at_apart(tmp_path: Path):
    other = '[[stores]]\npath = "elsewhere"\npattern = "{run}/{step}.pt"\n'
    post = Post(tmp_path, QUIET_CONFIG + other)
    post.write("a/ckpt_1.pt", "one")
    post.write("../elsewhere/a/1.pt", "one")
    news, _ = post.look()
    first, second = (seen.checkpoint for seen in news)
    assert first is not None
    assert second is not None
    assert {first.store, second.store} == {"runs", "elsewhere"}
    assert first.checkpoint_id != second.checkpoint_id
    assert set(post.lookout.runs()) == {("runs", "a"), ("elsewhere", "a")}


def test_progress_and_attributes_travel_with_the_news(post: Post):
    def examine(sighting: Sighting, store: Store) -> Examination:
        found = Progress(step=Fact(1, "path"), updates=Fact(7, "optimizer.state.step"))
        attributes = (Attribute("lr", 0.1, "0.1", "path"),)
        return Examination(
            Verdict(State.COMPLETE, ""), format="f", fingerprint="f", progress=found, attributes=attributes
        )

    post.lookout.examine = examine
    post.write("a/ckpt_1.pt", "one")
    (seen,) = post.look()[0]
    assert seen.checkpoint is not None
    assert seen.checkpoint.progress.updates == Fact(7, "optimizer.state.step")
    post.record([seen])
    assert post.ledger.run_attributes(("runs", "a")) == {"lr": 0.1}


def test_a_checkpoint_of_a_run_that_has_lost_its_store_is_still_in_the_history(post: Post):
    post.write("a/ckpt_1.pt", "one")
    (seen,) = post.look()[0]
    assert seen.checkpoint is not None
    row = verdict_row(seen.sighting, seen.verdict, seen.checkpoint, seen.examination, START, 1)
    publish(post.results, [{**row, "store": "gone"}], 1)
    post.ledger.refresh()
    (again,) = post.look()[0]
    post.record([again])
    assert post.ledger.runs() == {("gone", "a"), ("runs", "a")}
    assert post.look()[0] == []


def test_runs_at_rest_stay_packed_until_something_happens_to_them(post: Post, monkeypatch: pytest.MonkeyPatch):
    for run in "abc":
        post.write(f"{run}/ckpt_1.pt", f"content of {run}")
    post.record(post.look()[0])
    post.look()
    unpacked: list[int] = []
    real = drawers._unpacked
    monkeypatch.setattr(drawers, "_unpacked", lambda packed: unpacked.append(len(packed)) or real(packed))
    for full in (False, True, False):
        assert post.look(full=full) == ([], set())
    assert unpacked == []
    post.write("a/ckpt_2.pt", "two")
    post.record(post.look()[0])
    assert len(unpacked) > 0
    assert (post.steps("a"), post.steps("b"), post.steps("c")) == ((1, 2), (1,), (1,))
    assert post.lookout.counts["runs"][State.COMPLETE] == 4


def test_what_comes_while_its_run_cannot_be_looked_at_is_judged_when_it_can(tmp_path: Path):
    post = Post(tmp_path, QUIET_CONFIG.replace("{run}/ckpt_{step}.pt", "{part}/{run}/ckpt_{step}.pt"))
    post.write("x/a/ckpt_1.pt", "one")
    post.record(post.look()[0])
    post.write("y/a/ckpt_2.pt", "two")
    real = os.scandir

    def guarded(directory: str) -> object:
        if directory.endswith("x/a"):
            raise PermissionError(13, "Permission denied")
        return real(directory)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "scandir", guarded)
        assert post.look() == ([], set())
        assert post.lookout.hidden == {("runs", "a")}
        assert post.steps() == (1,)
    (seen,), runs = post.look()
    assert (seen.sighting.step, runs, post.steps()) == (2, {"a"}, (1, 2))
