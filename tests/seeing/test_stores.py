"""Stores that misbehave: links, mounts that come and go, runs that are renamed, repeated or forbidden."""

import errno
import os
import shutil
from collections.abc import Callable, Set
from pathlib import Path
from types import SimpleNamespace

import pytest
from seeing.post import QUIET_CONFIG, Post

from sounding.asking import check as checking
from sounding.formats import proof
from sounding.records import State
from sounding.seeing import examine as examining
from sounding.seeing import scan as scanning
from sounding.seeing.directory import Reader, Way

ONE = '"{run}/ckpt_{step}.pt"'
DEEP = QUIET_CONFIG.replace(
    ONE, f'[{ONE}, "{{group}}/{{run}}/ckpt_{{step}}.pt", "{{x}}/{{y}}/{{z}}/{{run}}/ckpt_{{step}}.pt"]'
)


@pytest.fixture
def post(tmp_path: Path) -> Post:
    return Post(tmp_path)


def runs(post: Post) -> set[str]:
    return {run for _, run in post.lookout.runs()}


def problem(post: Post) -> str:
    return post.lookout.problems["runs"]


def forbid(patch: pytest.MonkeyPatch, directory: Path, number: int = errno.EACCES) -> None:
    """Let listings of a directory fail; permissions do not stop a test that runs as root."""
    real = Reader.entries

    def entries(reader: Reader, way: Way, known: Set[str]) -> object:
        if way.path == str(directory):
            raise OSError(number, os.strerror(number), way.path)
        return real(reader, way, known)

    patch.setattr(Reader, "entries", entries)


def on_another_device(patch: pytest.MonkeyPatch, directory: Path) -> None:
    """Let a directory look like the mount point of another file system."""
    real = os.stat

    def status(path: str, **options: object) -> object:
        found = real(path, **options)  # type: ignore[arg-type]
        if str(path) != str(directory):
            return found
        names = ("st_mode", "st_ino", "st_size", "st_mtime_ns")
        return SimpleNamespace(st_dev=found.st_dev + 1, **{name: getattr(found, name) for name in names})

    patch.setattr(scanning, "os", SimpleNamespace(stat=status))


# --- links ------------------------------------------------------------------------------------------------------------


def test_a_link_to_the_newest_run_is_no_run(post: Post):
    post.write("a/ckpt_1.pt", "one")
    post.write("b/ckpt_1.pt", "two")
    latest = post.runs / "latest"
    for target in ("b", "a", str(post.runs / "b")):
        latest.unlink(missing_ok=True)
        latest.symlink_to(target, target_is_directory=True)
        post.look(full=False)
        assert runs(post) == {"a", "b"}
    shutil.rmtree(post.runs / "b")
    post.look(full=False)
    assert runs(post) == {"a"}


def test_a_link_that_leads_out_of_the_store_is_a_run_of_its_own_name(post: Post, tmp_path: Path):
    scratch = tmp_path / "scratch" / "big"
    scratch.mkdir(parents=True)
    (scratch / "ckpt_1.pt").write_text("one")
    (post.runs / "moved").symlink_to(scratch)
    (post.runs / "again").symlink_to(scratch)
    post.look()
    assert runs(post) == {"again"}, "one directory is one run, however many links lead to it"
    (post.runs / "again").unlink()
    post.look(full=False)
    assert runs(post) == {"moved"}
    assert list(post.lookout.seen) == [f"{post.runs}/moved/ckpt_1.pt"]


def test_a_link_to_a_place_in_the_store_that_no_pattern_reaches_is_followed(post: Post):
    post.write("archive/2026/spring/ckpt_1.pt", "one")
    (post.runs / "spring").symlink_to("archive/2026/spring")
    post.look()
    assert runs(post) == {"spring"}


def test_links_upwards_and_in_circles_come_to_an_end(tmp_path: Path):
    post = Post(tmp_path, DEEP)
    post.write("a/ckpt_1.pt", "one")
    post.write("g/b/ckpt_1.pt", "two")
    for link, target in {"up": "..", "g/up": "..", "g/b/here": ".", "self": "self", "to": "fro", "fro": "to"}.items():
        (post.runs / link).symlink_to(target)
    post.look()
    assert post.states().keys() == {"a/ckpt_1.pt", "g/b/ckpt_1.pt"}
    assert problem(post) == ""


