"""Writers that are slow, truncate, rename, overwrite or leave off: the right verdict, never a wrong number.

One daemon with real workers is stepped by hand; its clock is the test's.
"""

import json
import random
import time
from datetime import UTC, datetime
from itertools import pairwise
from multiprocessing.connection import wait
from pathlib import Path

import pytest
import torch
from end_to_end.lab import WITHOUT
from safetensors.torch import save_file

from sounding.asking.query import connect
from sounding.config import load_config
from sounding.records import State
from sounding.running.loop import Daemon
from sounding.running.service import running

CONFIG = f"""
[[stores]]
path = "runs"
pattern = ["{{run}}/ckpt_{{step}}.pt", "{{run}}/ckpt.pt", "{{run}}/{{step}}.safetensors", "{{run}}/checkpoint-{{step}}"]
quiet_seconds = 30.0

[daemon]
events = false
scan_seconds = 0.01
nice = 0
{WITHOUT}
[plugins.loss]
enabled = false

[plugins.gradient_norm]
enabled = false
"""


class Bench:
    """A daemon and the hands that step it."""

    def __init__(self, daemon: Daemon, path: Path) -> None:
        self.daemon, self.path, self.now = daemon, path, time.monotonic()

    def look(self, seconds: float = 1.0) -> None:
        """Let the clock run on and take one turn."""
        self.now += seconds
        self.daemon.tick(self.now, datetime.now(UTC))

    def finish(self) -> None:
        """Take turns until all that is owed is done."""
        deadline = time.monotonic() + 60
        self.look()
        while self.daemon.crew.working or not self.daemon.foreman.is_content or not self.daemon.foreman.planned:
            assert time.monotonic() < deadline
            wait([child.connection for child in self.daemon.crew.children if child.connection], 0.05)
            self.look(0.05)

    def state(self, path: Path) -> State:
        return self.daemon.lookout.seen[str(path)].verdict.state

    def readings(self, run: str) -> dict[int, float]:
        rows = connect(self.daemon.results.path).execute(
            "SELECT step, value FROM readings WHERE run = ? AND plugin = 'weight_norm' AND metric = 'total'", [run]
        )
        return dict(rows.fetchall())


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    path = tmp_path_factory.mktemp("writers")
    (path / "runs").mkdir()
    (path / "sounding.toml").write_text(CONFIG)
    with running(load_config(path / "sounding.toml")) as daemon:
        yield Bench(daemon, path / "runs")


@pytest.fixture
def run(bench, request) -> Path:
    path = bench.path / request.node.name
    path.mkdir()
    return path


def weights(scale: float) -> dict[str, torch.Tensor]:
    return {"layer.weight": torch.full((64, 64), scale), "layer.bias": torch.zeros(64)}


def total(scale: float) -> float:
    return 64 * torch.tensor(scale).double().item()  # the square root of 64 × 64 equal squares


def saved(path: Path, scale: float, **more: object) -> bytes:
    """The bytes that torch.save writes."""
    torch.save({"model": weights(scale), **more}, path)
    content = path.read_bytes()
    path.unlink()
    return content


