import json
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torch.distributed.checkpoint as dcp

from sounding.formats import format_of
from sounding.formats import fsdp_directory as fsdp
from sounding.formats import trainer_directory as trainer
from sounding.formats import weights_directory as weights
from sounding.formats.proof import Proof
from sounding.opening import open_checkpoint
from sounding.records import Fact, State
from sounding.seeing.contents import contents_of

from formats.conftest import trained  # isort: skip

_Write = Callable[..., Path]


def _prove(path: Path) -> Proof:
    kind = format_of(path)
    assert kind is not None
    return kind.prove(path)


@pytest.mark.parametrize(("shards", "safe"), [(1, True), (4, True), (1, False), (4, False)])
def test_a_trainer_directory_is_complete_and_needs_quiet(trainer_directory: _Write, shards: int, safe: bool):
    directory = trainer_directory(30, shards, safe=safe)
    assert format_of(directory) is trainer.FORMAT
    proof = _prove(directory)
    assert proof.state is State.COMPLETE
    assert proof.needs_quiet
    tree = trainer.read(directory)
    assert set(tree) == {"model", "optimizer", "scheduler", "trainer_state", "config", "training_args"}


@pytest.mark.parametrize("index_first", [True, False])
def test_a_directory_filled_file_by_file_is_pending_until_the_last(trainer_directory: _Write, index_first: bool):
    source = trainer_directory(30, 4)
    target = source.parent / "other" / source.name
    target.mkdir(parents=True)
    order = sorted(source.iterdir(), key=lambda file: (file.name == "trainer_state.json", file.stat().st_mtime_ns))
    if index_first:
        order.sort(key=lambda file: not file.name.endswith("index.json"))
    for file in order:
        data = file.read_bytes()
        for part in (b"", data[: len(data) // 2], data[:-1]):
            (target / file.name).write_bytes(part)
            if (file.suffix == ".json" and file.name != "config.json") or file.suffix in (".safetensors", ".pt"):
                assert _prove(target).state is State.PENDING, (file.name, len(part))
        (target / file.name).write_bytes(data)
        expected = State.COMPLETE if file.name == "trainer_state.json" else State.PENDING
        assert _prove(target).state is expected, file.name
    assert trainer.fingerprint(target) == trainer.fingerprint(source)


def test_the_reason_counts_shards(trainer_directory: _Write):
    directory = trainer_directory(30, 4)
    shard = directory / "model-00002-of-00004.safetensors"
    data = shard.read_bytes()
    shard.write_bytes(data[:-1])
    assert _prove(directory).reason.startswith("3 of 4 shards; model-00002-of-00004.safetensors: ")
    shard.unlink()
    assert _prove(directory).reason == "3 of 4 shards"
    (directory / "model.safetensors.index.json").unlink()
    assert _prove(directory).reason == "3 of 4 shards, no index yet"


def test_an_index_that_promises_more_is_pending(trainer_directory: _Write):
    directory = trainer_directory(30, 2)
    index = directory / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["missing.weight"] = "model-00001-of-00002.safetensors"
    index.write_text(json.dumps(content))
    assert _prove(directory).state is State.PENDING
    assert "missing.weight" in _prove(directory).reason


def test_a_broken_shard_breaks_the_directory(trainer_directory: _Write):
    directory = trainer_directory(30, 2)
    (directory / "model-00001-of-00002.safetensors").write_bytes((2**62).to_bytes(8, "little") + b"{}")
    proof = _prove(directory)
    assert proof.state is State.BROKEN
    assert "model-00001-of-00002" in proof.reason


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "a\0b", "sub/x.safetensors", "..", ""])
def test_shards_outside_the_directory_are_broken(trainer_directory: _Write, name: str):
    directory = trainer_directory(30, 2)
    safetensors.torch.save_file({"w": torch.ones(1)}, directory.parent / "secret.safetensors")
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": name}}))
    assert _prove(directory).state is State.BROKEN


def test_a_link_out_of_the_directory_is_broken(trainer_directory: _Write):
    directory = trainer_directory(30, 2)
    shard = directory / "model-00001-of-00002.safetensors"
    shutil.move(shard, directory.parent / "outside.safetensors")
    shard.symlink_to(directory.parent / "outside.safetensors")
    proof = _prove(directory)
    assert proof.state is State.BROKEN
    assert "leads out" in proof.reason