def test_a_store_may_itself_be_a_link(tmp_path: Path):
    disk = tmp_path / "disk"
    disk.mkdir()
    (tmp_path / "runs").symlink_to(disk)
    post = Post(tmp_path)
    path = post.write("a/ckpt_1.pt", "one")
    (post.runs / "latest").symlink_to(disk / "a")
    post.look()
    assert list(post.lookout.seen) == [path]


def test_a_link_to_a_checkpoint_of_another_run_is_left_out_and_one_within_the_run_is_the_same_checkpoint(
    tmp_path: Path,
):
    names = '["{run}.pt", "{run}/ckpt_{step}.pt", "{run}/last.pt"]'
    post = Post(tmp_path, QUIET_CONFIG.replace(ONE, names))
    post.write("single.pt", "one@1")
    post.write("a/ckpt_1.pt", "two@1")
    (post.runs / "newest.pt").symlink_to("single.pt")
    (post.runs / "best.pt").symlink_to(tmp_path / "runs" / "a" / "ckpt_1.pt")
    (post.runs / "a" / "last.pt").symlink_to("ckpt_1.pt")
    post.look()
    assert post.states().keys() == {"single.pt", "a/ckpt_1.pt", "a/last.pt"}
    assert post.steps("a") == (1,)


# --- stores out of reach ----------------------------------------------------------------------------------------------


def test_a_store_that_is_suddenly_empty_is_not_believed_for_ten_minutes(post: Post):
    post.write("a/ckpt_1.pt", "one")
    post.record(post.look()[0])
    away = post.runs.rename(post.runs.with_name("away"))
    post.runs.mkdir()
    for _ in range(3):
        assert post.look(after=199.0) == ([], set())
        assert "as if it were not mounted" in problem(post)
        assert (post.steps(), post.lookout.hidden) == ((1,), {("runs", "a")})
    post.runs.rmdir()
    away.rename(post.runs)
    assert post.look(full=False) == ([], {"a"})
    assert (problem(post), post.lookout.hidden, post.examined) == ("", set(), [])


def test_a_store_that_stays_empty_has_lost_its_checkpoints(post: Post):
    post.write("a/ckpt_1.pt", "one")
    post.record(post.look()[0])
    shutil.rmtree(post.runs / "a")
    post.look()
    assert post.look(after=599.0) == ([], set())
    assert post.look(after=1.0)[1] == {"a"}
    assert (problem(post), runs(post)) == ("", set())
    post.write("b/ckpt_1.pt", "two")
    assert post.look()[1] == {"b"}


def test_a_run_deleted_beside_others_is_gone_at_once(post: Post):
    for run in "ab":
        post.write(f"{run}/ckpt_1.pt", run)
    post.look()
    shutil.rmtree(post.runs / "a")
    assert post.look(full=False)[1] == {"a"}
    assert (problem(post), runs(post)) == ("", {"b"})


@pytest.mark.parametrize("place", [".", "a"])
def test_another_file_system_without_what_was_there_is_not_believed_at_once(
    post: Post, monkeypatch: pytest.MonkeyPatch, place: str
):
    post.write("a/ckpt_1.pt", "one")
    post.record(post.look()[0])
    mount = post.runs / place
    away = mount.rename(post.runs.with_name("away"))
    (mount / "other").mkdir(parents=True)
    with monkeypatch.context() as patch:
        on_another_device(patch, mount)
        for full in (False, True):
            assert post.look(full=full) == ([], set())
            assert f"{mount} no longer holds what it held" in problem(post)
            assert post.steps() == (1,)
        post.look(after=600.0)
        assert (problem(post), runs(post)) == ("", set())
    shutil.rmtree(mount)
    away.rename(mount)
    post.look()
    assert post.steps() == (1,), "whatever was believed meanwhile, it is there again"


def test_a_file_system_mounted_again_under_another_number_is_the_same(post: Post, monkeypatch: pytest.MonkeyPatch):
    post.write("a/ckpt_1.pt", "one")
    post.record(post.look()[0])
    on_another_device(monkeypatch, post.runs)
    assert post.look(full=False) == ([], set())
    assert problem(post) == ""


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE, errno.ENOTCONN])
@pytest.mark.parametrize("place", [".", "a"])
def test_what_cannot_be_listed_is_remembered_and_the_rest_is_seen(
    post: Post, monkeypatch: pytest.MonkeyPatch, number: int, place: str
):
    post.write("a/ckpt_1.pt", "one")
    post.record(post.look()[0])
    post.write("b/ckpt_1.pt", "two")
    with monkeypatch.context() as patch:
        forbid(patch, post.runs / place, number)
        post.record(post.look()[0])
        assert f"{post.runs / place} cannot be listed: {os.strerror(number)}" in problem(post)
        assert runs(post) == ({"a"} if place == "." else {"a", "b"})
        assert post.lookout.hidden == {("runs", "a")}
        assert post.look() == ([], set())
    assert "a" in post.look()[1]
    assert (problem(post), runs(post), post.lookout.hidden) == ("", {"a", "b"}, set())


