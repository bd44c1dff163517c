"""Lightning saves `last.ckpt` for itself: what its callbacks note of file names makes no other checkpoint of it."""

from pathlib import Path
from typing import Any

import pytest
import torch

from sounding.formats import torch_zip

from formats.conftest import trained  # isort: skip


def _tree(last: str = "", score: float = 0.5, **more: Any) -> dict[str, Any]:
    model, optimizer, scheduler = trained()
    notes = {"last_model_path": last, "best_k_models": {"a.ckpt": torch.tensor(score)}, "current_score": score}
    return {
        "epoch": 1, "global_step": 4, "pytorch-lightning_version": "2.6.6", "callbacks": {"ModelCheckpoint": notes},
        "state_dict": model.state_dict(), "optimizer_states": [optimizer.state_dict()], "tags": {"a", "b"},
        "lr_schedulers": [scheduler.state_dict()], **more,
    }  # fmt: skip


def _fingerprint(path: Path, tree: object) -> str:
    torch.save(tree, path)
    return torch_zip.fingerprint(path)


def test_notes_of_callbacks_make_no_other_checkpoint(tmp_path: Path):
    prints = [_fingerprint(tmp_path / "a.ckpt", _tree(last, score)) for last in ("", "last.ckpt") for score in (1, 2)]
    assert len(set(prints)) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"epoch": 2},
        {"global_step": 5},
        {"optimizer_states": [torch.optim.SGD(trained()[0].parameters(), lr=0.1).state_dict()]},
        {"lr_schedulers": []},
        {"tags": {"a"}},
        {"state_dict": {**trained()[0].state_dict(), "0.bias": torch.full((8,), 3.0)}},
        {"state_dict": {name: value.double() for name, value in trained()[0].state_dict().items()}},
        {"state_dict": dict(reversed(trained()[0].state_dict().items()))},
        {"hyper_parameters": {"lr": 1}},
    ],
)
@pytest.mark.parametrize("checksums", [True, False])
def test_everything_else_does(tmp_path: Path, change: dict[str, Any], checksums: bool):
    torch.serialization.set_crc32_options(checksums)
    try:
        first = _fingerprint(tmp_path / "a.ckpt", _tree())
        assert _fingerprint(tmp_path / "b.ckpt", _tree(**change)) != first
        assert _fingerprint(tmp_path / "c.ckpt", _tree()) == first
    finally:
        torch.serialization.set_crc32_options(True)


def test_shared_and_circular_values_end(tmp_path: Path):
    circle: dict[str, Any] = {}
    circle["self"] = circle
    shared = torch.ones(3)
    tied = {"state_dict": {"a": shared, "b": shared}, "loops": circle}
    loose = {"state_dict": {"a": shared, "b": shared.clone()}, "loops": circle}
    assert _fingerprint(tmp_path / "a.ckpt", _tree(**tied)) != _fingerprint(tmp_path / "b.ckpt", _tree(**loose))


def test_other_files_with_callbacks_are_taken_as_they_are(tmp_path: Path):
    prints = [
        _fingerprint(tmp_path / "a.pt", {"model": {"w": torch.ones(2)}, "callbacks": {"best": place}}) for place in "ab"
    ]
    assert len(set(prints)) == 2
