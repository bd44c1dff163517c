import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sounding.formats import torch_zip
from sounding.records import Fact, Sighting, State
from sounding.seeing import examine as examining
from sounding.seeing.examine import examine
from sounding.stamps import stamp_of


def _sighting(path: Path, step: int | None = None) -> Sighting:
    return Sighting("runs", "a", str(path), step, {"seed": 3}, stamp_of(path))


def test_a_whole_checkpoint_tells_everything(training_file: Path):
    found = examine(_sighting(training_file), ("checkpoint:args", "missing.yaml"), str(training_file.parent))
    assert found.verdict.state is State.COMPLETE
    assert found.format == "torch zip"
    assert found.fingerprint == torch_zip.fingerprint(training_file)
    assert not found.needs_quiet
    assert found.models[:2] == ("model", "ema")
    assert found.progress.step == Fact(4, "iter_num")
    assert {item.key for item in found.attributes} == {"seed", "lr", "nested.width"}
    assert found.problems == ()


def test_the_step_of_the_path_comes_first(training_file: Path):
    assert examine(_sighting(training_file, 900)).progress.step == Fact(900, "path")
    assert examine(_sighting(training_file, 900)).progress.updates == Fact(4, "iter_num")


def test_what_the_path_tells_of_progress_comes_first(training_file: Path):
    told = replace(_sighting(training_file, 7), parts={"updates": 70, "epoch": 2, "lr": 0.1})
    progress = examine(told).progress
    assert (progress.updates, progress.epoch) == (Fact(70, "path"), Fact(2, "path"))
    assert progress.lr_stored is not None
    assert progress.lr_stored.source == "optimizer.param_groups[0].lr"


def test_a_trainer_directory(trainer_directory: Callable[..., Path]):
    found = examine(_sighting(trainer_directory(30, 2), 30))
    assert found.verdict.state is State.COMPLETE
    assert found.needs_quiet
    assert found.format == "trainer directory"


def test_notes_of_a_safetensors_file_give_the_step(safetensors_file: Path):
    found = examine(_sighting(safetensors_file))
    assert found.progress.step == Fact(10, "__metadata__.step")
    assert found.models == ("",)


def test_without_any_step_the_pattern_is_asked_for(tmp_path: Path):
    torch.save({"w": torch.ones(2)}, tmp_path / "a.pt")
    found = examine(_sighting(tmp_path / "a.pt"))
    assert found.verdict.state is State.BROKEN
    assert found.verdict.reason == "no step in the path and none inside; name it in the pattern"
    assert examine(_sighting(tmp_path / "a.pt", 5)).verdict.state is State.COMPLETE


def test_a_file_without_a_network_is_broken(tmp_path: Path):
    torch.save({"step": 5, "rng": torch.get_rng_state()}, tmp_path / "a.pt")
    assert "no tensors" in examine(_sighting(tmp_path / "a.pt")).verdict.reason


def test_a_half_file_is_pending_with_its_reason(training_file: Path):
    data = training_file.read_bytes()
    training_file.write_bytes(data[: len(data) // 2])
    found = examine(_sighting(training_file))
    assert found.verdict.state is State.PENDING
    assert "central directory" in found.verdict.reason
    assert found.fingerprint == ""


def test_a_file_that_changed_since_the_listing_is_pending(training_file: Path):
    sighting = _sighting(training_file)
    os.utime(training_file, ns=(1, 1))
    found = examine(sighting)
    assert (found.verdict.state, found.verdict.reason) == (State.PENDING, "changed since it was listed")


def test_a_file_that_changes_under_the_examiner_is_pending(training_file: Path, monkeypatch: pytest.MonkeyPatch):
    def overwrite(tree: object, *, own_names: bool) -> object:
        training_file.write_bytes(training_file.read_bytes())
        return real(tree, own_names=own_names)

    real = examining.contents_of
    os.utime(training_file, ns=(1, 1))  # so that writing it again cannot happen within one tick of the clock
    sighting = _sighting(training_file)
    monkeypatch.setattr(examining, "contents_of", overwrite)
    found = examine(sighting)
    assert (found.verdict.state, found.verdict.reason) == (State.PENDING, "changed while it was examined")


def test_a_file_deleted_under_the_examiner_is_pending(training_file: Path, monkeypatch: pytest.MonkeyPatch):
    real = examining.contents_of

    def delete(tree: object, *, own_names: bool) -> object:
        training_file.unlink()
        return real(tree, own_names=own_names)

    monkeypatch.setattr(examining, "contents_of", delete)
    found = examine(_sighting(training_file))
    assert found.verdict.state is State.PENDING
    assert found.verdict.reason.startswith("changed while it was examined")


def test_what_has_gone_is_pending(training_file: Path):
    sighting = _sighting(training_file)
    training_file.unlink()
    assert examine(sighting).verdict.reason == "gone"


def test_other_things_are_broken(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.pt")
    assert "neither a regular file" in examine(_sighting(tmp_path / "pipe.pt")).verdict.reason
    (tmp_path / "notes.txt").write_text("hello")
    found = examine(_sighting(tmp_path / "notes.txt"))
    assert found.verdict.state is State.BROKEN
    assert "no known format" in found.verdict.reason


def test_a_link_to_a_checkpoint_is_examined(training_file: Path):
    link = training_file.with_name("last.pt")
    link.symlink_to(training_file.name)
    assert examine(_sighting(link)).fingerprint == examine(_sighting(training_file)).fingerprint


def test_problems_with_attributes_do_not_spoil_the_verdict(training_file: Path):
    (training_file.parent / "bad.yaml").write_text("a: [")
    found = examine(_sighting(training_file), ("bad.yaml",), str(training_file.parent))
    assert found.verdict.state is State.COMPLETE
    assert len(found.problems) == 1


def test_the_store_is_left_as_it_was(training_file: Path):
    before = (stamp_of(training_file.parent), training_file.parent.stat().st_mtime_ns)
    examine(_sighting(training_file), ("checkpoint:args",), str(training_file.parent))
    assert (stamp_of(training_file.parent), training_file.parent.stat().st_mtime_ns) == before


def test_examining_imports_no_torch(training_file: Path):
    script = (
        "import sys\n"
        "import sounding.seeing.attributes, sounding.seeing.contents, sounding.formats\n"
        "from pathlib import Path\n"
        "from sounding.seeing.examine import examine\n"
        "from sounding.records import Sighting\n"
        "from sounding.stamps import stamp_of\n"
        "path = Path(sys.argv[1])\n"
        "found = examine(Sighting('s', 'r', str(path), None, {}, stamp_of(path)), ('checkpoint:args',))\n"
        "print(found.verdict.state.value, *(name for name in ('torch', 'numpy', 'pyarrow') if name in sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(training_file)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["complete"]