def test_check_names_a_store_that_cannot_be_listed(post: Post, monkeypatch: pytest.MonkeyPatch):
    forbid(monkeypatch, post.runs)
    post.look()
    (told,) = checking._store(post.settings.stores[0], [], problem(post))
    assert (told.severity, told.what) == ("error", f"{post.runs} cannot be listed: Permission denied")


def test_the_other_stores_are_looked_at_whatever_one_of_them_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    post = Post(tmp_path, QUIET_CONFIG + '[[stores]]\npath = "elsewhere"\npattern = "{run}/{step}.pt"\n')
    for number in (errno.EACCES, errno.EIO, errno.ENOENT, errno.ENOTDIR):
        post.write(f"../elsewhere/r{number}/1.pt", "one")
        with monkeypatch.context() as patch:
            forbid(patch, post.runs, number)
            post.look()
        assert "cannot be listed" in problem(post)
        assert ("elsewhere", f"r{number}") in set(post.lookout.runs())
        assert post.lookout.problems["elsewhere"] == ""


def test_a_settled_checkpoint_whose_stat_fails_for_a_while_has_not_vanished(
    post: Post, monkeypatch: pytest.MonkeyPatch
):
    path = post.write("a/ckpt_1.pt", "one")
    post.record(post.look()[0])

    def failing(candidate: str, status: os.stat_result) -> object:
        raise OSError(errno.EIO, os.strerror(errno.EIO), candidate)

    with monkeypatch.context() as patch:
        patch.setattr(scanning, "stamp_of", failing)
        assert post.look() == ([], set())
        assert problem(post) == f"{path} cannot be read: Input/output error"
        assert post.steps() == (1,)
    assert post.look(full=False) == ([], set())
    assert problem(post) == ""


def test_nothing_is_judged_of_what_cannot_be_seen(post: Post):
    post.needs_quiet = True
    post.write("a/ckpt_1.pt", "one")
    post.write("b/ckpt_1.pt", "half")
    post.record(post.look()[0])
    away = post.runs.rename(post.runs.with_name("away"))
    for _ in range(3):
        assert post.look(after=60.0) == ([], set())
        assert post.examined == []
    assert post.states() == dict.fromkeys(("a/ckpt_1.pt", "b/ckpt_1.pt"), State.PENDING)
    assert not post.lookout.may_change_by_waiting(post.now), "nobody waits for a store that may never come back"
    away.rename(post.runs)
    news, _ = post.look()
    assert [seen.sighting.run for seen in news] == ["a"]


# --- runs that change under the daemon --------------------------------------------------------------------------------


def delete(post: Post) -> None:
    shutil.rmtree(post.runs / "a")


def overwrite(post: Post) -> None:
    return


def delete_and_look(post: Post) -> None:
    post.write("b/ckpt_9.pt", "another run, so that the store is not bare")
    delete(post)
    post.look()


def delete_while_no_daemon_runs(post: Post) -> None:
    delete(post)
    post.restart()


@pytest.mark.parametrize("end", [overwrite, delete, delete_and_look, delete_while_no_daemon_runs])
def test_a_rerun_that_uses_the_same_steps_again_makes_other_checkpoints(post: Post, end: Callable[[Post], None]):
    for step in (1, 2):
        post.write(f"a/ckpt_{step}.pt", f"first {step}")
    first = post.look()[0]
    post.record(first)
    end(post)
    for step in (1, 2):
        post.write(f"a/ckpt_{step}.pt", f"second {step}")
        news = [seen for seen in post.look()[0] if seen.sighting.run == "a"]
        post.record(news)
        assert [seen.checkpoint and seen.checkpoint.ordinal for seen in news] == [step + 1]
    view = post.lookout.view(("runs", "a"), growing=True, models=("",))
    old = {seen.checkpoint.checkpoint_id for seen in first if seen.checkpoint}
    assert [known.fingerprint for known in view.readable] == ["second 1", "second 2"]
    assert old.isdisjoint(known.checkpoint_id for known in view.history)
    assert old < post.ledger.past(("runs", "a")).history.keys()


