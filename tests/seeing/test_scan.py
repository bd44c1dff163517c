"""Listing a store: everything that is there is seen, and what has not changed costs nothing."""

import os
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path

import pytest
from making import settings_in

from sounding.records import Sighting
from sounding.seeing import directory as directories
from sounding.seeing import scan as scanning
from sounding.seeing.directory import Reader, Way
from sounding.seeing.scan import Scanner
from sounding.stamps import stamp_of

STORE = '[[stores]]\npath = "runs"\npattern = {}\n'
NOBODY: Set[str] = frozenset()


@dataclass(frozen=True)
class Look:
    """What the scanner told, and what is there by all that it has told so far."""

    changed: frozenset[str]
    sightings: Mapping[str, Sighting]
    problem: str


class Eye:
    """A scanner over a store below `tmp_path`, with a clock, and counts of what it costs."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str = '"{run}/ckpt_{step}.pt"') -> None:
        self.store = settings_in(path, STORE.format(pattern)).stores[0]
        self.runs = self.store.path
        self.scanner = Scanner(self.store)
        self.now = 1000.0
        self.stamped: list[str] = []
        self.listed: list[str] = []
        self.known: dict[str, Sighting] = {}
        self._count(monkeypatch)

    def write(self, name: str, text: str = "x") -> str:
        path = self.runs / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return str(path)

    def look(
        self, *, full: bool = False, touched: Set[str] = NOBODY, unsettled: Set[str] = NOBODY, after: float = 10.0
    ) -> Look:
        self.now += after
        self.stamped.clear()
        self.listed.clear()
        told = self.scanner.scan(self.now, full=full, touched=touched, unsettled=unsettled)
        assert told.gone.keys() <= self.known.keys(), "what was never told of cannot go"
        assert all(self.known[path].run == gone.run for path, gone in told.gone.items())
        self.known = {path: seen for path, seen in self.known.items() if path not in told.gone} | dict(told.seen)
        return Look(frozenset({*told.seen, *told.gone}), self.known, told.problem)

    def rest(self) -> None:
        """Look until nothing is unsettled any more."""
        self.look()
        self.look()
        assert self.look().changed == frozenset()
        assert self.listed == []

    def _count(self, monkeypatch: pytest.MonkeyPatch) -> None:
        real = Reader.entries

        def counted_entries(reader: Reader, way: Way, known: Set[str]) -> object:
            self.listed.append(way.path)
            return real(reader, way, known)

        def counted_stamp(path: str, status: os.stat_result) -> object:
            self.stamped.append(path)
            return stamp_of(path, status)

        monkeypatch.setattr(Reader, "entries", counted_entries)
        monkeypatch.setattr(scanning, "stamp_of", counted_stamp)


@pytest.fixture
def eye(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Eye:
    return Eye(tmp_path, monkeypatch)


def test_files_and_directories_are_sighted_with_what_their_names_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    eye = Eye(tmp_path, monkeypatch, '["lr{lr:float}/ckpt_{step}.pt", "{run}/checkpoint-{step}", "last.pt"]')
    file, directory, last = eye.write("lr0.1/ckpt_3.pt"), eye.write("b/checkpoint-7/weights"), eye.write("last.pt")
    eye.write("b/checkpoint-x/weights")
    eye.write("b/notes.txt")
    seen = eye.look()
    assert seen.problem == ""
    assert seen.changed == seen.sightings.keys() == {file, str(Path(directory).parent), last}
    assert (seen.sightings[file].run, seen.sightings[file].step) == ("runs", 3)
    assert seen.sightings[file].parts == {"lr": 0.1}
    assert (seen.sightings[last].run, seen.sightings[last].step) == ("runs", None)
    whole = seen.sightings[str(Path(directory).parent)]
    assert (whole.store, whole.run, whole.step) == ("runs", "b", 7)
    assert [part.path for part in whole.stamp] == ["weights"]
    assert all(sighting.stamp == stamp_of(Path(path)) for path, sighting in seen.sightings.items())


def test_what_is_new_changed_or_gone_is_told_once(eye: Eye):
    first, second = eye.write("a/ckpt_1.pt"), eye.write("a/ckpt_2.pt")
    assert eye.look().changed == {first, second}
    assert eye.look().changed == frozenset()
    third = eye.write("b/ckpt_3.pt")
    Path(first).unlink()
    seen = eye.look()
    assert seen.changed == {first, third}
    assert seen.sightings.keys() == {second, third}
    Path(second).write_text("longer")
    before = seen.sightings[second]
    seen = eye.look(unsettled={second})
    assert seen.changed == {second}
    assert seen.sightings[second].stamp != before.stamp
    assert eye.look(unsettled={second}).changed == frozenset()


def test_a_run_that_is_deleted_or_renamed_takes_its_checkpoints_with_it(eye: Eye):
    old = {eye.write(f"a/ckpt_{step}.pt") for step in range(3)}
    eye.rest()
    (eye.runs / "a").rename(eye.runs / "b")
    seen = eye.look()
    new = {path.replace("/a/", "/b/") for path in old}
    assert seen.changed == old | new
    assert seen.sightings.keys() == new


def test_growth_in_place_is_seen_though_the_directory_stands_still(eye: Eye):
    path = eye.write("a/ckpt_1.pt")
    eye.rest()
    directory = (eye.runs / "a").stat().st_mtime_ns
    with Path(path).open("a") as file:
        file.write("more")
    assert (eye.runs / "a").stat().st_mtime_ns == directory
    assert eye.look(unsettled={path}).changed == {path}
    assert eye.listed == []


def test_settled_checkpoints_are_stat_ed_by_full_scans_alone(eye: Eye):
    paths = {eye.write(f"a/ckpt_{step}.pt") for step in range(20)}
    newest = max(paths)
    eye.rest()
    eye.look(unsettled={newest})
    assert eye.stamped == [newest]
    added = eye.write("a/ckpt_99.pt")
    eye.look(unsettled={newest})
    assert set(eye.stamped) == {newest, added}
    old = min(paths)
    Path(old).write_text("rewritten")
    assert eye.look(unsettled={newest}).changed == frozenset()
    assert eye.look(full=True).changed == {old}
    assert set(eye.stamped) == {*paths, added}


def test_an_event_names_a_directory_whose_checkpoints_are_looked_at_again(eye: Eye):
    paths = [eye.write(f"{run}/ckpt_{step}.pt") for run in "ab" for step in range(3)]
    eye.rest()
    Path(paths[0]).write_text("rewritten")
    assert eye.look(touched={str(eye.runs / "a"), ""}).changed == {paths[0]}
    assert set(eye.stamped) == set(paths[:3])


@pytest.mark.parametrize("inside", ["", "/shards", "/shards/rank0"])
def test_an_event_inside_a_checkpoint_directory_reaches_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inside: str
):
    eye = Eye(tmp_path, monkeypatch, '"{run}/checkpoint-{step}"')
    path = eye.runs / "a" / "checkpoint-1"
    eye.write("a/checkpoint-2/weights")
    file = eye.write(f"a/checkpoint-1{inside}/weights")
    eye.rest()
    Path(file).write_text("rewritten")
    assert eye.look(touched={f"{path}{inside}"}).changed == {str(path)}
    assert eye.stamped == [str(path)]


def test_a_file_made_within_the_clock_tick_of_a_listing_is_found_by_the_next_looks(eye: Eye):
    eye.write("a/ckpt_1.pt")
    moment = (eye.runs / "a").stat().st_mtime_ns
    eye.look()
    late = eye.write("a/ckpt_2.pt")
    os.utime(eye.runs / "a", ns=(moment, moment))  # a clock so coarse that the directory seems untouched
    assert eye.look(after=0.5).changed == {late}
    later = eye.write("a/ckpt_3.pt")
    os.utime(eye.runs / "a", ns=(moment, moment))
    assert eye.look(after=1.0).changed == {later}
    eye.look(after=1.0)
    eye.look(after=1.0)
    assert eye.listed == [], "two seconds later no clock is that coarse"


def test_a_full_scan_finds_what_every_clock_has_hidden(eye: Eye):
    eye.write("a/ckpt_1.pt")
    eye.rest()
    moment = (eye.runs / "a").stat().st_mtime_ns
    hidden = eye.write("a/ckpt_2.pt")
    os.utime(eye.runs / "a", ns=(moment, moment))
    assert eye.look().changed == frozenset()
    assert eye.look(full=True).changed == {hidden}


def test_a_store_that_is_missing_is_a_problem_until_it_comes(eye: Eye):
    eye.runs.rmdir()
    seen = eye.look()
    assert str(eye.runs) in seen.problem
    assert "No such file or directory" in seen.problem
    path = eye.write("a/ckpt_1.pt")
    seen = eye.look()
    assert (seen.problem, seen.changed) == ("", {path})


@pytest.mark.parametrize("full", [False, True])
def test_a_store_that_cannot_be_listed_keeps_what_was_seen_in_it(eye: Eye, full: bool):
    path = eye.write("a/ckpt_1.pt")
    eye.rest()
    away = eye.runs.rename(eye.runs.with_name("away"))
    seen = eye.look(full=full, unsettled={path})
    assert "cannot be listed" in seen.problem
    assert seen.sightings.keys() == {path}
    assert seen.changed == frozenset()
    away.rename(eye.runs)
    seen = eye.look(full=full)
    assert (seen.problem, seen.changed) == ("", frozenset())


def test_an_error_of_the_file_system_in_one_directory_loses_nothing(eye: Eye, monkeypatch: pytest.MonkeyPatch):
    first = eye.write("a/ckpt_1.pt")
    eye.rest()
    second = eye.write("b/ckpt_1.pt")
    real = Reader.entries

    def broken(reader: Reader, way: Way, known: Set[str]) -> object:
        if way.path.endswith("/b"):
            raise OSError(5, "Input/output error")
        return real(reader, way, known)

    with monkeypatch.context() as patch:
        patch.setattr(Reader, "entries", broken)
        seen = eye.look()
    assert "Input/output error" in seen.problem
    assert (seen.sightings.keys(), seen.changed) == ({first}, frozenset())
    seen = eye.look()
    assert (seen.problem, seen.changed) == ("", {second})


def test_a_run_that_must_not_be_read_is_named_and_the_others_are_seen(eye: Eye, monkeypatch: pytest.MonkeyPatch):
    path = eye.write("a/ckpt_1.pt")
    eye.write("b/ckpt_1.pt")
    real = os.scandir

    def guarded(directory: str) -> object:
        if directory.endswith("/b"):
            raise PermissionError(13, "Permission denied")
        return real(directory)

    monkeypatch.setattr(directories.os, "scandir", guarded)
    for full in (True, False, False):
        seen = eye.look(full=full)
        assert seen.problem == f"{eye.runs / 'b'} cannot be listed: Permission denied"
        assert seen.sightings.keys() == {path}


def test_a_checkpoint_that_must_not_be_read_is_named_and_tried_again(eye: Eye, monkeypatch: pytest.MonkeyPatch):
    path, other = eye.write("a/ckpt_1.pt"), eye.write("a/ckpt_2.pt")

    def guarded(candidate: str, status: os.stat_result) -> object:
        if candidate == path:
            raise PermissionError(13, "Permission denied")
        return stamp_of(candidate, status)

    with monkeypatch.context() as patch:
        patch.setattr(scanning, "stamp_of", guarded)
        for _ in range(3):
            seen = eye.look()
            assert seen.problem == f"{path} cannot be read: Permission denied"
            assert seen.sightings.keys() == {other}
    assert eye.look().changed == {path}
    assert eye.look().problem == ""


def test_names_that_are_no_text_are_left_out_and_said(eye: Eye):
    path = eye.write("a/ckpt_1.pt")
    os.mkdir(os.fsencode(eye.runs) + b"/caf\xe9")  # noqa: PTH102 - a Path cannot hold these bytes
    for _ in range(4):
        seen = eye.look()
        assert seen.sightings.keys() == {path}
        assert seen.problem == f"1 names in {eye.runs} are not UTF-8 and left out; rename them"


def test_links_in_a_circle_come_to_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    eye = Eye(tmp_path, monkeypatch, '["{run}/{name}/{kind}/ckpt_{step}.pt", "{run}/ckpt_{step}.pt"]')
    path = eye.write("a/ckpt_1.pt")
    (eye.runs / "a" / "round").symlink_to(eye.runs / "a")
    (eye.runs / "self").symlink_to("self")
    (eye.runs / "nowhere").symlink_to("missing")
    seen = eye.look()
    assert seen.problem == ""
    assert seen.sightings.keys() == {path}
    assert sorted(eye.listed) == [str(eye.runs), f"{eye.runs}/a"]


def test_a_link_to_a_checkpoint_is_sighted_as_what_it_leads_to(eye: Eye):
    target, link = eye.write("a/real.pt", "four"), eye.runs / "a" / "ckpt_1.pt"
    link.symlink_to(target)
    (eye.runs / "a" / "ckpt_2.pt").symlink_to("missing.pt")
    seen = eye.look()
    assert seen.sightings.keys() == {str(link)}
    assert seen.sightings[str(link)].stamp == stamp_of(Path(target))
    Path(target).rename(eye.runs / "a" / "missing.pt")
    seen = eye.look(unsettled={str(link)})
    assert seen.changed == {str(link), f"{eye.runs}/a/ckpt_2.pt"}


def test_a_checkpoint_that_vanishes_between_listing_and_stat_comes_back_when_it_does(
    eye: Eye, monkeypatch: pytest.MonkeyPatch
):
    path = eye.write("a/ckpt_1.pt")
    real = Scanner._walk

    def walk_then_delete(scanner: Scanner, look: object) -> None:
        real(scanner, look)  # type: ignore[arg-type]
        Path(path).unlink()

    with monkeypatch.context() as patch:
        patch.setattr(Scanner, "_walk", walk_then_delete)
        seen = eye.look()
    assert (seen.sightings, seen.changed, seen.problem) == ({}, frozenset(), "")
    Path(path).write_text("again")
    assert eye.look().changed == {path}


def test_a_thousand_directories_cost_one_listing_when_one_changes(eye: Eye):
    for number in range(1000):
        (eye.runs / f"r{number}").mkdir()
    eye.write("r7/ckpt_1.pt")
    eye.rest()
    added = eye.write("r500/ckpt_1.pt")
    assert eye.look().changed == {added}
    assert eye.listed == [f"{eye.runs}/r500"]
    assert eye.stamped == [added]


def test_the_look_is_as_deep_as_the_patterns(eye: Eye):
    for step in range(3):
        eye.write(f"a/b{step}/ckpt_1.pt")
        eye.write(f"a/ckpt_{step}.pt/inside/deeper")
    eye.look(full=True)
    assert eye.listed == [str(eye.runs), f"{eye.runs}/a"]
