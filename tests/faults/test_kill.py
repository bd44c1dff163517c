"""`kill -9` of the daemon and of its workers, at named points and at random: nothing lost, nothing twice."""

import os
import random
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil
import pytest
from end_to_end.lab import CONFIG, Lab, assert_equal
from faults.daemon_that_dies import start
from record import record

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
KILLS, CHECKPOINTS, EVERY = 20, 16, 2  # each life finds one more checkpoint, of one run or of the other
TURNS = len(RUNS) * CHECKPOINTS
LOGS = 'logs = ["{run}/train.jsonl"]\n'
HOLD = "hold = true\n"  # so that kills meet workers that copy, too
PATIENCE = "attempts = 50\n"  # a job may be caught by many kills in a row; none of them is its fault


@contextmanager
def life(lab: Lab, point: str = "never", count: int = 1, *, cold: bool = False) -> Iterator[BaseProcess]:
    """One daemon under test."""
    process = start(lab.config, point, count, cold=cold)
    try:
        yield process
    finally:
        process.kill()
        process.join()


def descendants(pid: int) -> list[psutil.Process]:
    """Children and theirs; psutil would look at every process of the machine, which takes a core to itself."""
    found = []
    with suppress(FileNotFoundError, ProcessLookupError, psutil.NoSuchProcess):
        for child in map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
            found += [psutil.Process(child), *descendants(child)]
    return found


def published(lab: Lab) -> set[str]:
    jobs = lab.results / "jobs"
    return {path.name for path in jobs.iterdir()} if jobs.is_dir() else set()


def live_until_killed(lab: Lab, point: str, count: int, *, cold: bool) -> str:
    """A life that ends at a named point, or by itself when it never passes there often enough; what ended it."""
    with life(lab, point, count, cold=cold) as process:
        family: list[psutil.Process] = []
        while process.is_alive():
            family += [child for child in descendants(process.pid) if child not in family]
            process.join(0.02)
        assert process.exitcode in (0, -signal.SIGKILL)
        at_death = published(lab)
        psutil.wait_procs(family, timeout=20)
        assert not [child for child in family if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
        assert published(lab) == at_death, "an orphan published"
        return point if process.exitcode else "lived"


def live_until(lab: Lab, seconds: float, victim: str, choice: random.Random, *, cold: bool) -> str:
    """A life in which, after so many seconds of processor time, the daemon or a child of it is killed; who was."""
    with life(lab, cold=cold) as process:
        while process.is_alive() and processor_seconds(process.pid) < seconds:
            process.join(0.01)
        if process.exitcode is not None:
            assert process.exitcode == 0
            return "lived"
        children = descendants(process.pid)
        if victim == "daemon" or not children:
            process.kill()
            psutil.wait_procs(children, timeout=20)
            return "daemon at random"
        target = choice.choice(children)
        if target.is_running():
            os.kill(target.pid, signal.SIGKILL)
        process.join(120)
        assert process.exitcode in (0, 1)  # 1 when the forkserver itself was the one killed
        return "child at random"


def processor_seconds(pid: int) -> float:
    """What a daemon and its children have used of the processor: a clock that a busy machine does not change."""
    used = 0.0
    with suppress(psutil.NoSuchProcess):
        for process in (psutil.Process(pid), *descendants(pid)):
            times = process.cpu_times()
            used += times.user + times.system
    return used


def another(lab: Lab, path: Path) -> Lab:
    """The same configuration and recipe, with neither results nor checkpoints."""
    shutil.copytree(lab.path, path, ignore=shutil.ignore_patterns(".sounding", "*.pt", "*.jsonl"), dirs_exist_ok=True)
    copied = Lab(path)
    copied.config.write_text(lab.config.read_text().replace("[daemon]", HOLD + "[daemon]") + PATIENCE)
    return copied


def feed(lab: Lab, reference: Lab, turn: int) -> None:
    """Let the next checkpoint of a run appear, and its log grow, so that every life has something to do.

    Each run has two turns at a time: one for a kill at a named point, one for a kill at random.
    """
    run = list(RUNS)[turn // 2 % len(RUNS)]
    step = (turn // (2 * len(RUNS)) * 2 + turn % 2 + 1) * EVERY
    write_log(lab, run, range(step - EVERY, step))
    name = f"runs/{run}/ckpt_{step}.pt"
    shutil.copyfile(reference.path / name, lab.path / name)


def write_log(lab: Lab, run: str, steps: range) -> None:
    with (lab.path / "runs" / run / "train.jsonl").open("a") as file:
        file.writelines(f'{{"step": {step}, "loss": {1 / (step + 1)}}}\n' for step in steps)


def kill_many_times(lab: Lab, reference: Lab, seed: int, *, cold: bool = False) -> Counter[str]:
    """Lives that end in many ways, until as many as KILLS of them were killed; how many ended how."""
    choice = random.Random(seed)
    points = choice.sample(POINTS, len(POINTS))
    ends: Counter[str] = Counter()
    feed(lab, reference, 0)
    whole = live(lab, cold=cold)
    for turn in range(1, TURNS):
        feed(lab, reference, turn)
        if turn % 2 == 0:
            ends[live_until_killed(lab, points[turn // 2 % len(points)], choice.randint(1, 2), cold=cold)] += 1
        else:
            victim = choice.choice(["daemon", "daemon", "worker"])
            ends[live_until(lab, choice.uniform(0.05, 0.95) * whole, victim, choice, cold=cold)] += 1
        if ends.total() - ends["lived"] == KILLS:
            break
    for rest in range(turn + 1, TURNS):
        feed(lab, reference, rest)
    return ends


def live(lab: Lab, *, cold: bool = False) -> float:
    """A life in which all is done that there is to do; the processor time that was seen to be used."""
    seconds = 0.0
    with life(lab, cold=cold) as process:
        while process.is_alive():
            seconds = max(seconds, processor_seconds(process.pid))
            process.join(0.01)
        assert process.exitcode == 0
    return seconds


def assert_same(lab: Lab, reference: Lab) -> None:
    live(lab)
    assert lab.settled().keys() == reference.settled().keys()
    assert set(lab.settled().values()) == {1}
    assert_equal(lab.values(), reference.values())
    logged = lab.sql("FROM logs ORDER BY ALL")
    assert logged == reference.sql("FROM logs ORDER BY ALL")
    assert len(logged) == len(set(logged)) == len(RUNS) * CHECKPOINTS * EVERY
    for room in ("tmp", "holds", "requests"):
        assert list((lab.results / room).iterdir()) == []


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> Lab:
    lab = Lab.at(tmp_path_factory.mktemp("uninterrupted"), CONFIG.replace("attributes", f"{LOGS}attributes"))
    for run, lr in RUNS.items():
        lab.train_here(run, CHECKPOINTS * EVERY, EVERY, lr)
        write_log(lab, run, range(CHECKPOINTS * EVERY))
    live(lab)
    assert set(lab.settled().values()) == {1}
    return lab


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
        ends += kill_many_times(lab, reference, seed, cold=True)
        assert_same(lab, reference)
        killed = ends.total() - ends["lived"]
        record("kills", {"labs": seed + 1, "killed": killed, "ended_by": dict(sorted(ends.items()))})


@pytest.mark.parametrize("point", POINTS)
def test_every_named_point_is_a_step_of_the_product(point):
    """Otherwise a kill at a renamed point would be no kill at all."""
    source = Path(__file__).parents[2] / "daemon" / "sounding"
    assert any(f'at("{point}")' in path.read_text() for path in source.rglob("*.py"))