def test_a_rerun_that_has_not_come_so_far_is_not_mixed_up_with_the_first(post: Post):
    for step in (1, 2, 3):
        post.write(f"a/ckpt_{step}.pt", f"first {step}")
    post.record(post.look()[0])
    delete(post)
    post.write("a/ckpt_1.pt", "second 1")
    post.record(post.look(full=False)[0])
    assert post.steps() == (1,)
    post.write("a/ckpt_2.pt", "half")
    post.look(full=False)
    assert post.states()["a/ckpt_2.pt"] is State.PENDING, "the first run's step 3 does not leave it behind"


def test_a_renamed_run_is_a_new_run_and_the_old_readings_stay(post: Post):
    for step in (1, 2):
        post.write(f"a/ckpt_{step}.pt", f"content {step}")
    post.record(post.look()[0])
    old = set(post.ledger.past(("runs", "a")).history)
    (post.runs / "a").rename(post.runs / "b")
    news, changed = post.look(full=False)
    assert (changed, runs(post)) == ({"a", "b"}, {"b"})
    post.record(news)
    assert post.steps("b") == (1, 2)
    assert set(post.ledger.past(("runs", "a")).history) == old
    assert old.isdisjoint(post.ledger.past(("runs", "b")).history)
    (post.runs / "b").rename(post.runs / "a")
    assert post.look(full=False) == ([], {"a", "b"})
    assert {c.checkpoint_id for c in post.lookout.view(("runs", "a"), growing=True, models=("",)).readable} == old


def test_runs_that_come_and_go_while_they_are_looked_at(post: Post, monkeypatch: pytest.MonkeyPatch):
    for run in "abc":
        post.write(f"{run}/ckpt_1.pt", run)
    real = Reader.entries

    def entries(reader: Reader, way: Way, known: Set[str]) -> object:
        listed = real(reader, way, known)
        if way.path == str(post.runs):
            shutil.rmtree(post.runs / "b")  # after the listing that names it, before it is listed itself
            post.write("d/ckpt_1.pt", "d")
        elif way.path.endswith("/c"):
            shutil.rmtree(way.path)  # after the listing of the run, before its checkpoint is stat-ed
        return listed

    with monkeypatch.context() as patch:
        patch.setattr(Reader, "entries", entries)
        post.look()
    assert (runs(post), problem(post)) == ({"a"}, "")
    post.look(full=False)
    assert (runs(post), problem(post)) == ({"a", "d"}, "")


# --- files that cannot be read ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ckpt_1.pt", "ckpt_1.safetensors"])
def test_an_empty_file_is_waited_for(tmp_path: Path, name: str):
    post = Post(tmp_path, QUIET_CONFIG.replace("ckpt_{step}.pt", name.replace("1", "{step}")))
    post.write(f"a/{name}", "")
    post.lookout.examine = lambda sighting, store: examining.examine(sighting)
    (seen,) = post.look()[0]
    assert (seen.verdict.state, seen.verdict.reason) == (State.PENDING, "empty file")


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
@pytest.mark.parametrize("name", ["ckpt_1.pt", "ckpt_1.safetensors", "ckpt_1", "checkpoint-1"])
def test_a_file_that_must_not_be_opened_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, number: int
):
    post = Post(tmp_path, QUIET_CONFIG.replace("ckpt_{step}.pt", name.replace("1", "{step}")))
    post.lookout.examine = lambda sighting, store: examining.examine(sighting)
    post.write(f"a/{name}/model.safetensors" if name == "checkpoint-1" else f"a/{name}", "half")

    def refused(path: Path, flags: int) -> int:
        raise OSError(number, os.strerror(number), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(proof, "os", SimpleNamespace(**{**vars(os), "open": refused}))
        (seen,) = post.look()[0]
        assert seen.verdict.state is State.PENDING
        assert seen.verdict.reason.endswith(f"cannot be read: {os.strerror(number)}")
        post.look(after=3600.0)
    again: list[str] = []
    post.lookout.examine = lambda sighting, store: again.append(sighting.path) or examining.examine(sighting)
    post.look(after=601.0, full=False)
    assert len(again) == 1, "a change of permissions moves no modification time, so it is tried now and then"
