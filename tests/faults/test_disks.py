"""Disks that are full, read-only or forbidden at any write: the work stays owed, and is done when there is space."""

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import duckdb
import pytest
from running.helm import CONFIG, Helm

from sounding.errors import SoundingError
from sounding.keeping import results as keeping
from sounding.keeping import shelf
from sounding.keeping.results import ResultsDirectory
from sounding.records import Ending
from sounding.running import disk as disks
from sounding.running.pulse import Pulse
from sounding.running.status import read_status

REFUSALS = [errno.ENOSPC, errno.EROFS, errno.EACCES]
STEPS = (1, 2, 3)
ALL = [("a", step, float(step)) for step in STEPS]


@dataclass
class Faults:
    """Lets writes fail at the points that are named, each as the file system would."""

    helm: Helm
    number: int = errno.ENOSPC
    points: set[str] = field(default_factory=set)
    met: set[str] = field(default_factory=set)

    def refuse(self, point: str, path: object) -> None:
        if point in self.points:
            self.met.add(point)
            raise OSError(self.number, os.strerror(self.number), str(path))

    def install(self, patch: pytest.MonkeyPatch) -> None:
        sync, rename, text, fold, probe = keeping.fsync, Path.rename, Path.write_text, shelf.fold_files, disks._try

        def fsync(path: Path) -> None:
            mark = path.name.endswith(".half")
            self.refuse("worker" if self.helm.worker.at_work else "mark" if mark else "rows", path)
            sync(path)

        def renamed(path: Path, target: Path) -> Path:
            self.refuse("publish" if Path(target).parent.name == "jobs" else "mark name", target)
            return rename(path, target)

        def written(path: Path, *arguments: object, **options: object) -> int:
            if path.name.startswith("daemon.json"):
                self.refuse("heartbeat", path)
            return text(path, *arguments, **options)  # type: ignore[arg-type]

        def folded(paths: list[Path], target: Path, *rest: object) -> None:
            if "fold" in self.points:
                self.met.add("fold")
                target.write_bytes(b"half")
                raise duckdb.IOException(f'IO Error: Could not write file "{target}": {os.strerror(self.number)}')
            fold(paths, target, *rest)  # type: ignore[arg-type]

        def tried(path: Path) -> None:
            self.refuse("probe", path)
            probe(path)

        patch.setattr(keeping, "fsync", fsync)
        patch.setattr(Path, "rename", renamed)
        patch.setattr(Path, "write_text", written)
        patch.setattr(shelf, "fold_files", folded)
        patch.setattr(disks, "_try", tried)


@pytest.fixture
def helm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Helm]:
    made = Helm(tmp_path, monkeypatch, CONFIG + "[results]\nkeep_free = 0\n")
    yield made
    made.close()


@pytest.fixture
def faults(helm: Helm, monkeypatch: pytest.MonkeyPatch) -> Faults:
    made = Faults(helm)
    made.install(monkeypatch)
    return made


def write_all(helm: Helm) -> None:
    for step in STEPS:
        helm.post.write(f"a/ckpt_{step}.pt", f"content {step}")


def assert_done_once(helm: Helm) -> None:
    assert helm.readings() == ALL
    assert [(o.ending, o.attempt, o.excused) for o in helm.outcomes()] == [(Ending.OK, 1, 0)] * len(STEPS)
    status = helm.status()
    assert (status.owed, status.waiting, status.done, status.failed, status.message) == (0, 0, len(STEPS), 0, "")
    assert list(helm.results.tmp.iterdir()) == []


@pytest.mark.parametrize("number", REFUSALS)
@pytest.mark.parametrize("point", ["worker", "mark", "mark name", "publish"])
def test_what_cannot_be_written_stays_owed_and_is_done_once(helm: Helm, faults: Faults, point: str, number: int):
    faults.points, faults.number = {point}, number
    write_all(helm)
    for _ in range(3):
        status = helm.run(20.0)
        assert faults.met == {point}
        assert os.strerror(number) in status.message
        assert str(helm.results.path) in status.message
        assert (helm.readings(), helm.outcomes()) == ([], [])
    assert status.owed == len(STEPS)
    assert len(list(helm.results.tmp.iterdir())) <= 2, "a mark and what waits, however often it was tried"
    faults.points.clear()
    helm.run(90.0)
    assert_done_once(helm)
    if point == "publish":
        assert sorted(helm.worker.measured) == list(STEPS), "what was measured is kept until there is a place for it"


@pytest.mark.parametrize("number", REFUSALS)
def test_verdicts_that_cannot_be_written_stay_news(helm: Helm, faults: Faults, number: int):
    faults.points, faults.number = {"rows"}, number
    write_all(helm)
    assert os.strerror(number) in helm.run(20.0).message
    assert helm.post.ledger.past(("runs", "a")).recorded == {}
    faults.points.clear()
    helm.run(90.0)
    assert_done_once(helm)
    assert [row["step"] for row in helm.results.read_rows(helm.results.files(), ("verdict",))] == list(STEPS)


