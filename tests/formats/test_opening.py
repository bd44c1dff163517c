import gc
import json
import mmap
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import safetensors.torch
import torch

from sounding.errors import SoundingError
from sounding.opening import Opened, open_checkpoint
from sounding.records import Opaque, TensorRef


def _leaves(tree: object, path: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from _leaves(value, f"{path}/{key}")
    elif isinstance(tree, (list, tuple)):
        for place, value in enumerate(tree):
            yield from _leaves(value, f"{path}/{place}")
    else:
        yield path, tree


def _same(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    kinds = (ours.dtype, ours.shape, ours.stride()) == (theirs.dtype, theirs.shape, theirs.stride())
    return kinds and torch.equal(_bits(ours), _bits(theirs))


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def _mapped(path: Path) -> bool:
    with open("/proc/self/maps") as maps:
        return any(str(path) in line for line in maps)


def test_every_tensor_equals_what_torch_loads(training_file: Path):
    theirs = dict(_leaves(torch.load(training_file, weights_only=False)))
    compared = 0
    with open_checkpoint(str(training_file)) as opened:
        for path, leaf in _leaves(opened.tree):
            if isinstance(leaf, TensorRef):
                expected = theirs[path]
                assert isinstance(expected, torch.Tensor)
                assert _same(opened.tensor(leaf), expected), path
                compared += 1
        del leaf
    wanted = sum(isinstance(leaf, torch.Tensor) for leaf in theirs.values())
    assert compared == wanted > 50


def test_plain_values_equal_what_torch_loads(training_file: Path, training: dict[str, object]):
    with open_checkpoint(str(training_file)) as opened:
        tree = opened.tree
        assert isinstance(tree, dict)
        for key in ("iter_num", "epoch", "best", "counts", "ordered", "set"):
            assert tree[key] == training[key]
        assert tree["window"] == [1.0, 2.0]
        assert tree["default"] == {"a": [1]}
        assert tree["where"] == "/runs/a"
        assert tree["when"] == "2026-01-02T03:04:05"
        assert tree["dtype"] == "torch.bfloat16"
        assert tree["args"] == Opaque("argparse.Namespace", {"lr": 0.1, "nested": {"width": 8}})
        assert tree["config"].state == {"lr": 3e-4, "depth": 12, "name": "small"}


def test_whole_modules_give_the_tensors_of_their_state_dict(tmp_path: Path):
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    model.register_buffer("scratch", torch.zeros(2), persistent=False)
    torch.save(model, tmp_path / "m.pt")
    with open_checkpoint(str(tmp_path / "m.pt")) as opened:
        ours = {name: opened.tensor(ref).clone() for name, ref in opened.networks[""].items()}
    assert set(ours) == set(model.state_dict())
    assert all(torch.equal(ours[name], value) for name, value in model.state_dict().items())


def test_safetensors_equal_what_the_library_loads(safetensors_file: Path):
    theirs = safetensors.torch.load_file(safetensors_file)
    with open_checkpoint(str(safetensors_file)) as opened:
        assert set(opened.networks[""]) == set(theirs)
        for name, ref in opened.networks[""].items():
            assert _same(opened.tensor(ref), theirs[name]), name


def test_safetensors_that_begin_at_odd_bytes(tmp_path: Path):
    path = tmp_path / "odd.safetensors"
    values = torch.tensor([1.5, -2.0])
    header = json.dumps({
        "a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
        "b": {"dtype": "F32", "shape": [2], "data_offsets": [1, 9]},
    }).encode()  # fmt: skip
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\x07" + values.numpy().tobytes())
    with open_checkpoint(str(path)) as opened:
        network = opened.networks[""]
        assert torch.equal(opened.tensor(network["b"]), values)
        assert opened.tensor(network["a"]).tolist() == [7]


@pytest.mark.parametrize(("shards", "safe"), [(1, True), (3, True), (1, False), (3, False)])
def test_trainer_directories_equal_what_was_saved(trainer_directory: Callable[..., Path], shards: int, safe: bool):
    directory = trainer_directory(30, shards, safe=safe)
    theirs = torch.load(directory / "optimizer.pt", weights_only=True)
    with open_checkpoint(str(directory)) as opened:
        assert list(opened.networks) == ["model"]
        assert len(opened.networks["model"]) == 9
        (optimizer,) = opened.optimizers
        assert isinstance(optimizer, dict)
        for place, state in theirs["state"].items():
            for name, value in state.items():
                assert _same(opened.tensor(optimizer["state"][place][name]), value)


def test_tied_weights_stay_tied(tmp_path: Path):
    weight = torch.randn(4, 4)
    torch.save({"embed": weight, "head": weight, "row": weight[2]}, tmp_path / "tied.pt")
    with open_checkpoint(str(tmp_path / "tied.pt")) as opened:
        parts = {name: opened.tensor(ref) for name, ref in opened.networks[""].items()}
        assert parts["embed"].data_ptr() == parts["head"].data_ptr()
        assert parts["row"].data_ptr() == parts["embed"].data_ptr() + 2 * 4 * 4
        parts["head"][2, 0] = 100.0
        assert parts["row"][0] == 100.0
        parts.clear()


def test_writing_to_a_tensor_never_reaches_the_file(tmp_path: Path):
    path = tmp_path / "a.pt"
    torch.save({"w": torch.zeros(1000)}, path)
    before = path.read_bytes()
    with open_checkpoint(str(path)) as opened:
        opened.tensor(opened.networks[""]["w"]).fill_(3.0)
    assert path.read_bytes() == before
    with open_checkpoint(str(path)) as opened:
        assert opened.tensor(opened.networks[""]["w"]).abs().sum() == 0


def test_no_mapping_and_no_handle_outlive_the_checkpoint(training_file: Path):
    with open_checkpoint(str(training_file)) as opened:
        for ref in opened.networks["model"].values():
            opened.tensor(ref).sum()
        assert _mapped(training_file)
    assert not _mapped(training_file)
    assert str(training_file) not in [file.path for file in psutil.Process().open_files()]


def test_a_tensor_in_use_is_named_and_stays_readable(training_file: Path):
    opened = open_checkpoint(str(training_file))
    kept = opened.tensor(opened.networks["model"]["0.weight"])
    copy = kept.clone()
    with pytest.raises(SoundingError, match=r"0\.weight.*clone"):
        opened.close()
    assert torch.equal(kept, copy)
    with pytest.raises(SoundingError, match=r"0\.weight"):  # and it does not forget
        opened.close()
    del kept
    opened.close()
    assert not _mapped(training_file)


def test_a_tensor_held_by_a_cycle_is_collected(training_file: Path):
    opened = open_checkpoint(str(training_file))
    cycle: dict[str, object] = {"tensor": opened.tensor(opened.networks["model"]["0.weight"])}
    cycle["self"] = cycle
    del cycle
    opened.close()
    assert not _mapped(training_file)


def test_an_error_under_way_is_not_replaced_by_the_release(training_file: Path):
    def fail() -> None:
        with open_checkpoint(str(training_file)) as opened:
            kept = opened.tensor(opened.networks["model"]["0.weight"])
            raise ZeroDivisionError(kept.shape)

    with pytest.raises(ZeroDivisionError):
        fail()


def test_opening_and_touching_adds_no_anonymous_memory(tmp_path: Path):
    path = tmp_path / "large.pt"
    torch.save({f"w{i}": torch.ones(1 << 20) for i in range(16)}, path)  # 64 MB
    gc.collect()

    def anonymous() -> int:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) * 1024

    before = anonymous()
    with open_checkpoint(str(path)) as opened:
        total = sum(float(opened.tensor(ref).sum()) for ref in opened.networks[""].values())
        grown = anonymous() - before
    assert total == 16 * (1 << 20)
    assert grown < 8_000_000


def test_a_file_cut_after_it_was_read_is_refused(tmp_path: Path):
    path = tmp_path / "cut.pt"
    torch.save({"w": torch.ones(100_000)}, path)
    with open_checkpoint(str(path)) as opened:
        ref = opened.networks[""]["w"]
        with path.open("r+b") as file:
            file.truncate(mmap.PAGESIZE)
        with pytest.raises(SoundingError, match="shorter"):
            opened.tensor(ref)


def test_what_cannot_be_opened_says_why(tmp_path: Path):
    with pytest.raises(SoundingError, match="gone"):
        open_checkpoint(str(tmp_path / "nothing.pt"))
    half = tmp_path / "half.pt"
    half.write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(SoundingError, match=r"not whole.*central directory"):
        open_checkpoint(str(half))
    (tmp_path / "x.pt").write_bytes(b"nonsense" * 20)
    with pytest.raises(SoundingError, match="neither a zip"):
        open_checkpoint(str(tmp_path / "x.pt"))


def test_wrappers_are_said(tmp_path: Path):
    state = {f"module._orig_mod.{name}": value for name, value in torch.nn.Linear(2, 2).state_dict().items()}
    torch.save({"state_dict": state, "global_step": 3}, tmp_path / "w.ckpt")
    with open_checkpoint(str(tmp_path / "w.ckpt")) as opened:
        assert isinstance(opened, Opened)
        assert list(opened.networks["state_dict"]) == ["weight", "bias"]
        assert opened.wrappers == ("taken from state_dict", "removed _orig_mod.", "removed module.")