@pytest.mark.parametrize("content", [b"[" * 200_000, b"[1]", b'{"weight_map": {"w": 5}}', b'{"weight_map": {}}'])
def test_impossible_indices_are_broken(trainer_directory: _Write, content: bytes):
    directory = trainer_directory(30, 2)
    (directory / "model.safetensors.index.json").write_bytes(content)
    assert _prove(directory).state is State.BROKEN


def test_another_step_in_the_state_is_broken(trainer_directory: _Write):
    directory = trainer_directory(30)
    (directory / "trainer_state.json").write_text('{"global_step": 20}')
    assert "step 20" in _prove(directory).reason
    assert _prove(directory).state is State.BROKEN
    (directory / "trainer_state.json").write_text('{"epoch": 2}')
    assert "no whole number" in _prove(directory).reason


def test_half_an_optimizer_is_pending_and_a_damaged_one_broken(trainer_directory: _Write):
    directory = trainer_directory(30)
    optimizer = directory / "optimizer.pt"
    data = optimizer.read_bytes()
    optimizer.write_bytes(data[:-5])
    assert _prove(directory).state is State.PENDING
    assert _prove(directory).reason.startswith("optimizer.pt: ")
    optimizer.write_bytes(b"garbage" * 10)
    assert _prove(directory).state is State.BROKEN


def test_a_pipe_in_place_of_weights_does_not_hang(trainer_directory: _Write):
    directory = trainer_directory(30)
    (directory / "model.safetensors").unlink()
    os.mkfifo(directory / "model.safetensors")
    assert _prove(directory).state is State.BROKEN


def test_weights_saved_without_a_trainer(tmp_path: Path):
    directory = tmp_path / "step_5"
    directory.mkdir()
    assert format_of(directory) is weights.FORMAT
    assert "no weights yet" in _prove(directory).reason
    assert _prove(directory).state is State.PENDING
    safetensors.torch.save_file({"w": torch.ones(2)}, directory / "weights.safetensors")
    assert _prove(directory).state is State.COMPLETE
    assert set(weights.read(directory)) == {"model"}


def test_the_optimizer_that_accelerate_saves_is_found(trainer_directory: _Write):
    source = trainer_directory(30)
    directory = source.rename(source.with_name("checkpoint_0"))
    (directory / "trainer_state.json").unlink()
    (directory / "optimizer.pt").rename(directory / "optimizer.bin")
    assert format_of(directory) is weights.FORMAT
    assert _prove(directory).state is State.COMPLETE
    progress = contents_of(weights.read(directory)).progress
    assert progress.updates == Fact(4, "optimizer.state.step")
    assert progress.lr_stored is not None
    (directory / "optimizer.bin").write_bytes(b"PK")
    assert _prove(directory).state is State.PENDING


def test_what_accelerate_numbers_is_read_under_its_number(trainer_directory: _Write):
    source = trainer_directory(30)
    directory = source.rename(source.with_name("checkpoint_0"))
    (directory / "trainer_state.json").unlink()
    (directory / "optimizer.pt").rename(directory / "optimizer.bin")
    first = weights.fingerprint(directory)
    safetensors.torch.save_file({"w": torch.ones(2)}, directory / "model_1.safetensors")
    adam = torch.optim.Adam([torch.nn.Parameter(torch.ones(2))], lr=0.5)
    torch.save(adam.state_dict(), directory / "optimizer_1.bin")
    torch.save({"epoch": 3, "tokens": 900}, directory / "custom_checkpoint_0.pkl")
    assert _prove(directory).reason == "2 weight files, whole"
    contents = contents_of(weights.read(directory), own_names=True)
    assert list(contents.networks) == ["model", "model_1"]
    assert list(contents.networks["model_1"]) == ["w"]
    assert len(contents.optimizers) == 2
    assert contents.progress.epoch == Fact(3, "custom_checkpoint_0.epoch")
    assert contents.progress.tokens == Fact(900, "custom_checkpoint_0.tokens")
    assert weights.fingerprint(directory) != first
    for name in ("model_1.safetensors", "custom_checkpoint_0.pkl"):
        content = (directory / name).read_bytes()
        (directory / name).write_bytes(content[:-1])
        assert _prove(directory).state is State.PENDING
        assert name in _prove(directory).reason
        (directory / name).write_bytes(content)


