"""TensorBoard's event files, written by torch's own writer: read as they grow, and cut off anywhere."""

import random
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
from logs.desk import Desk

pytest.importorskip("tensorboard", reason="the extra `tensorboard` is not installed")


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Thirty updates of a job that logs scalars, a histogram and a text."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the package says of itself
        from torch.utils.tensorboard import SummaryWriter

        directory = tmp_path_factory.mktemp("events")
        with SummaryWriter(directory) as writer:
            for step in range(30):
                writer.add_scalar("loss/train", 2.0**-step, step)
                writer.add_histogram("weights", np.array([0.0, 1.0, float(step)]), step)
            writer.add_text("note", "the end", 30)
            writer.add_scalar("loss/eval", float("nan"), 30)
            writer.add_scalar("newer", 0.25, 31, new_style=True)
    (path,) = directory.glob("events.*")
    return path.read_bytes()


def test_scalars_and_nothing_else(tmp_path: Path, events: bytes):
    desk = Desk(tmp_path, "events.out.tfevents.1")
    (desk.store / "events.out.tfevents.1").write_bytes(events)
    assert desk.problems == []
    assert desk.series("loss/train") == [(step, 2.0**-step) for step in range(30)]
    assert desk.series("newer") == [(31, 0.25)]
    assert {row[3] for row in desk.rows()} == {"loss/train", "loss/eval", "newer"}
    assert {row[0] for row in desk.rows()} == {1}


def test_a_torn_tail_is_waited_for(tmp_path: Path, events: bytes):
    desk = Desk(tmp_path, "events.out.tfevents.1")
    log = desk.store / "events.out.tfevents.1"
    cuts = sorted(random.Random(0).sample(range(len(events)), 25))
    seen = 0
    for cut in (*cuts, len(events)):
        log.write_bytes(events[:cut])
        assert desk.problems == []
        assert len(desk.rows()) >= seen
        seen = len(desk.rows())
    (tmp_path / "cold").mkdir()
    cold = Desk(tmp_path / "cold", "events.out.tfevents.1")
    (cold.store / "events.out.tfevents.1").write_bytes(events)
    cold.read()
    assert [repr(row) for row in desk.rows()] == [repr(row) for row in cold.rows()]
    assert len(cold.rows()) == 32


def test_a_record_that_was_damaged_ends_the_reading_and_is_named(tmp_path: Path, events: bytes):
    desk = Desk(tmp_path, "events.out.tfevents.1")
    damaged = bytearray(events)
    at = events.index(b"loss/train", len(events) // 2)
    damaged[at] ^= 0xFF
    (desk.store / "events.out.tfevents.1").write_bytes(bytes(damaged))
    (problem,) = desk.problems
    assert "is damaged" in problem
    taken = [row[1] for row in desk.rows()]
    assert taken == list(range(len(taken)))
    assert 5 < len(taken) < 30


def test_a_record_of_absurd_length_is_not_read(tmp_path: Path):
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

    desk = Desk(tmp_path, "events.out.tfevents.1")
    length = struct.pack("<Q", 2**62)
    (desk.store / "events.out.tfevents.1").write_bytes(length + struct.pack("<I", masked_crc32c(length)) + b"\0" * 100)
    assert "is damaged" in desk.problems[0]
