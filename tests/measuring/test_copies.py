"""Rotation in the middle of a measurement: with a copy the readings are the original's, without one there are none."""

import errno
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from sounding import opening
from sounding.contract import Metric, Plugin, plugin, shared_pass
from sounding.formats import trainer_directory
from sounding.measuring.extent import reads_only_weights
from sounding.measuring.measure import measure
from sounding.passes import Opened, Optimizer, Other, Weights
from sounding.records import Checkpoint, Copy, Ending, Hold, Job, Reading
from sounding.running.holding import held
from sounding.stamps import stamp_of

TOTAL = Metric("total", unit="1", meaning="sum of the weights", source="test")
WEIGHT = torch.arange(12, dtype=torch.float64).reshape(3, 4)


@plugin(version=1, metrics=[TOTAL])
def summed(weights: Weights):
    yield Reading("total", float(weights["w"].sum()))


def vanishing(checkpoint: Checkpoint, how: Callable[[Path], object]) -> Plugin:
    """A plugin under which rotation strikes, between two looks at the weights."""

    @plugin(version=1, metrics=[TOTAL])
    def caught(weights: Weights):
        before = float(weights["w"].sum())
        how(Path(checkpoint.path))
        assert float(weights["w"].sum()) == before
        yield Reading("total", before)

    return caught


def overwrite(path: Path) -> None:
    torch.save({"model": {"w": WEIGHT + 1}}, path.with_suffix(".new"))
    path.with_suffix(".new").rename(path)


def ordered(job: Job, path: Path, most: int = 1 << 30) -> Job:
    return replace(job, hold=Hold(str(path / "holds" / "1"), most, 0))


@pytest.fixture
def saved(save: Any) -> Checkpoint:
    return save({"model": {"w": WEIGHT}, "optimizer": {"state": {}, "param_groups": [{"lr": 0.1, "params": []}]}})


@pytest.mark.parametrize(("how", "without"), [(Path.unlink, Ending.GONE), (overwrite, Ending.SUPERSEDED)])
def test_what_vanishes_under_a_plugin_is_measured_from_its_copy(
    saved: Checkpoint, job_of: Any, with_plugins: Any, tmp_path: Path, how: Callable[[Path], object], without: Ending
):
    caught = vanishing(saved, how)
    job, loaded = job_of(saved, summed, caught), with_plugins(summed, caught)
    with held(ordered(job, tmp_path), only_weights=reads_only_weights(loaded, job)) as with_copy:
        results = measure(with_copy, loaded)
    assert [(result.ending, result.reason) for result in results] == [(Ending.OK, "")] * 2
    assert [result.findings for result in results] == [(Reading("total", 66.0),)] * 2
    assert [result.task for result in results] == list(job.tasks), "of the checkpoint, not of its copy"
    assert not list((tmp_path / "holds").iterdir())


@pytest.mark.parametrize(("how", "without"), [(Path.unlink, Ending.GONE), (overwrite, Ending.SUPERSEDED)])
def test_what_vanishes_under_a_plugin_without_a_copy_gives_no_number(
    saved: Checkpoint, job_of: Any, with_plugins: Any, how: Callable[[Path], object], without: Ending
):
    caught = vanishing(saved, how)
    results = measure(job_of(saved, summed, caught), with_plugins(summed, caught))
    assert [(result.ending, result.findings) for result in results] == [(without, ())] * 2
    assert all(saved.path in result.reason for result in results)


def test_where_there_was_no_room_for_a_copy_the_readings_and_their_absence_say_so(
    saved: Checkpoint, job_of: Any, with_plugins: Any, tmp_path: Path
):
    job = ordered(job_of(saved, summed), tmp_path, most=0)
    with held(job, only_weights=False) as without:
        (result,) = measure(without, with_plugins(summed))
    assert (result.ending, result.findings) == (Ending.OK, (Reading("total", 66.0),))
    assert result.reason.startswith("read where it lies, without a copy: ")
    caught = vanishing(saved, Path.unlink)
    with held(ordered(job_of(saved, caught), tmp_path, most=0), only_weights=False) as without:
        (result,) = measure(without, with_plugins(caught))
    assert result.ending is Ending.GONE
    assert "is gone (No such file or directory); read where it lies, without a copy" in result.reason