@pytest.mark.parametrize("number", REFUSALS)
def test_a_disk_that_takes_nothing_at_all_is_waited_for_ever_more_patiently(helm: Helm, faults: Faults, number: int):
    write_all(helm)
    helm.run(1.0)
    faults.points, faults.number = {"worker", "mark", "mark name", "publish", "rows", "probe"}, number
    tried = []
    for second in range(300):
        faults.met.clear()
        helm.run(1.0)
        tried += [second] * bool(faults.met)
    assert len(tried) < 12
    faults.points.clear()
    helm.run(61.0)
    assert_done_once(helm)


def test_a_daemon_that_ends_while_nothing_can_be_published_owes_it_to_the_next(helm: Helm, faults: Faults):
    helm.run(1.0)
    write_all(helm)
    faults.points = {"publish"}
    helm.run(10.0)
    helm.daemon.crew.stop()
    helm.close()
    assert list(helm.results.tmp.iterdir()) == []
    faults.points = set()
    helm.start()
    helm.run(90.0)
    assert_done_once(helm)


def test_what_a_worker_left_is_measured_again_when_somebody_emptied_the_room(helm: Helm, faults: Faults):
    helm.post.write("a/ckpt_1.pt", "content 1")
    helm.run(0.5)
    faults.points = {"publish"}
    helm.run(3.0)
    for path in helm.results.tmp.iterdir():
        path.unlink()
    faults.points = set()
    helm.run(60.0)
    assert helm.readings() == [("a", 1, 1.0)]
    assert helm.worker.measured == [1, 1]


def test_folding_on_a_full_disk_keeps_no_job_from_being_done(helm: Helm, faults: Faults):
    helm.daemon.results = helm.daemon.crew.results = ResultsDirectory(helm.results.path, most_loose=1)
    faults.points = {"fold"}
    write_all(helm)
    status = helm.run(60.0)
    helm.daemon.close()
    assert faults.met == {"fold"}
    assert helm.readings() == ALL
    assert "No space left" in status.message
    assert list(helm.results.tmp.iterdir()) == []


def test_a_heartbeat_that_cannot_be_written_stops_nothing(helm: Helm, faults: Faults):
    faults.points = {"heartbeat"}
    told = []
    pulse = Pulse(helm.results.path, "foreground", told.append)
    write_all(helm)
    for _ in range(20):
        pulse.beat(helm.run(1.0))
    assert faults.met == {"heartbeat"}
    assert (told[-1].done, read_status(helm.results.path)) == (len(STEPS), None)
    faults.points = set()
    pulse.beat(helm.run(1.0))
    assert read_status(helm.results.path) == told[-1]


def test_with_little_space_left_nothing_is_begun_and_what_was_begun_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    helm = Helm(tmp_path, monkeypatch, CONFIG + '[results]\nkeep_free = "100 MB"\n')
    free = [101_000_000]
    usage = SimpleNamespace(disk_usage=lambda path: SimpleNamespace(free=free[0]))
    monkeypatch.setattr(disks, "shutil", usage)
    helm.post.write("a/ckpt_1.pt", "content 1")
    helm.run(3.0)
    assert helm.readings() == [("a", 1, 1.0)]
    free[0] = 99_000_000
    helm.run(2.0)
    write_all(helm)
    status = helm.run(60.0)
    assert "99 MB are free, less than the 100 MB that [results] keep_free keeps free" in status.message
    assert (helm.readings(), status.stores[0].complete) == ([("a", 1, 1.0)], 3), "seen, and not measured"
    free[0] = 101_000_000
    helm.run(10.0)
    helm.close()
    assert helm.readings()[-2:] == ALL[1:]
    assert helm.status().message == ""


@pytest.mark.parametrize("number", REFUSALS)
def test_a_daemon_refuses_to_start_where_nothing_can_be_written(helm: Helm, faults: Faults, number: int):
    faults.points, faults.number = {"probe"}, number
    with pytest.raises(SoundingError, match=rf"results cannot be written: {os.strerror(number)}; .*\[results\] path"):
        disks.make_ready(helm.results)
    faults.points = set()
    disks.make_ready(helm.results)
    assert list(helm.results.tmp.iterdir()) == []


def test_a_store_that_is_away_keeps_its_work_owed(helm: Helm, faults: Faults):
    faults.points = {"mark"}
    write_all(helm)
    helm.run(5.0)
    away = helm.post.runs.rename(helm.post.runs.with_name("away"))
    helm.run(5.0)
    faults.points = set()
    status = helm.run(300.0)
    assert (helm.outcomes(), status.owed) == ([], len(STEPS))
    assert "cannot be listed: No such file or directory" in status.stores[0].problem
    assert helm.daemon.is_idle(helm.now), "nobody waits for a store that may never come back"
    away.rename(helm.post.runs)
    helm.run(60.0)
    assert_done_once(helm)
