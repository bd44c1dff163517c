"""How far training had come, format by format: every fact, and where it was read."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torch.distributed.checkpoint as dcp

from sounding.records import Fact, Progress, Sighting, State
from sounding.seeing.examine import examine
from sounding.stamps import stamp_of

from formats import deepspeed_layout  # isort: skip
from formats.conftest import trained  # isort: skip

_RATE = "optimizer.param_groups[0].lr"
_LOGGED = "trainer_state.log_history[-1].learning_rate"


def _adam(rate: float = 0.25, updates: int = 7) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    for _ in range(updates):
        model(torch.ones(1, 3)).sum().backward()
        optimizer.step()
    return model, optimizer


def _nano(place: Path) -> Path:
    model, optimizer = _adam()
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "iter_num": 2000, "best_val_loss": 3.0}
    torch.save(state | {"model_args": {"n_layer": 2}, "config": {"learning_rate": 1e-3}}, place / "ckpt.pt")
    return place / "ckpt.pt"


def _lightning(place: Path) -> Path:
    model, optimizer = _adam()
    timer = {"time_elapsed": {"train": 12.5, "validate": 1.0}}
    state = {
        "epoch": 3, "global_step": 40, "pytorch-lightning_version": "2.6.6", "callbacks": {"Timer": timer},
        "state_dict": model.state_dict(), "optimizer_states": [optimizer.state_dict()], "loops": {"fit_loop": {}},
    }  # fmt: skip
    torch.save(state, place / "last.ckpt")
    return place / "last.ckpt"


def _trainer(place: Path) -> Path:
    model, optimizer = _adam()
    directory = place / "checkpoint-30"
    directory.mkdir()
    safetensors.torch.save_file(model.state_dict(), directory / "model.safetensors")
    torch.save(optimizer.state_dict(), directory / "optimizer.pt")
    log = [{"step": 20, "learning_rate": 0.5}, {"step": 30, "learning_rate": 0.4}]
    state = {"global_step": 30, "epoch": 1.5, "num_input_tokens_seen": 6144, "log_history": log}
    (directory / "trainer_state.json").write_text(json.dumps(state))
    return directory


def _adapter(place: Path) -> Path:
    directory = _trainer(place)
    (directory / "model.safetensors").unlink()
    factors = {
        "base_model.model.w.lora_A.weight": torch.ones(2, 8),
        "base_model.model.w.lora_B.weight": torch.ones(8, 2),
    }
    safetensors.torch.save_file(factors, directory / "adapter_model.safetensors")
    (directory / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "lora_alpha": 4}))
    return directory


def _accelerate(place: Path) -> Path:
    model, optimizer = _adam()
    directory = place / "checkpoint_2"
    directory.mkdir()
    safetensors.torch.save_file(model.state_dict(), directory / "model.safetensors")
    torch.save(optimizer.state_dict(), directory / "optimizer.bin")
    torch.save({"epoch": 4, "samples_seen": 640}, directory / "custom_checkpoint_0.pkl")
    return directory


def _distributed(place: Path) -> Path:
    model, optimizer = _adam()
    progress = {"step": torch.tensor(9), "ntokens_seen": torch.tensor(4096)}
    tree = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "train_state": progress}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a single process
        dcp.save(tree, checkpoint_id=place / "step", no_dist=True)
    return place / "step"


def _notes(place: Path) -> Path:
    notes = {"step": "10", "epoch": "1.25", "tokens": "4096", "format": "pt"}
    safetensors.torch.save_file(_adam()[0].state_dict(), place / "a.safetensors", metadata=notes)
    return place / "a.safetensors"


def _legacy(place: Path) -> Path:
    model, optimizer = _adam()
    state = {"net": model.state_dict(), "opt": optimizer.state_dict(), "epoch": 3, "elapsed": 60.0}
    torch.save(state, place / "a.pth", _use_new_zipfile_serialization=False)
    return place / "a.pth"


def _scripted(place: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        torch.jit.script(trained()[0]).save(str(place / "a.pt"))
    return place / "a.pt"


_ADAM = {"updates": Fact(7, "optimizer.state.step"), "lr_stored": Fact(0.25, _RATE)}
_TOLD: dict[str, tuple[Callable[[Path], Path], int | None, Progress]] = {
    "nanoGPT": (_nano, None, Progress(Fact(2000, "iter_num"), Fact(2000, "iter_num"), lr_stored=Fact(0.25, _RATE))),
    "Lightning": (_lightning, None, Progress(
        Fact(40, "global_step"), Fact(40, "global_step"), Fact(3, "epoch"),
        wall_time=Fact(12.5, "callbacks.Timer.time_elapsed.train"), lr_stored=Fact(0.25, _RATE),
    )),
    "Trainer": (_trainer, 30, Progress(
        Fact(30, "path"), Fact(30, "trainer_state.global_step"), Fact(1.5, "trainer_state.epoch"),
        Fact(6144, "trainer_state.num_input_tokens_seen"), lr_stored=Fact(0.25, _RATE), lr_last=Fact(0.4, _LOGGED),
    )),
    "PEFT": (_adapter, 30, Progress(
        Fact(30, "path"), Fact(30, "trainer_state.global_step"), Fact(1.5, "trainer_state.epoch"),
        Fact(6144, "trainer_state.num_input_tokens_seen"), lr_stored=Fact(0.25, _RATE), lr_last=Fact(0.4, _LOGGED),
    )),
    "Accelerate": (_accelerate, 2, Progress(
        Fact(2, "path"), epoch=Fact(4, "custom_checkpoint_0.epoch"),
        examples=Fact(640, "custom_checkpoint_0.samples_seen"), **_ADAM,
    )),
    "DCP": (_distributed, None, Progress(
        Fact(9, "train_state.step"), tokens=Fact(4096, "train_state.ntokens_seen"), **_ADAM,
    )),
    "DeepSpeed": (lambda place: deepspeed_layout.write(place, 30, 3, 2)[0], 30, Progress(
        Fact(30, "path"), Fact(30, "global_steps"), Fact(2, "epoch"),
        examples=Fact(300, "global_samples"), lr_stored=Fact(0.1, _RATE),
    )),
    "safetensors": (_notes, None, Progress(
        Fact(10, "__metadata__.step"), epoch=Fact(1.25, "__metadata__.epoch"), tokens=Fact(4096, "__metadata__.tokens"),
    )),
    "legacy": (_legacy, None, Progress(
        Fact(3, "epoch"), epoch=Fact(3, "epoch"), wall_time=Fact(60.0, "elapsed"), **_ADAM,
    )),
    "TorchScript": (_scripted, 5, Progress(Fact(5, "path"))),
}  # fmt: skip


@pytest.mark.parametrize("name", _TOLD)
def test_every_fact_of_a_format_comes_with_its_source(name: str, tmp_path: Path):
    write, step, told = _TOLD[name]
    path = write(tmp_path)
    found = examine(Sighting("runs", "a", str(path), step, {}, stamp_of(path)))
    assert found.verdict.state is State.COMPLETE, found.verdict
    assert found.progress == told
