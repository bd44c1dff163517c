"""Why: a story for every plugin on every checkpoint, and for every path that never became one."""

import dataclasses
from datetime import timedelta
from pathlib import Path

import pytest
from making import CONFIG, START, checkpoint, pair, publish, results_in, settings_in, sheet

from sounding.asking.why import Explanation, why
from sounding.errors import SoundingError
from sounding.keeping.rows import Row, attribute_row, outcome_row, verdict_row
from sounding.records import (
    Attribute,
    Catalogue,
    Checkpoint,
    Ending,
    Key,
    Outcome,
    PluginSheet,
    Refusal,
    Sighting,
    State,
    Subject,
    Verdict,
)
from sounding.running.catalogue import remember
from sounding.running.status import Status, write_status
from sounding.stamps import stamp_of

RECIPE = "recipe = 'recipe.py'\n"


class Past:
    """A lab with a past: checkpoints on the disk, and what was recorded of them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seq = 0
        self.configure("")
        self.results = results_in(self.settings.results)
        self.plugins(sheet("norm"))

    def configure(self, more: str) -> None:
        self.settings = settings_in(self.path, CONFIG + more)

    def plugins(self, *sheets: PluginSheet, refusals: tuple[Refusal, ...] = ()) -> None:
        remember(Catalogue({one.name: one for one in sheets}, refusals), self.results.path)

    def saved(self, step: int, run: str = "a", text: str = "", name: str = "") -> Checkpoint:
        """Write a checkpoint and record that it is complete."""
        path = self.path / "runs" / run / (name or f"ckpt_{step}.pt")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text or f"{run} {step}")
        known = checkpoint(step, run, text, path=str(path), stamp=stamp_of(path), ordinal=self.seq)
        self.judged(known, State.COMPLETE, "all tensors are there")
        return known

    def judged(self, known: Checkpoint, state: State, reason: str) -> None:
        seen = Sighting(known.store, known.run, known.path, known.step, {}, known.stamp)
        found = known if state is State.COMPLETE else None
        self._publish(verdict_row(seen, Verdict(state, reason), found, None, START, 0))

    def ended(
        self,
        known: Checkpoint,
        ending: Ending,
        reason: str = "",
        *,
        by: PluginSheet | None = None,
        attempt: int = 1,
        against: Checkpoint | None = None,
    ) -> None:
        plugin = by or sheet("norm")
        subject = Subject(plugin.over, known.store, known.run, known.step, known.checkpoint_id)
        if against is not None:
            subject = dataclasses.replace(
                subject, other_step=against.step, other_checkpoint_id=against.checkpoint_id, other_run=against.run
            )
        key = Key(plugin.name, plugin.version, plugin.options_hash, "b", subject.identity)
        at = START + timedelta(seconds=self.seq)
        self._publish(outcome_row(Outcome(key, subject, ending, reason, attempt, 0, at)))

    def story(self, known: Checkpoint, plugin: str = "norm") -> tuple[str, str]:
        (told,) = self.ask(known.checkpoint_id)
        (story,) = [task for task in told.tasks if task.plugin == plugin]
        return story.state, story.reason

    def ask(self, text: object) -> list[Explanation]:
        return why(self.settings, str(text))

    def _publish(self, row: Row) -> None:
        self.seq += 1
        publish(self.results, [row], self.seq)


@pytest.fixture
def past(tmp_path: Path) -> Past:
    return Past(tmp_path)


def test_a_checkpoint_is_found_by_path_id_and_run_at_step(past: Past, monkeypatch: pytest.MonkeyPatch):
    known, _ = past.saved(10), past.saved(20)
    monkeypatch.chdir(past.path / "runs")
    (told,) = past.ask(known.path)
    assert dataclasses.replace(told, tasks=()) == Explanation(
        known.checkpoint_id, "runs", "a", 10, known.path, "complete", "all tensors are there", ()
    )
    for text in ("a/ckpt_10.pt", "./b/../a/ckpt_10.pt", known.checkpoint_id, known.checkpoint_id[:8], "a@10"):
        assert past.ask(text) == [told]


def test_run_at_step_names_every_generation(past: Past):
    old = past.saved(10, text="old")
    new = past.saved(10, text="the new one")
    assert [told.checkpoint_id for told in past.ask("a@10")] == [old.checkpoint_id, new.checkpoint_id]
    first, second = past.ask(new.path)
    assert first.reason.endswith("; overwritten")
    assert second.reason == "all tensors are there"


@pytest.mark.parametrize("text", ["a@11", "b@10", "@10", "zzzz", "", "runs/a/ckpt_99.pt"])
def test_what_nobody_knows_is_said_to_be_unknown(past: Past, text: str):
    past.saved(10)
    with pytest.raises(SoundingError, match="no checkpoint by that path, id or RUN@STEP is known"):
        past.ask(text)


def test_before_any_result_everything_is_unknown(tmp_path: Path):
    settings = settings_in(tmp_path)
    with pytest.raises(SoundingError, match="sounding checkpoints"):
        why(settings, "a@1")


def test_a_path_that_no_pattern_matches_is_told_the_patterns(past: Past):
    stray = past.path / "runs" / "a" / "notes.txt"
    stray.parent.mkdir()
    stray.touch()
    with pytest.raises(SoundingError, match=r"no checkpoint by its name: the pattern of store 'runs' is \{run\}/ckpt_"):
        past.ask(stray)


def test_a_path_that_nobody_has_looked_at_is_told_so(past: Past):
    fresh = past.path / "runs" / "a" / "ckpt_1.pt"
    fresh.parent.mkdir()
    fresh.touch()
    with pytest.raises(SoundingError, match="no daemon has looked yet"):
        past.ask(fresh)


@pytest.mark.parametrize("state", [State.PENDING, State.ABANDONED, State.BROKEN])
def test_what_is_not_complete_is_told_with_its_verdict(past: Past, state: State):
    half = checkpoint(10, path=str(past.path / "runs" / "a" / "ckpt_10.pt"))
    past.judged(half, state, "6 of 8 shards")
    expected = Explanation("", "runs", "a", 10, half.path, state, "6 of 8 shards", ())
    assert past.ask(half.path) == past.ask("a@10") == [expected]


def test_a_measured_checkpoint_is_done_and_says_when(past: Past):
    known, before = past.saved(10), past.saved(5)
    past.plugins(sheet("norm"), pair("change"))
    past.ended(known, Ending.OK)
    past.ended(known, Ending.OK, "one layer is new", by=pair("change"), against=before)
    assert past.story(known) == ("done", "measured 2026-05-01 12:00:02 UTC")
    assert past.story(known, "change") == (
        "done",
        "measured 2026-05-01 12:00:03 UTC; against step 5; one layer is new",
    )


def test_a_skip_is_told_with_the_plugins_reason(past: Past):
    known = past.saved(10)
    past.ended(known, Ending.SKIPPED, "no optimizer state inside")
    assert past.story(known) == ("skipped", "no optimizer state inside")


def test_a_failure_waits_until_its_attempts_are_used_up(past: Past):
    known = past.saved(10)
    past.ended(known, Ending.CRASHED, "killed by SIGSEGV", attempt=2)
    assert past.story(known) == ("waiting", "crashed, attempt 2: killed by SIGSEGV; it will be tried again")
    past.ended(known, Ending.CRASHED, "killed by SIGSEGV", attempt=3)
    state, reason = past.story(known)
    assert (state, reason.partition(";")[0]) == ("failed", "crashed, attempt 3: killed by SIGSEGV")
    assert "sounding redo" in reason


def test_what_was_asked_for_again_is_owed(past: Past):
    known = past.saved(10)
    past.ended(known, Ending.OK)
    past.ended(known, Ending.REDO, "asked for again", attempt=0)
    assert past.story(known) == ("owed", "asked for again 2026-05-01 12:00:02 UTC")


def test_what_nobody_measured_yet_is_owed(past: Past):
    assert past.story(past.saved(10))[0] == "owed"


@pytest.mark.parametrize("change", [{"version": 2}, {"options_hash": "other"}])
def test_what_another_version_measured_is_owed_again(past: Past, change: dict[str, object]):
    known = past.saved(10)
    past.ended(known, Ending.OK)
    past.plugins(sheet("norm", **change))
    assert past.story(known) == ("owed", "measured by another version or with other options; owed again")


def test_a_deleted_checkpoint_that_was_not_measured_is_gone(past: Past):
    known = past.saved(10)
    Path(known.path).unlink()
    assert past.story(known) == ("gone", "deleted before it was measured")
    past.ended(known, Ending.GONE, "deleted while it was read")
    words = "deleted before it was measured; attempt 1 ended gone: deleted while it was read"
    assert past.story(known) == ("gone", words), "it will not be tried again"
    (told,) = past.ask(known.path)
    assert told.reason == "all tensors are there; deleted"


def test_a_deleted_checkpoint_that_was_measured_is_done(past: Past):
    known = past.saved(10)
    past.ended(known, Ending.OK)
    Path(known.path).unlink()
    assert past.story(known)[0] == "done"


def test_an_overwritten_checkpoint_that_was_not_measured_is_gone(past: Past):
    known = past.saved(10)
    Path(known.path).write_text("the next one")
    assert past.story(known) == ("gone", "overwritten before it was measured")


def test_a_checkpoint_that_must_not_be_read_is_not_called_deleted(past: Past, monkeypatch: pytest.MonkeyPatch):
    known = past.saved(10)

    def refused(path: Path) -> object:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("sounding.asking.why.stamp_of", refused)
    assert past.story(known) == ("gone", "unreadable (Permission denied) before it was measured")


def test_one_checkpoint_of_two_names_is_there_while_one_of_them_is(past: Past):
    known = past.saved(10, text="same")
    last = past.saved(10, text="same", name="last.pt")
    assert known.checkpoint_id == last.checkpoint_id
    assert past.ask(known.path) == past.ask(last.path)
    Path(last.path).write_text("the next one")
    assert past.story(known)[0] == "owed"
    Path(known.path).unlink()
    assert past.story(known)[0] == "gone"


def test_a_plugin_that_is_switched_off_is_not_wanted(past: Past):
    past.configure("[plugins.norm]\nenabled = false\n")
    known = past.saved(10)
    assert past.story(known) == ("not wanted", "enabled = false in the configuration")
    past.ended(known, Ending.FAILED, "raised")
    assert past.story(known)[0] == "not wanted", "it will not be tried again"
    past.ended(known, Ending.OK)
    assert past.story(known)[0] == "done"


def test_a_step_outside_the_schedule_is_not_wanted(past: Past):
    past.configure('[plugins.norm]\nat = "every 20"\n')
    off, on = past.saved(10), past.saved(20)
    assert past.story(off) == ("not wanted", "not at this step: at = 'every 20'")
    assert past.story(on)[0] == "owed"


def test_what_costs_as_much_shares_a_schedule(past: Past):
    past.plugins(sheet("norm", cost="curvature"))
    past.saved(10)
    middle, _ = past.saved(20), past.saved(30)
    reason = "not at this step: at = 'first,last', as of all that cost curvature"
    assert past.story(middle) == ("not wanted", reason)


def test_an_offline_plugin_is_not_wanted(past: Past):
    past.plugins(sheet("norm", cost="offline"))
    assert past.story(past.saved(10)) == ("not wanted", "an offline plugin; it runs only on request")


@pytest.mark.parametrize(
    ("against", "step", "word"), [("previous", 10, "first"), ("first", 10, "first"), ("last", 20, "last")]
)
def test_the_end_of_a_run_has_nothing_to_be_compared_with(past: Past, against: str, step: int, word: str):
    past.plugins(pair("norm", against))
    by_step = {known.step: known for known in (past.saved(10), past.saved(20))}
    assert past.story(by_step[step]) == (
        "not wanted",
        f"the {word} checkpoint of its run has nothing to be compared with",
    )
    assert past.story(by_step[30 - step])[0] == "owed"


def test_without_a_recipe_what_needs_one_is_not_wanted(past: Past):
    past.plugins(sheet("norm", needs_recipe=True))
    known = past.saved(10)
    assert past.story(known) == (
        "not wanted",
        "needs the model or data: name a `recipe` for the store in the configuration",
    )
    past.configure(RECIPE)
    assert past.story(known)[0] == "owed"


def test_a_recipe_that_cannot_be_used_is_told_with_its_problem(past: Past):
    past.plugins(sheet("norm", needs_recipe=True))
    past.configure(RECIPE)
    known, other = past.saved(10), past.saved(10, run="b")
    problems = ("runs/a: no function `architecture`",)
    now = START.isoformat()
    write_status(past.results.path, Status("lab", 1, now, now, "watching", recipe_problems=problems))
    assert past.story(known) == ("not wanted", "the recipe cannot be used: no function `architecture`")
    assert past.story(other)[0] == "owed"


def test_plugins_that_cannot_be_used_are_told_with_the_reason(past: Past):
    past.plugins(sheet("norm"), refusals=(Refusal("twin", "somewhere", "the name is used twice"),))
    known = past.saved(10)
    assert past.story(known, "twin") == ("refused", "the name is used twice")


def test_without_a_catalogue_there_are_no_stories_yet_and_no_error(past: Past):
    known = past.saved(10)
    (past.results.path / "cache" / "plugins.json").unlink()
    (told,) = past.ask("a@10")
    assert (told.checkpoint_id, told.tasks) == (known.checkpoint_id, ())


def test_attributes_and_other_runs_do_not_disturb(past: Past):
    known = past.saved(10)
    past._publish(attribute_row("runs", "b", Attribute("lr", 0.1, "0.1", "path"), 0, START))
    assert len(past.ask("a@10")) == 1
    assert past.story(known)[0] == "owed"
