"""A real training process, measured while it trains, in every order of start."""

import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from end_to_end.lab import PLUGINS, Lab, assert_equal

from sounding.config import load_config
from sounding.running.service import watch

STEPS, EVERY = 60, 10


def wait_for(condition, seconds: float = 60.0) -> None:
    """Wait for another process to bring something about."""
    deadline = time.monotonic() + seconds
    waiting = subprocess.Popen(["sleep", str(seconds)])
    try:
        while not condition():
            assert time.monotonic() < deadline, "it did not come about"
            try:
                waiting.wait(0.05)
            except subprocess.TimeoutExpired:
                continue
    finally:
        waiting.kill()
        waiting.wait()


def finish(*processes: subprocess.Popen[bytes]) -> None:
    for process in processes:
        assert process.wait(90) == 0


def job_first(lab: Lab) -> None:
    """Both in this process, without their starts; in those of their own they are below."""
    lab.train_here("a", STEPS, EVERY)
    watch(load_config(lab.config), once=True)


def daemon_first(lab: Lab) -> None:
    daemon = lab.daemon()
    wait_for(lambda: (lab.results / "daemon.json").exists())
    finish(lab.train("a", STEPS, EVERY, pause=0.1))
    wait_for(lambda: len(lab.settled()) == 4 * STEPS // EVERY - 1)
    daemon.send_signal(signal.SIGTERM)
    finish(daemon)


def daemon_restarted(lab: Lab) -> None:
    job = lab.train("a", STEPS, EVERY, pause=0.3)
    daemon = lab.daemon()
    wait_for(lambda: len(list((lab.results / "jobs").glob("*.parquet"))) > 4)
    daemon.send_signal(signal.SIGTERM)
    finish(daemon, job)
    finish(lab.daemon("--once"))


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> Lab:
    lab = Lab.at(tmp_path_factory.mktemp("reference"))
    job_first(lab)
    return lab


def test_every_checkpoint_is_measured_once_by_every_plugin(reference):
    settled = reference.settled()
    assert set(settled.values()) == {1}
    steps = range(EVERY, STEPS + 1, EVERY)
    work = set(reference.sql("SELECT plugin, step, other_step, status FROM outcomes"))
    previous = {(step, step - EVERY) for step in steps if step > EVERY}
    expected = {(plugin, step, None, "ok") for plugin in PLUGINS - {"weight_change"} for step in steps}
    assert work == expected | {("weight_change", step, other, "ok") for step, other in previous}


@pytest.mark.parametrize("order", [daemon_first, daemon_restarted])
def test_the_order_of_start_changes_nothing(order, reference, tmp_path):
    lab = Lab.at(tmp_path)
    order(lab)
    assert set(lab.settled().values()) == {1}
    assert lab.settled().keys() == reference.settled().keys()
    assert_equal(lab.values(), reference.values())


def test_readings_are_those_of_the_file_opened_by_hand(reference):
    values = reference.values()
    for path in sorted((reference.path / "runs" / "a").glob("*.pt")):
        stored = torch.load(path, weights_only=True)
        for name in ("0.weight", "3.weight"):
            expected = np.linalg.norm(stored["model"][name].double().numpy())
            (found,) = [
                value
                for (_, step, _, _, _, metric, part, *_), (value, _) in values.items()
                if (step, metric, part) == (stored["step"], "frobenius", name)
            ]
            assert found == pytest.approx(expected, rel=1e-7)  # of float32 weights


def test_attributes_of_the_run_are_known(reference):
    assert reference.sql("SELECT lr, width, family FROM runs") == [(0.01, 16, "mlp")]
    (grouped,) = reference.sql(
        "SELECT lr, count(*) FROM readings_with_attributes "
        "WHERE plugin = 'weight_norm' AND metric = 'total' GROUP BY lr"
    )
    assert grouped == (0.01, STEPS // EVERY)


def test_the_store_is_left_as_it_was(reference):
    names = sorted(str(path.relative_to(reference.path)) for path in Path(reference.path / "runs").rglob("*"))
    steps = range(EVERY, STEPS + 1, EVERY)
    assert names == sorted(["runs/a", "runs/a/config.json", *(f"runs/a/ckpt_{step}.pt" for step in steps)])
