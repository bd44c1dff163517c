"""Copies of checkpoints that may vanish: whole, in time, within their limits, and gone after the job."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from making import checkpoint, ended, sheet, task_on

from sounding.formats.spare import is_spare
from sounding.records import Checkpoint, Copy, Ending, Hold, Job
from sounding.running import holding
from sounding.running.holding import held, patience, release, told_of_originals
from sounding.stamps import stamp_of

AMPLE = 1 << 30
FILES = {
    "model.safetensors": "weights" * 100,
    "trainer_state.json": "{}",
    "optimizer.pt": "moments" * 1000,
    "scheduler.pt": "rates",
    "rng_state_0.pth": "dice",
    "optimizer_0/__0_0.distcp": "more moments",
    "pytorch_model_fsdp_0/.metadata": "where",
}


@pytest.fixture
def saved(tmp_path: Path) -> Checkpoint:
    """A directory as the Trainer leaves it; every file is older than the one before."""
    path = tmp_path / "runs" / "a" / "checkpoint-7"
    for age, (name, text) in enumerate(FILES.items()):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(text)
        os.utime(path / name, ns=(10**18 - age, 10**18 - age))
    return known(path)


def known(path: Path, **fields: object) -> Checkpoint:
    return checkpoint(7, path=str(path), stamp=stamp_of(path), format="trainer directory", **fields)


def job_on(saved: Checkpoint, room: Path, most: int = AMPLE, keep: int = 0, others: tuple[Checkpoint, ...] = ()) -> Job:
    return Job(1, saved, (task_on(saved, sheet()),), others, hold=Hold(str(room / "holds" / "1"), most, keep))


def copy_of(job: Job) -> Copy:
    return job.copies[job.checkpoint.checkpoint_id]


def contents(path: Path) -> dict[str, tuple[str, int]]:
    files = [file for file in path.rglob("*") if file.is_file()]
    return {str(file.relative_to(path)): (file.read_text(), file.stat().st_mtime_ns) for file in files}


def rooms(path: Path) -> list[str]:
    return os.listdir(path / "holds") if (path / "holds").exists() else []


def test_a_job_that_orders_no_copies_gets_none(saved: Checkpoint):
    job = Job(1, saved, ())
    with held(job, only_weights=False) as same:
        assert same is job
    assert patience(job) == 0


def test_a_copy_is_the_same_to_every_reader_and_lives_no_longer_than_its_job(saved: Checkpoint, tmp_path: Path):
    before = stamp_of(saved.path)
    with held(job_on(saved, tmp_path), only_weights=False) as job:
        copy = copy_of(job)
        assert (copy.only_weights, copy.reason, copy.is_lost) == (False, "", False)
        assert Path(copy.path).name == "checkpoint-7", "formats are told by names"
        assert contents(Path(copy.path)) == contents(Path(saved.path)), "and some by times"
        assert not any(Path(copy.path, name).samefile(Path(saved.path, name)) for name in FILES)
        assert stat_mode(tmp_path / "holds" / "1") == 0o700
    assert rooms(tmp_path) == []
    assert stamp_of(saved.path) == before
    assert all(Path(saved.path, name).stat().st_nlink == 1 for name in FILES)


def stat_mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_copy_of_a_single_file_outlives_the_file(tmp_path: Path):
    file = tmp_path / "ckpt_7.pt"
    file.write_text("weights")
    saved = checkpoint(7, path=str(file), stamp=stamp_of(file))
    with held(job_on(saved, tmp_path), only_weights=True) as job:
        file.unlink()
        assert Path(copy_of(job).path).read_text() == "weights"
        assert copy_of(job).only_weights is False
    assert rooms(tmp_path) == []


def test_who_looks_only_at_weights_gets_no_optimizer(saved: Checkpoint, tmp_path: Path):
    with held(job_on(saved, tmp_path), only_weights=True) as job:
        assert copy_of(job).only_weights
        copied = contents(Path(copy_of(job).path))
    assert copied.keys() == {"model.safetensors", "trainer_state.json", "pytorch_model_fsdp_0/.metadata"}


@pytest.mark.parametrize(
    ("format_name", "file", "spare"),
    [
        ("trainer directory", "optimizer.pt", True),
        ("weights directory", "optimizer.bin", True),
        ("weights directory", "optimizer_1.bin", True),
        ("weights directory", "random_states_0.pkl", True),
        ("weights directory", "custom_checkpoint_3.pkl", True),
        ("FSDP directory", "optimizer_0/__1_0.distcp", True),
        ("trainer directory", "global_step7/zero_pp_rank_0_mp_rank_00_optim_states.pt", True),
        ("trainer directory", "model-00001-of-00002.safetensors", False),
        ("trainer directory", "trainer_state.json", False),
        ("FSDP directory", "pytorch_model_fsdp_0/__0_0.distcp", False),
        ("weights directory", "optimizer_notes/model.safetensors.index.json", False),
        ("DeepSpeed directory", "zero_pp_rank_0_mp_rank_00_optim_states.pt", False),
        ("torch DCP directory", "__0_0.distcp", False),
        ("torch zip", "", False),
    ],
)
def test_what_holds_nothing_of_the_weights_is_known_by_its_name(format_name: str, file: str, spare: bool):
    assert is_spare(format_name, file) == spare


def meddling(monkeypatch: pytest.MonkeyPatch, meddle: Callable[[str], None]) -> None:
    """Let something happen as soon as a first file has been copied."""
    copy = shutil.copyfile

    def copyfile(source: object, target: object) -> None:
        copy(str(source), str(target))
        meddle(str(source))

    monkeypatch.setattr(holding, "shutil", SimpleNamespace(**vars(shutil) | {"copyfile": copyfile}))
    monkeypatch.setattr(holding, "_reflinked", lambda one, copy: False)


def delete_all(source: str) -> None:
    shutil.rmtree(Path(source).parent, ignore_errors=True)


def delete_one(source: str) -> None:
    Path(source).with_name("scheduler.pt").unlink(missing_ok=True)


def overwrite(source: str) -> None:
    Path(source).write_text("the next step's")


@pytest.mark.parametrize("meddle", [delete_all, delete_one, overwrite])
def test_what_changes_while_it_is_copied_is_lost_and_leaves_nothing(
    saved: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, meddle: Callable[[str], None]
):
    meddling(monkeypatch, meddle)
    with held(job_on(saved, tmp_path), only_weights=False) as job:
        assert copy_of(job).path == ""
        assert copy_of(job).is_lost
        assert os.listdir(job.hold.room if job.hold else "") == []
    assert rooms(tmp_path) == []


def test_what_was_gone_before_is_not_copied(saved: Checkpoint, tmp_path: Path):
    shutil.rmtree(saved.path)
    with held(job_on(saved, tmp_path), only_weights=False) as job:
        assert copy_of(job) == Copy(reason="no copy of it was made in time", is_lost=True)


@pytest.mark.parametrize(
    ("number", "lost", "words"),
    [
        (errno.ENOSPC, False, "without a copy: No space left on device"),
        (errno.EDQUOT, False, "without a copy: Disk quota exceeded"),
        (errno.ESTALE, True, "could not be copied: Stale file handle"),
        (errno.EIO, True, "could not be copied: Input/output error"),
    ],
)
def test_a_full_disk_costs_the_copy_and_a_stale_handle_the_checkpoint(
    saved: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, lost: bool, words: str
):
    def refuse(source: str) -> None:
        raise OSError(number, os.strerror(number))

    meddling(monkeypatch, refuse)
    with held(job_on(saved, tmp_path), only_weights=False) as job:
        copy = copy_of(job)
        assert (copy.path, copy.is_lost) == ("", lost)
        assert words in copy.reason
        assert os.listdir(job.hold.room if job.hold else "") == [], "what was copied of it takes no room"


def test_copies_stay_within_the_limit_of_them_all(saved: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(holding, "_reflinked", lambda one, copy: False)
    size = saved.size_bytes
    twin = known(Path(shutil.copytree(saved.path, tmp_path / "runs" / "a" / "checkpoint-6")), content="other")
    with held(job_on(saved, tmp_path, most=2 * size - 1, others=(twin,)), only_weights=False) as job:
        assert copy_of(job).path
        refused = job.copies[twin.checkpoint_id]
        assert (refused.path, refused.is_lost) == ("", False)
        assert refused.reason == (
            f"read where it lies, without a copy: {2 * size} bytes are more than the {2 * size - 1} bytes of holds_max"
        )
    with held(job_on(saved, tmp_path, most=2 * size, others=(twin,)), only_weights=False) as job:
        assert all(copy.path for copy in job.copies.values())


def test_copies_leave_the_disk_the_room_that_is_to_be_kept(
    saved: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(holding, "_reflinked", lambda one, copy: False)
    free = SimpleNamespace(free=saved.size_bytes + 1000)
    monkeypatch.setattr(holding, "shutil", SimpleNamespace(**vars(shutil) | {"disk_usage": lambda path: free}))
    for keep, fits in ((1000, True), (1001, False)):
        with held(job_on(saved, tmp_path, keep=keep), only_weights=False) as job:
            assert bool(copy_of(job).path) == fits
            assert fits or "do not fit on the disk of the results" in copy_of(job).reason


def test_blocks_that_are_shared_take_no_room(saved: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As btrfs and XFS do it; this machine's file system may not be able to."""

    def clone(target: int, request: int, source: int) -> None:
        assert request == 0x40049409
        os.write(target, os.pread(source, 1 << 20, 0))

    monkeypatch.setattr(holding, "fcntl", SimpleNamespace(ioctl=clone))
    with held(job_on(saved, tmp_path, most=0, keep=1 << 60), only_weights=False) as job:
        assert contents(Path(copy_of(job).path)) == contents(Path(saved.path))


