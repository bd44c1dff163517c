import random
from pathlib import Path

import pytest
import torch

from sounding.formats import format_of, legacy, torch_zip
from sounding.formats.proof import Proof
from sounding.opening import open_checkpoint
from sounding.records import Fact, State, TensorRef
from sounding.seeing.contents import contents_of

from formats.conftest import trained  # isort: skip


def _save(tree: object, path: Path) -> Path:
    torch.save(tree, path, _use_new_zipfile_serialization=False)
    return path


@pytest.fixture
def old(tmp_path: Path) -> Path:
    shared = torch.arange(24.0)
    model, optimizer, _ = trained()
    tree = {
        "model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": 4,
        "views": [shared[3:7], shared.view(4, 6).t(), shared[::5], shared[:0]],
        "types": [torch.ones(3).half(), torch.randn(5).bfloat16(), torch.tensor([True, False]),
                  torch.randn(2, dtype=torch.complex64)],
    }  # fmt: skip
    return _save(tree, tmp_path / "old.pt")


def _prove(path: Path) -> Proof:
    assert format_of(path) is legacy.FORMAT
    return legacy.FORMAT.prove(path)


def test_a_legacy_file_is_complete_but_needs_quiet(old: Path):
    assert (_prove(old).state, _prove(old).needs_quiet) == (State.COMPLETE, True)
    progress = contents_of(legacy.read(old)).progress
    assert progress.step == Fact(4, "step")
    assert progress.updates == Fact(4, "optimizer.state.step")


def test_every_tensor_equals_what_torch_loads(old: Path):
    theirs = torch.load(old, weights_only=False)
    with open_checkpoint(str(old)) as opened:
        tree = opened.tree
        assert isinstance(tree, dict)
        pairs = [(tree["model"][name], theirs["model"][name]) for name in theirs["model"]]
        for group in ("views", "types"):
            pairs += list(zip(tree[group], theirs[group], strict=True))
        for place, state in theirs["optimizer"]["state"].items():
            pairs += [(tree["optimizer"]["state"][place][key], value) for key, value in state.items()]
        assert len(pairs) == 9 + 4 + 4 + 6 * 3
        for ref, other in pairs:
            tensor = opened.tensor(ref)
            assert (tensor.dtype, tensor.shape, tensor.stride()) == (other.dtype, other.shape, other.stride())
            assert torch.equal(tensor, other)
            del tensor


def test_whole_modules_with_their_source_are_read(tmp_path: Path):
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    path = _save(model, tmp_path / "module.pt")
    assert set(contents_of(legacy.read(path)).networks[""]) == set(model.state_dict())


def test_every_prefix_is_pending(tmp_path: Path):
    whole = _save({"w": torch.arange(10.0), "b": torch.ones(2, dtype=torch.int64)}, tmp_path / "a.pt").read_bytes()
    partial = tmp_path / "partial.pt"
    for length in range(1, len(whole)):
        partial.write_bytes(whole[:length])
        assert _prove(partial).state is State.PENDING, length
    partial.write_bytes(whole + b"x")
    assert _prove(partial).state is State.BROKEN


def test_random_truncations_are_never_complete(old: Path):
    whole = old.read_bytes()
    generator = random.Random(4)
    for _ in range(300):
        old.write_bytes(whole[: generator.randrange(1, len(whole))])
        assert _prove(old).state is State.PENDING


def test_random_damage_never_raises(old: Path):
    whole = old.read_bytes()
    generator = random.Random(5)
    states = set()
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(generator.choice((1, 5, 50))):
            data[generator.randrange(20, len(data))] = generator.randrange(256)
        old.write_bytes(data)
        states.add(_prove(old).state)
        if _prove(old).state is State.COMPLETE:
            refs = list(contents_of(legacy.read(old)).networks.get("model", {}).values())
            assert all(
                isinstance(ref, TensorRef) and ref.storage_start + ref.storage_bytes <= len(data) for ref in refs
            )
    assert {State.COMPLETE, State.BROKEN} <= states


def test_a_storage_of_another_size_than_promised_is_broken(tmp_path: Path):
    path = _save({"w": torch.arange(10.0)}, tmp_path / "a.pt")
    data = path.read_bytes()
    path.write_bytes(data[:-48] + (11).to_bytes(8, "little") + data[-40:] + bytes(4))
    assert _prove(path).state is State.BROKEN
    assert "11 elements, expected 10" in _prove(path).reason


def _network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3), torch.nn.Sequential(torch.nn.Linear(3, 2))
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", ["script", "trace"])
def test_torchscript_archives_give_their_weights_and_never_their_code(tmp_path: Path, kind: str):
    model, path = _network().eval(), tmp_path / "step_3.pt"
    scripted = torch.jit.script(model) if kind == "script" else torch.jit.trace(model, torch.ones(1, 4))
    scripted.save(str(path))
    proof = torch_zip.FORMAT.prove(path)
    assert (proof.state, proof.needs_quiet) == (State.COMPLETE, False)
    assert proof.reason.startswith("TorchScript archive")
    expected = model.state_dict()
    with open_checkpoint(str(path)) as opened:
        network = opened.networks[""]
        assert set(network) == set(expected)
        for name, ref in network.items():
            assert torch.equal(opened.tensor(ref), expected[name]), name
    assert opened.wrappers == ("taken from a TorchScript module",)
    whole = path.read_bytes()
    for end in random.Random(6).sample(range(len(whole)), 100):
        path.write_bytes(whole[:end])
        assert torch_zip.FORMAT.prove(path).state is State.PENDING
