"""What a worker does with a job before it measures: which device, and whether there is room on it."""

from dataclasses import replace
from pathlib import Path

import pytest
from making import checkpoint, ended, sheet, task_on

from sounding.measuring import devices, measure
from sounding.measuring.devices import Room
from sounding.records import Ending, Job, TaskResult
from sounding.running.worker import NotNow, perform

GIB = 1 << 30
NORM, LOSS = sheet("norm"), sheet("loss", needs_recipe=True)


@pytest.fixture
def devices_used(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The devices that jobs were measured on; measuring itself is left out."""
    used: list[str] = []

    def measured(job: Job) -> list[TaskResult]:
        used.append(job.device)
        return [ended(task) for task in job.tasks]

    monkeypatch.setattr(measure, "measure", measured)
    return used


def job(*plugins: str, device: str = "cuda") -> Job:
    return Job(1, checkpoint(1), tuple(task_on(checkpoint(1), sheet(name)) for name in plugins), device=device)


def room(monkeypatch: pytest.MonkeyPatch, free: float) -> None:
    look = lambda device: Room(int(free * GIB), 80 * GIB)  # noqa: E731
    monkeypatch.setattr(devices.choose_device, "__defaults__", (look,))


def test_a_gpu_without_room_is_not_used_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, devices_used: list[str]
):
    room(monkeypatch, 3)
    told = perform(job("loss"), str(tmp_path / "x"), {"loss": LOSS})
    assert isinstance(told, NotNow)
    assert "3.0 GiB of 80.0 GiB free" in told.reason
    assert (devices_used, list(tmp_path.iterdir())) == ([], [])
    assert isinstance(perform(replace(job("loss"), headroom=0.0), str(tmp_path / "x"), {"loss": LOSS}), tuple)
    assert devices_used == ["cuda"]


def test_what_needs_no_model_is_measured_whatever_the_gpu_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, devices_used: list[str]
):
    room(monkeypatch, 0)
    (result,) = perform(job("norm"), str(tmp_path / "x"), {"norm": NORM})  # type: ignore[misc]
    assert (result.ending, devices_used) == (Ending.OK, ["cpu"])
    assert (tmp_path / "x").exists()
    assert isinstance(perform(job("norm", "loss"), str(tmp_path / "y"), {"norm": NORM, "loss": LOSS}), NotNow)