def test_links_inside_are_repeated_and_nothing_else_is_followed(saved: Checkpoint, tmp_path: Path):
    path = Path(saved.path)
    (tmp_path / "secret").write_text("not of the checkpoint")
    (path / "inside").symlink_to(path / "model.safetensors")
    (path / "outside").symlink_to(tmp_path / "secret")
    os.mkfifo(path / "pipe")
    with held(job_on(known(path), tmp_path), only_weights=False) as job:
        copy = Path(copy_of(job).path)
        assert (copy / "inside").resolve() == (copy / "model.safetensors").resolve()
        assert sorted(set(os.listdir(path)) - set(os.listdir(copy))) == ["outside", "pipe"]


def test_a_checkpoint_that_is_itself_a_link_is_copied_from_where_it_leads(tmp_path: Path):
    (tmp_path / "far.pt").write_text("weights")
    (tmp_path / "ckpt_7.pt").symlink_to("far.pt")
    saved = checkpoint(7, path=str(tmp_path / "ckpt_7.pt"), stamp=stamp_of(tmp_path / "ckpt_7.pt"))
    with held(job_on(saved, tmp_path), only_weights=False) as job:
        assert not Path(copy_of(job).path).is_symlink()
        assert Path(copy_of(job).path).read_text() == "weights"