def test_what_could_not_be_copied_in_time_is_gone_with_its_reason(
    saved: Checkpoint, job_of: Any, with_plugins: Any, tmp_path: Path
):
    Path(saved.path).unlink()
    with held(ordered(job_of(saved, summed), tmp_path), only_weights=False) as job:
        (result,) = measure(job, with_plugins(summed))
    assert result.ending is Ending.GONE
    assert result.reason == f"{saved.path} is gone (No such file or directory); no copy of it was made in time"


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO])
def test_a_handle_that_is_stale_is_no_plugins_fault(
    saved: Checkpoint, job_of: Any, with_plugins: Any, monkeypatch: pytest.MonkeyPatch, number: int
):
    def refuse(path: Path) -> None:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(opening, "format_of", refuse)
    (result,) = measure(job_of(saved, summed), with_plugins(summed))
    assert result.ending is Ending.GONE
    assert os.strerror(number) in result.reason
    copies = {saved.checkpoint_id: Copy(reason=f"it could not be copied: {os.strerror(number)}", is_lost=True)}
    (result,) = measure(replace(job_of(saved, summed), copies=copies), with_plugins(summed))
    assert (result.ending, result.reason) == (Ending.GONE, f"it could not be copied: {os.strerror(number)}")


@plugin(version=1, metrics=[TOTAL])
def of_optimizer(weights: Weights, optimizer: Optimizer):
    yield Reading("total", 0.0)


@plugin(version=1, metrics=[TOTAL])
def of_everything(opened: Opened):
    yield Reading("total", 0.0)


@shared_pass(version=1)
def peek(opened: Opened) -> dict[str, object]:
    return {}


@plugin(version=1, metrics=[TOTAL])
def of_a_pass_of_somebodys(peek: dict[str, object]):
    yield Reading("total", 0.0)


@plugin(version=1, metrics=[TOTAL], over="pair", against="previous")
def difference(weights: Weights, other: Other):
    yield Reading("total", float((weights["w"] - other.weights["w"]).sum()))


@plugin(version=1, metrics=[TOTAL], over="pair", against="previous")
def curious(weights: Weights, other: Other):
    yield Reading("total", float(len(other.opened.optimizers)))


@pytest.mark.parametrize(
    ("plugins", "only_weights"),
    [
        ([summed], True),
        ([summed, difference], True),
        ([summed, of_optimizer], False),
        ([of_everything], False),
        ([of_a_pass_of_somebodys], False),
    ],
)
def test_only_jobs_that_look_at_nothing_but_weights_do_without_the_rest(
    saved: Checkpoint, job_of: Any, with_plugins: Any, plugins: list[Any], only_weights: bool
):
    loaded = with_plugins(peek, *plugins)
    assert reads_only_weights(loaded, job_of(saved, *plugins, previous=saved)) == only_weights


def test_both_checkpoints_of_a_pair_are_read_from_their_copies(
    saved: Checkpoint, save: Any, job_of: Any, with_plugins: Any, tmp_path: Path
):
    later = save({"model": {"w": WEIGHT + 2}}, step=2)
    job, loaded = job_of(later, difference, curious, previous=saved), with_plugins(difference, curious)
    with held(ordered(job, tmp_path), only_weights=True) as with_copies:
        assert all(copy.path for copy in with_copies.copies.values())
        Path(saved.path).unlink()
        Path(later.path).unlink()
        measured, looked = measure(with_copies, loaded)
    assert measured.findings == (Reading("total", 24.0),)
    assert looked.findings == (Reading("total", 1.0),), "of a single file, everything was copied"
    partial = {each.checkpoint_id: Copy(each.path, only_weights=True) for each in job.sources}
    torch.save({"model": {"w": WEIGHT}}, saved.path)
    torch.save({"model": {"w": WEIGHT + 2}}, later.path)
    measured, looked = measure(replace(job, copies=partial), loaded)
    assert measured.findings == (Reading("total", 24.0),)
    assert looked.ending is Ending.FAILED, "what was left out of a copy is refused, never taken for absent"
    assert "`other` has no `opened`" in looked.reason


def test_a_trainers_directory_is_read_without_its_optimizer(save: Any, job_of: Any, with_plugins: Any, tmp_path: Path):
    path = tmp_path / "runs" / "checkpoint-1"
    path.mkdir(parents=True)
    save_file({"w": WEIGHT}, path / "model.safetensors")
    (path / "trainer_state.json").write_text('{"global_step": 1}')
    torch.save({"state": {}, "param_groups": [{"lr": 0.1, "params": []}]}, path / "optimizer.pt")
    saved = replace(save({"model": {}}), path=str(path), stamp=stamp_of(path), format=trainer_directory.FORMAT.name)
    job, loaded = job_of(saved, summed), with_plugins(summed)
    with held(ordered(job, tmp_path), only_weights=reads_only_weights(loaded, job)) as with_copy:
        copy = with_copy.copies[saved.checkpoint_id]
        assert sorted(os.listdir(copy.path)) == ["model.safetensors", "trainer_state.json"]
        shutil.rmtree(path)
        (result,) = measure(with_copy, loaded)
    assert (result.ending, result.findings) == (Ending.OK, (Reading("total", 66.0),))