def test_written_slowly_in_chunks(bench, run):
    content = saved(run / "elsewhere", 2.0)
    path = run / "ckpt_1.pt"
    cuts = [len(content) * part // 7 for part in range(8)]
    with path.open("wb") as file:
        for start, end in pairwise(cuts):
            bench.look()
            assert bench.daemon.lookout.seen.get(str(path)) is None or bench.state(path) is State.PENDING
            file.write(content[start:end])
            file.flush()
    bench.finish()
    assert bench.state(path) is State.COMPLETE
    assert bench.readings(run.name) == {1: pytest.approx(total(2.0), rel=1e-12)}


def test_truncated_at_any_byte(bench, run):
    content = saved(run / "elsewhere", 2.0)
    choice = random.Random(1)
    for step in range(30):
        (run / f"ckpt_{step}.pt").write_bytes(content[: choice.randrange(len(content))])
    bench.finish()
    assert {bench.state(run / f"ckpt_{step}.pt") for step in range(30)} == {State.PENDING}
    assert bench.readings(run.name) == {}


def test_renamed_in(bench, run):
    (run / "ckpt_3.pt.tmp").write_bytes(saved(run / "elsewhere", 3.0))
    bench.finish()
    assert not any(path.startswith(str(run)) for path in bench.daemon.lookout.seen)
    (run / "ckpt_3.pt.tmp").rename(run / "ckpt_3.pt")
    bench.finish()
    assert bench.readings(run.name) == {3: pytest.approx(total(3.0), rel=1e-12)}


def test_one_file_overwritten_in_place_is_many_checkpoints(bench, run):
    for step in (10, 20, 30):
        (run / "ckpt.pt").write_bytes(saved(run / "elsewhere", float(step), iter_num=step))
        bench.finish()
    assert bench.readings(run.name) == {step: pytest.approx(total(float(step)), rel=1e-12) for step in (10, 20, 30)}
    rows = connect(bench.daemon.results.path).execute(
        "SELECT step, step_source FROM checkpoints WHERE run = ? AND status = 'complete'", [run.name]
    )
    assert {step: "iter_num" in source for step, source in rows.fetchall()} == {10: True, 20: True, 30: True}


def test_a_step_that_is_written_again_is_a_new_checkpoint(bench, run):
    for scale in (1.0, 5.0):
        (run / "ckpt_7.pt").write_bytes(saved(run / "elsewhere", scale))
        bench.finish()
    rows = connect(bench.daemon.results.path).execute(
        "SELECT count(DISTINCT checkpoint_id) FROM readings WHERE run = ? AND step = 7", [run.name]
    )
    assert rows.fetchall() == [(2,)]


def test_the_same_content_under_two_names_is_one_checkpoint(bench, run):
    content = saved(run / "elsewhere", 2.0, iter_num=5)
    (run / "ckpt_5.pt").write_bytes(content)
    (run / "ckpt.pt").write_bytes(content)
    bench.finish()
    rows = connect(bench.daemon.results.path).execute(
        "SELECT plugin, count(*) FROM outcomes_all WHERE run = ? GROUP BY plugin", [run.name]
    )
    assert rows.fetchall() == [("weight_norm", 1)]


def test_a_format_without_an_end_mark_waits_for_quiet(bench, run):
    path = run / "4.safetensors"
    save_file(weights(4.0), path)
    bench.look()
    bench.look(20.0)
    assert bench.state(path) is State.PENDING
    path.touch()
    bench.look(20.0)
    assert bench.state(path) is State.PENDING
    bench.look(31.0)
    assert bench.state(path) is State.COMPLETE
    bench.finish()
    assert bench.readings(run.name) == {4: pytest.approx(total(4.0), rel=1e-12)}


def test_a_directory_is_complete_with_its_last_file(bench, run):
    path = run / "checkpoint-8"
    path.mkdir()
    bench.look()
    save_file(weights(8.0), path / "model.safetensors")
    bench.look(40.0)
    bench.look(40.0)
    assert bench.state(path) is State.PENDING
    (path / "trainer_state.json").write_text(json.dumps({"global_step": 8, "epoch": 1.0, "log_history": []}))
    bench.look()
    assert bench.state(path) is State.PENDING
    bench.look(31.0)
    bench.finish()
    assert bench.state(path) is State.COMPLETE
    assert bench.readings(run.name) == {8: pytest.approx(total(8.0), rel=1e-12)}


def test_left_behind_is_abandoned_until_it_is_whole_after_all(bench, run):
    content = saved(run / "elsewhere", 5.0)
    (run / "ckpt_5.pt").write_bytes(content[:-10])
    (run / "ckpt_10.pt").write_bytes(saved(run / "elsewhere", 10.0))
    bench.finish()
    assert bench.state(run / "ckpt_5.pt") is State.ABANDONED
    assert set(bench.readings(run.name)) == {10}
    (run / "ckpt_5.pt").write_bytes(content)
    bench.finish()
    assert bench.state(run / "ckpt_5.pt") is State.COMPLETE
    assert set(bench.readings(run.name)) == {5, 10}


def test_no_handle_and_no_mapping_outlives_its_job(bench, run):
    (run / "ckpt_1.pt").write_bytes(saved(run / "elsewhere", 1.0))
    bench.finish()
    for pid in [child.pid for child in bench.daemon.crew.children] + [bench.daemon.lookout.examine.child.pid]:
        maps = Path(f"/proc/{pid}/maps").read_text()
        handles = [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()]
        assert str(bench.path) not in maps
        assert not [handle for handle in handles if handle.startswith(str(bench.path))]
