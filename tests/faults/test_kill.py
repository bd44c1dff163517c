"""`kill -9` of the daemon and of its workers, at named points and at random: nothing lost, nothing twice."""

import os
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from end_to_end.lab import Lab
from record import record

DAEMON = Path(__file__).parent / "daemon_that_dies.py"
POINTS = (
    "before_fsync",
    "after_fsync",
    "before_rename",
    "after_rename",
    "marked",
    "unmarked",
    "before_fold",
    "fold_written",
    "fold_renamed",
    "before_unlink",
    "after_unlink",
)
RUNS = {"a": 0.01, "b": 0.02}  # learning rates
KILLS, CHECKPOINTS, EVERY = 20, 32, 2  # each life finds one more checkpoint of each run
PATIENCE = "attempts = 50\n"  # a job may be caught by many kills in a row; none of them is its fault


@dataclass
class Life:
    """One daemon under test."""

    lab: Lab
    point: str = "never"
    count: int = 1

    def __enter__(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(DAEMON), str(self.lab.config), self.point, str(self.count)]
        self.process = subprocess.Popen(command)
        return self.process

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()


def descendants(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def published(lab: Lab) -> set[str]:
    jobs = lab.results / "jobs"
    return {path.name for path in jobs.iterdir()} if jobs.is_dir() else set()


def live_until_killed(lab: Lab, point: str, count: int) -> str:
    """A life that ends at a named point, or by itself when it never passes there often enough; what ended it."""
    with Life(lab, point, count) as process:
        family: list[psutil.Process] = []
        while process.poll() is None:
            family += [child for child in descendants(process.pid) if child not in family]
            wait_a_moment(process)
        assert process.returncode in (0, -signal.SIGKILL)
        at_death = published(lab)
        psutil.wait_procs(family, timeout=20)
        assert not [child for child in family if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
        assert published(lab) == at_death, "an orphan published"
        return point if process.returncode else "lived"


def live_until(lab: Lab, seconds: float, victim: str, choice: random.Random) -> str:
    """A life in which, after so many seconds, the daemon or one of its children is killed; who was."""
    with Life(lab) as process:
        try:
            process.wait(seconds)
            return "lived"
        except subprocess.TimeoutExpired:
            children = descendants(process.pid)
        if victim == "daemon" or not children:
            process.kill()
            psutil.wait_procs(children, timeout=20)
            return "daemon at random"
        target = choice.choice(children)
        if target.is_running():
            os.kill(target.pid, signal.SIGKILL)
        process.wait(120)
        assert process.returncode in (0, 1)  # 1 when the forkserver itself was the one killed
        return "child at random"


def wait_a_moment(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(0.02)
    except subprocess.TimeoutExpired:
        return


def another(lab: Lab, path: Path) -> Lab:
    """The same configuration and recipe, with neither results nor checkpoints."""
    shutil.copytree(lab.path, path, ignore=shutil.ignore_patterns(".sounding", "*.pt"), dirs_exist_ok=True)
    copied = Lab(path)
    copied.config.write_text(lab.config.read_text() + PATIENCE)
    return copied


def feed(lab: Lab, reference: Lab, turn: int) -> None:
    """Let the next checkpoint of each run appear, so that every life has something to do."""
    step = (turn + 1) * EVERY
    for run in RUNS:
        name = f"runs/{run}/ckpt_{step}.pt"
        shutil.copyfile(reference.path / name, lab.path / name)


def kill_many_times(lab: Lab, reference: Lab, seed: int) -> Counter[str]:
    """Lives that end in many ways, until as many as KILLS of them were killed; how many ended how."""
    choice = random.Random(seed)
    points = choice.sample(POINTS, len(POINTS))
    ends: Counter[str] = Counter()
    for turn in range(CHECKPOINTS):
        feed(lab, reference, turn)
        if turn % 2 == 0:
            ends[live_until_killed(lab, points[turn // 2 % len(points)], choice.randint(1, 2))] += 1
        else:
            victim = choice.choice(["daemon", "daemon", "worker"])
            ends[live_until(lab, choice.uniform(0.5, 3.0), victim, choice)] += 1
        if ends.total() - ends["lived"] == KILLS:
            break
    for rest in range(turn + 1, CHECKPOINTS):
        feed(lab, reference, rest)
    return ends


def assert_same(lab: Lab, reference: Lab) -> None:
    with Life(lab) as process:
        assert process.wait(180) == 0
    assert lab.settled().keys() == reference.settled().keys()
    assert set(lab.settled().values()) == {1}
    assert lab.values() == reference.values()
    for room in ("tmp", "holds", "requests"):
        assert list((lab.results / room).iterdir()) == []


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> Lab:
    lab = Lab.at(tmp_path_factory.mktemp("uninterrupted"))
    jobs = [lab.train(run, CHECKPOINTS * EVERY, EVERY, lr) for run, lr in RUNS.items()]
    assert [job.wait(60) for job in jobs] == [0, 0]
    with Life(lab) as process:
        assert process.wait(120) == 0
    assert set(lab.settled().values()) == {1}
    return lab


@pytest.mark.timeout(460)
def test_twenty_kills_change_nothing(reference, tmp_path):
    lab = another(reference, tmp_path)
    ends = kill_many_times(lab, reference, seed=20)
    assert ends.total() - ends["lived"] == KILLS, ends
    assert_same(lab, reference)


@pytest.mark.soak
@pytest.mark.timeout(6000)
def test_two_hundred_kills_change_nothing(reference, tmp_path):
    """Ten labs, twenty kills each; what killed them is kept beside the benchmarks."""
    ends: Counter[str] = Counter()
    for seed in range(10):
        lab = another(reference, tmp_path / str(seed))
        ends += kill_many_times(lab, reference, seed)
        assert_same(lab, reference)
        killed = ends.total() - ends["lived"]
        record("kills", {"labs": seed + 1, "killed": killed, "ended_by": dict(sorted(ends.items()))})


@pytest.mark.parametrize("point", POINTS)
def test_every_named_point_is_a_step_of_the_product(point):
    """Otherwise a kill at a renamed point would be no kill at all."""
    source = Path(__file__).parents[2] / "daemon" / "sounding"
    assert any(f'at("{point}")' in path.read_text() for path in source.rglob("*.py"))
