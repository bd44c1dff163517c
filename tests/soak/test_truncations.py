"""No beginning of any file of a checkpoint makes a whole one: thousands of random cuts of every binary format."""

import json
import random
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torch.distributed.checkpoint as dcp
from record import RESULTS, record

from sounding.formats import format_of
from sounding.records import State

from formats import deepspeed_layout  # isort: skip
from formats.conftest import trained, write_weights  # isort: skip

CUTS = 3000
_UNPROVEN = (".json", "rng_state.pth", "training_args.bin")  # no weights in them, or of another kind than binary

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]


def _torch_zip(place: Path) -> Path:
    model, optimizer, _ = trained()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": 4}, place / "a.pt")
    return place / "a.pt"


def _legacy(place: Path) -> Path:
    state = {"model": trained()[0].state_dict(), "step": 4}
    torch.save(state, place / "a.pt", _use_new_zipfile_serialization=False)
    return place / "a.pt"


def _scripted(place: Path) -> Path:
    torch.jit.script(trained()[0]).save(str(place / "a.pt"))
    return place / "a.pt"


def _safetensors(place: Path) -> Path:
    safetensors.torch.save_file(trained()[0].state_dict(), place / "a.safetensors")
    return place / "a.safetensors"


def _trainer(place: Path) -> Path:
    model, optimizer, scheduler = trained()
    directory = place / "checkpoint-4"
    directory.mkdir()
    write_weights(directory, dict(model.state_dict()), 3, safe=True)
    torch.save(optimizer.state_dict(), directory / "optimizer.pt")
    torch.save(scheduler.state_dict(), directory / "scheduler.pt")
    (directory / "trainer_state.json").write_text(json.dumps({"global_step": 4}))
    return directory


def _adapter(place: Path) -> Path:
    directory = place / "adapter"
    directory.mkdir()
    factors = {
        "base_model.model.w.lora_A.weight": torch.randn(2, 8),
        "base_model.model.w.lora_B.weight": torch.ones(8, 2),
    }
    safetensors.torch.save_file(factors, directory / "adapter_model.safetensors")
    (directory / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "lora_alpha": 4}))
    return directory


def _distributed(place: Path) -> Path:
    model, optimizer, _ = trained()
    tree = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": 4}
    dcp.save(tree, checkpoint_id=place / "dcp", no_dist=True)
    torch.save({"epoch": 1, "global_step": 4}, place / "dcp" / "meta.pt")
    return place / "dcp"


def _fsdp(place: Path) -> Path:
    model, optimizer, _ = trained()
    dcp.save({"model": model.state_dict()}, checkpoint_id=place / "c" / "pytorch_model_fsdp_0", no_dist=True)
    dcp.save({"optimizer": optimizer.state_dict()}, checkpoint_id=place / "c" / "optimizer_0", no_dist=True)
    return place / "c"


FORMATS: dict[str, Callable[[Path], Path]] = {
    "torch zip": _torch_zip,
    "legacy torch file": _legacy,
    "TorchScript archive": _scripted,
    "safetensors": _safetensors,
    "trainer directory, 3 shards": _trainer,
    "adapter directory": _adapter,
    "torch DCP directory": _distributed,
    "FSDP directory": _fsdp,
    "DeepSpeed directory, stage 1, 2 ranks": lambda place: deepspeed_layout.write(place, 4, 1, 2)[0],
    "DeepSpeed directory, stage 3, 2 ranks": lambda place: deepspeed_layout.write(place, 4, 3, 2)[0],
}


@pytest.mark.parametrize("name", FORMATS)
def test_no_beginning_is_whole(name: str, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own: of a single process, of TorchScript
        path = FORMATS[name](tmp_path)
    kind = format_of(path)
    assert kind is not None
    assert kind.prove(path).state is State.COMPLETE
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    whole = {file: file.read_bytes() for file in files if not file.name.endswith(_UNPROVEN)}
    generator = random.Random(11)
    states: Counter[str] = Counter()
    for _ in range(CUTS):
        file = generator.choice(list(whole))
        # A file that begins as another format does is no longer claimed by its name alone: as while it is written.
        file.write_bytes(whole[file][: generator.randrange(len(whole[file]))])
        found = format_of(path)
        states[found.prove(path).state.value if found is not None else "unknown"] += 1
        file.write_bytes(whole[file])
    known = json.loads((RESULTS / "truncations.json").read_text())["formats"] if _kept() else {}
    record("truncations", {"cuts": CUTS, "formats": known | {name: dict(states)}})
    assert states[State.COMPLETE.value] == 0


def _kept() -> bool:
    return (RESULTS / "truncations.json").exists()
