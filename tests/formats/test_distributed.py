import argparse
import os
import pickle
import random
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

from sounding.formats import distributed, format_of
from sounding.formats.proof import Proof
from sounding.opening import open_checkpoint
from sounding.records import Fact, Opaque, Pieces, State, Stored
from sounding.seeing.contents import contents_of

from formats.conftest import trained  # isort: skip

_WRITER = Path(__file__).with_name("sharded_writer.py")


def _save(tree: dict[str, object], directory: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a single process, and of overwriting
        dcp.save(tree, checkpoint_id=directory, no_dist=True)


@pytest.fixture
def single(tmp_path: Path) -> Path:
    """Saved by one process, with everything that trainers put in."""
    model, optimizer, scheduler = trained()
    tree = {
        "model": model.state_dict(), "optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict(),
        "step": 40, "args": argparse.Namespace(lr=0.1), "list": [torch.ones(2), {"c": 3}],
        "types": {"half": torch.randn(3).half(), "brain": torch.randn(7).bfloat16(), "empty": torch.zeros(0, 3),
                  "eight": torch.randn(5).to(torch.float8_e4m3fn), "flag": torch.tensor([True])},
    }  # fmt: skip
    _save(tree, tmp_path / "single")
    torch.save(tree, tmp_path / "full.pt")
    return tmp_path / "single"


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Saved by two ranks at step 2, then again in place at step 3; each save also copied aside with its times."""
    root = tmp_path_factory.mktemp("ranks")
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", str(_WRITER), "2", str(root), "2", "3"]
    subprocess.run(command, env=environment, timeout=120, check=True)
    return root


def _prove(path: Path) -> Proof:
    assert format_of(path) is distributed.FORMAT
    return distributed.FORMAT.prove(path)


def _pairs(ours: object, theirs: object, path: str = "") -> Iterator[tuple[str, object, object]]:
    if isinstance(theirs, dict):
        assert isinstance(ours, dict), path
        assert list(ours) == list(theirs) or set(ours) == set(theirs), path
        for key in theirs:
            yield from _pairs(ours[key], theirs[key], f"{path}/{key}")
    elif isinstance(theirs, list):
        assert isinstance(ours, list), path
        for place, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
            yield from _pairs(mine, other, f"{path}/{place}")
    else:
        yield path, ours, theirs


def _assert_equal(directory: Path, full: Path) -> int:
    theirs = torch.load(full, weights_only=False)
    compared = 0
    with open_checkpoint(str(directory)) as opened:
        for path, mine, other in _pairs(opened.tree, theirs):
            if isinstance(other, torch.Tensor):
                assert isinstance(mine, Stored), path
                tensor = opened.tensor(mine)
                assert (tensor.dtype, tensor.shape) == (other.dtype, other.shape), path
                assert torch.equal(tensor.view(torch.uint8).clone() if tensor.ndim else tensor.clone(),
                                   other.view(torch.uint8) if other.ndim else other), path  # fmt: skip
                compared += 1
                del tensor
            elif not isinstance(mine, Opaque):
                assert mine == other, path
    return compared


def test_a_single_process_checkpoint_is_complete_and_equal(single: Path):
    proof = _prove(single)
    assert (proof.state, proof.needs_quiet) == (State.COMPLETE, False)
    assert _assert_equal(single, single.parent / "full.pt") == 9 + 6 * 3 + 1 + 5
    contents = contents_of(distributed.read(single))
    assert next(iter(contents.networks)) == "model"
    assert contents.progress.step == Fact(40, "step")
    assert contents.progress.updates == Fact(4, "optimizer.state.step")
    assert isinstance(distributed.read(single)["args"], Opaque)  # type: ignore[index]


def test_a_state_dict_alone_is_the_network(tmp_path: Path):
    _save({"a.weight": torch.ones(2, 2), "a.bias": torch.ones(2)}, tmp_path / "step_3")
    assert list(contents_of(distributed.read(tmp_path / "step_3")).networks[""]) == ["a.weight", "a.bias"]


@pytest.mark.filterwarnings("ignore")
def test_flattened_optimizers_are_nested_again(tmp_path: Path):
    model, optimizer, _ = trained()
    optimizer.param_groups[0]["params"], last = optimizer.param_groups[0]["params"][:-2], model[-1].parameters()
    optimizer.param_groups.append({**optimizer.param_groups[0], "params": list(last), "lr": 0.5})
    options = StateDictOptions(flatten_optimizer_state_dict=True)
    states = get_optimizer_state_dict(model, optimizer, options=options)
    assert "param_groups" not in states
    _save({"model": model.state_dict(), "optimizer": states, "train_state": {"step": 4, "ntokens_seen": 99}}, tmp_path)
    contents = contents_of(distributed.read(tmp_path))
    (found,) = contents.optimizers
    assert isinstance(found, dict)
    names = list(dict(model.named_parameters()))
    assert set(found["state"]) == set(names)
    assert set(found["state"][names[0]]) == {"step", "exp_avg", "exp_avg_sq"}
    assert [sorted(group["params"]) for group in found["param_groups"]] == [sorted(names[:-2]), sorted(names[-2:])]
    assert found["param_groups"][1]["lr"] == 0.5
    assert contents.progress.updates == Fact(4, "optimizer.state.step")
    assert contents.progress.tokens == Fact(99, "train_state.ntokens_seen")
    with open_checkpoint(str(tmp_path)) as opened:
        mine = opened.tensor(found["state"][names[0]]["exp_avg"]).clone()
    assert torch.equal(mine, states[f"state.{names[0]}.exp_avg"])


def test_what_lightning_keeps_beside_its_shards_is_read(tmp_path: Path):
    model, optimizer, _ = trained()
    _save({"model": model.state_dict(), "optimizer_0": optimizer.state_dict()}, tmp_path)
    beside = {"epoch": 2, "global_step": 4, "pytorch-lightning_version": "2.6", "hyper_parameters": {"width": 8}}
    torch.save(beside, tmp_path / "meta.pt")
    assert _prove(tmp_path).state is State.COMPLETE
    tree = distributed.read(tmp_path)
    assert isinstance(tree, dict)
    assert tree["hyper_parameters"] == {"width": 8}
    contents = contents_of(tree)
    assert list(contents.networks) == ["model"]
    assert contents.progress.step == Fact(4, "global_step")
    assert contents.progress.epoch == Fact(2, "epoch")
    assert contents.progress.lr_stored is not None
    content = (tmp_path / "meta.pt").read_bytes()
    (tmp_path / "meta.pt").write_bytes(content[:-1])
    assert _prove(tmp_path).state is State.PENDING


@pytest.mark.parametrize("step", [2, 3])
def test_two_ranks_are_put_together(two_ranks: Path, step: int):
    directory = two_ranks / f"step_{step}"
    assert _prove(directory) == Proof(State.COMPLETE, "2 files of 31 entries, whole", needs_quiet=False)
    assert _assert_equal(directory, two_ranks / f"full_{step}.pt") == 4 + 3 * 4 + 1
    tree = distributed.read(directory)
    assert isinstance(tree, dict)
    assert isinstance(tree["columns"]["w"], Pieces)
    assert [piece.start for piece in tree["columns"]["w"].pieces] == [(0, 0), (0, 5)]
    assert contents_of(tree).progress.updates == Fact(step, "optimizer.state.step")


def test_nothing_is_held_after_closing(two_ranks: Path):
    with open_checkpoint(str(two_ranks / "step_2")) as opened:
        kept = opened.tensor(opened.networks["model"]["0.weight"])  # put together: its memory is its own
    assert kept.shape == (7, 6)
    with open("/proc/self/maps") as maps:
        assert ".distcp" not in maps.read()


def test_a_directory_filled_file_by_file_is_pending_until_the_last(two_ranks: Path, tmp_path: Path):
    source, target = two_ranks / "step_2", tmp_path / "step_2"
    target.mkdir()
    data = {name: (source / name).read_bytes() for name in (".metadata", "__0_0.distcp", "__1_0.distcp")}
    for order in (list(data), list(data)[::-1]):
        shutil.rmtree(target)
        target.mkdir()
        for name in order:
            for end in (0, 1, len(data[name]) // 3, len(data[name]) - 1):
                (target / name).write_bytes(data[name][:end])
                assert _prove(target).state is State.PENDING, (name, end)
            (target / name).write_bytes(data[name])
        assert _prove(target).state is State.COMPLETE
    (target / "__1_0.distcp").unlink()
    assert _prove(target).reason == "1 of 2 files"
    (target / ".metadata").unlink()
    assert _prove(target).reason == "no .metadata yet, which is written last"


def test_a_copy_that_keeps_no_times_needs_quiet(two_ranks: Path, tmp_path: Path):
    copy = shutil.copytree(two_ranks / "step_2", tmp_path / "copy")
    written = (copy / ".metadata").stat().st_mtime_ns
    for name in ("__0_0.distcp", "__1_0.distcp"):
        os.utime(copy / name, ns=(written + 10**10, written + 10**10))
    assert _prove(copy).needs_quiet
    assert _prove(copy).state is State.COMPLETE
    assert distributed.fingerprint(copy) == distributed.fingerprint(two_ranks / "step_2")


def test_saving_anew_in_place_is_pending_until_the_metadata_fits(two_ranks: Path, tmp_path: Path):
    old, new = two_ranks / "step_2", two_ranks / "step_3"
    live = shutil.copytree(old, tmp_path / "live")
    later = (old / ".metadata").stat().st_mtime_ns + 10**10
    shutil.copy(new / "__0_0.distcp", live)
    os.utime(live / "__0_0.distcp", ns=(later, later))
    proof = _prove(live)  # one rank's shard is the new one, the other's the old one, and both fit
    assert proof.state is State.PENDING
    assert proof.reason.startswith("1 of 2 files are newer than .metadata")
    whole = (new / "__1_0.distcp").read_bytes()
    for end in (0, 100, len(whole) - 1):
        (live / "__1_0.distcp").write_bytes(whole[:end])
        assert _prove(live).state is State.PENDING
    (live / "__1_0.distcp").write_bytes(whole)
    os.utime(live / "__1_0.distcp", ns=(later, later))
    assert _prove(live).needs_quiet
    shutil.copy(new / ".metadata", live / ".metadata")
    os.utime(live / ".metadata", ns=(later, later))
    assert (_prove(live).state, _prove(live).needs_quiet) == (State.COMPLETE, False)
    assert distributed.fingerprint(live) == distributed.fingerprint(new) != distributed.fingerprint(old)


def test_another_layout_under_an_old_metadata_is_pending(single: Path, tmp_path: Path):
    _save({"model": {"other": torch.ones(9000, 3)}}, tmp_path / "other")
    shutil.copy(tmp_path / "other" / "__0_0.distcp", single)
    later = (single / ".metadata").stat().st_mtime_ns + 10**10
    os.utime(single / "__0_0.distcp", ns=(later, later))
    assert _prove(single).state is State.PENDING


def test_random_truncations_are_never_complete(two_ranks: Path, tmp_path: Path):
    live = shutil.copytree(two_ranks / "step_2", tmp_path / "live")
    generator = random.Random(7)
    whole = {name: (live / name).read_bytes() for name in (".metadata", "__0_0.distcp", "__1_0.distcp")}
    for _ in range(150):
        name = generator.choice(list(whole))
        (live / name).write_bytes(whole[name][: generator.randrange(len(whole[name]))])
        assert _prove(live).state is State.PENDING
        (live / name).write_bytes(whole[name])


def test_random_damage_never_raises(two_ranks: Path, tmp_path: Path):
    live = shutil.copytree(two_ranks / "step_2", tmp_path / "live")
    generator = random.Random(8)
    whole = (live / ".metadata").read_bytes()
    states = set()
    for _ in range(200):
        data = bytearray(whole)
        for _ in range(generator.choice((1, 3, 30))):
            data[generator.randrange(len(data))] = generator.randrange(256)
        (live / ".metadata").write_bytes(data)
        states.add(_prove(live).state)
    assert State.BROKEN in states


@pytest.mark.parametrize("name", ["../x.distcp", "/etc/passwd", "a\0b", ""])
def test_shards_outside_the_directory_are_broken(single: Path, name: str):
    with (single / ".metadata").open("rb") as file:
        metadata = pickle.load(file)
    for place in metadata.storage_data.values():
        place.relative_path = name
    (single / ".metadata").write_bytes(pickle.dumps(metadata))
    assert _prove(single).state is State.BROKEN


def test_blocks_that_leave_a_gap_are_broken(two_ranks: Path, tmp_path: Path):
    live = shutil.copytree(two_ranks / "step_2", tmp_path / "live")
    with (live / ".metadata").open("rb") as file:
        metadata = pickle.load(file)
    metadata.state_dict_metadata["model.0.weight"].chunks.pop()
    (live / ".metadata").write_bytes(pickle.dumps(metadata))
    assert _prove(live).state is State.BROKEN
    assert "model.0.weight: 18 of 42 elements are in no piece" in _prove(live).reason


def test_metadata_of_every_rank_for_itself_is_said_not_to_be_read(tmp_path: Path):
    (tmp_path / "__0.metadata").write_bytes(b"x")
    assert _prove(tmp_path).state is State.BROKEN
    assert "collectives" in _prove(tmp_path).reason