def test_reasons_name_the_checkpoint_and_not_its_copy(saved: Checkpoint, tmp_path: Path):
    with held(job_on(saved, tmp_path), only_weights=False) as job:
        reason = f"{copy_of(job).path}/model.safetensors cannot be opened"
        (told,) = told_of_originals(job, [ended(job.tasks[0], Ending.FAILED, reason)])
    assert told.reason == f"{saved.path}/model.safetensors cannot be opened"


def test_a_worker_that_died_leaves_its_copies_to_whoever_releases_them(saved: Checkpoint, tmp_path: Path):
    job = job_on(saved, tmp_path)
    with held(job, only_weights=False):
        release(job)
        assert rooms(tmp_path) == []
    release(job)


def test_copying_has_its_own_time(saved: Checkpoint, tmp_path: Path):
    assert patience(job_on(saved, tmp_path)) == saved.size_bytes / 20e6


def test_a_room_that_cannot_be_made_costs_the_copy_alone(saved: Checkpoint, tmp_path: Path):
    (tmp_path / "holds").write_text("in the way")
    with held(job_on(saved, tmp_path), only_weights=False) as job:
        assert (copy_of(job).path, copy_of(job).is_lost) == ("", False)
        assert "cannot be made (Not a directory)" in copy_of(job).reason