@pytest.fixture
def sharded_by_fsdp(trainer_directory: _Write) -> Path:
    """What the Trainer leaves where FSDP shards the network: torch's distributed format inside its directory."""
    directory = trainer_directory(30)
    model, optimizer, _ = trained()
    (directory / "model.safetensors").unlink()
    (directory / "optimizer.pt").unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a single process
        dcp.save({"model": model.state_dict()}, checkpoint_id=directory / "pytorch_model_fsdp_0", no_dist=True)
        dcp.save({"optimizer": optimizer.state_dict()}, checkpoint_id=directory / "optimizer_0", no_dist=True)
    return directory


def test_networks_that_fsdp_sharded_are_read_with_their_optimizer(sharded_by_fsdp: Path):
    assert format_of(sharded_by_fsdp) is trainer.FORMAT
    proof = _prove(sharded_by_fsdp)
    assert (proof.state, proof.needs_quiet) == (State.COMPLETE, True)
    expected = trained()[0].state_dict()
    with open_checkpoint(str(sharded_by_fsdp)) as opened:
        assert list(opened.networks) == ["model"]
        assert all(torch.equal(opened.tensor(ref), expected[name]) for name, ref in opened.networks["model"].items())
        (adam,) = opened.optimizers
        assert isinstance(adam, dict)
        assert set(adam["state"][0]) == {"step", "exp_avg", "exp_avg_sq"}
        assert opened.progress.updates == Fact(30, "trainer_state.global_step")
        assert opened.progress.epoch == Fact(1.5, "trainer_state.epoch")
    other = sharded_by_fsdp.rename(sharded_by_fsdp.with_name("checkpoint_0"))
    (other / "trainer_state.json").unlink()
    assert format_of(other) is fsdp.FORMAT
    assert _prove(other).state is State.COMPLETE


def test_what_fsdp_saves_whole_is_read_and_what_ranks_save_for_themselves_is_refused(tmp_path: Path):
    directory = tmp_path / "checkpoint_0"
    directory.mkdir()
    torch.save(trained()[0].state_dict(), directory / "pytorch_model_fsdp_rank0.bin")
    assert _prove(directory).state is State.BROKEN
    assert "every rank saved for itself" in _prove(directory).reason
    (directory / "pytorch_model_fsdp_rank0.bin").rename(directory / "pytorch_model_fsdp.bin")
    assert _prove(directory).state is State.COMPLETE
    assert len(contents_of(weights.read(directory)).networks["model"]) == 9


def test_a_sharded_network_under_way_is_pending(sharded_by_fsdp: Path):
    fingerprint = trainer.fingerprint(sharded_by_fsdp)
    for name in ("pytorch_model_fsdp_0/.metadata", "pytorch_model_fsdp_0/__0_0.distcp", "optimizer_0/.metadata"):
        content = (sharded_by_fsdp / name).read_bytes()
        for kept in (b"", content[: len(content) // 2], content[:-1]):
            (sharded_by_fsdp / name).write_bytes(kept)
            assert _prove(sharded_by_fsdp).state is State.PENDING, name
            assert _prove(sharded_by_fsdp).reason.startswith(name.partition("/")[0])
        (sharded_by_fsdp / name).write_bytes(content)
    assert trainer.fingerprint(sharded_by_fsdp) == fingerprint


def test_the_fingerprint_is_of_weights_and_step(trainer_directory: _Write):
    directory = trainer_directory(30, 2)
    copy = directory.parent / "copy" / "checkpoint-30"
    shutil.copytree(directory, copy)
    first = trainer.fingerprint(directory)
    assert trainer.fingerprint(copy) == first
    (copy / "trainer_state.json").write_text('{"global_step": 31}')
    stepped = trainer.fingerprint(copy)
    shard = copy / "model-00002-of-00002.safetensors"
    tensors = {name: value + 1 for name, value in safetensors.torch.load_file(shard).items()}
    safetensors.torch.save_file(tensors, shard)
    assert len({first, stepped, trainer.fingerprint(copy)}) == 3
