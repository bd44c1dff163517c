from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from sounding.formats import format_of, torch_zip
from sounding.records import Fact, Opaque, State, TensorRef
from sounding.seeing.contents import Contents, contents_of

_Saved = Callable[[object], Contents]


def _ref(*shape: int, dtype: str = "float32") -> TensorRef:
    return TensorRef("/store/a.pt", 0, 4096, dtype, shape, (1,) * len(shape), 0)


def _state(*names: str) -> dict[str, TensorRef]:
    return {name: _ref(2) for name in names}


@pytest.fixture
def saved(tmp_path: Path) -> _Saved:
    """Saves a tree with torch and reads its contents back."""

    def contents(tree: object) -> Contents:
        torch.save(tree, tmp_path / "ckpt.pt")
        return contents_of(torch_zip.read(tmp_path / "ckpt.pt"))

    return contents


def test_a_state_dict_at_the_top_is_the_network():
    contents = contents_of(_state("w", "b"))
    assert list(contents.networks) == [""]
    assert contents.wrappers == ()
    assert contents.optimizers == ()


@pytest.mark.parametrize(
    "key", ["model", "state_dict", "model_state_dict", "net", "network", "module", "params", "anything"]
)
def test_a_network_is_found_under_its_key(key: str):
    contents = contents_of({"rng_state": _ref(5056, dtype="uint8"), key: _state("w", "b"), "epoch": 1})
    assert list(contents.networks) == [key]
    assert contents.wrappers == (f"taken from {key}",)


def test_several_networks_are_listed_the_default_first():
    tree = {"model_ema": _state("w"), "discriminator": _state("w"), "ema": {"decay": 0.9, "shadow": _state("w")},
            "models": {"a": _state("w")}, "model": _state("w")}  # fmt: skip
    assert list(contents_of(tree).networks) == ["model", "ema.shadow", "model_ema", "discriminator", "models.a"]


def test_states_of_other_things_are_no_networks():
    adam = {"state": {0: {"exp_avg": _ref(2), "exp_avg_sq": _ref(2), "step": 3}}, "param_groups": [{"lr": 0.1}]}
    tree = {"model": _state("w"), "optimizer": adam, "scheduler": _state("x"), "rng": {"cpu": _ref(9, dtype="uint8")},
            "scaler": _state("s"), "lr_schedulers": [{"last_epoch": 1}]}  # fmt: skip
    contents = contents_of(tree)
    assert list(contents.networks) == ["model"]
    assert contents.optimizers == (adam,)


def test_tensors_beside_numbers_at_the_top_are_a_network():
    contents = contents_of({"w": _ref(2, 2), "b": _ref(2), "step": 5, "count": _ref()})
    assert list(contents.networks[""]) == ["w", "b"]
    assert contents.progress.step == Fact(5, "step")


def test_extra_state_and_notes_do_not_hide_a_network():
    assert contents_of(_state("w") | {"layer._extra_state": {"a": 1}, "__metadata__": {"step": "7"}}).networks[""]


def test_nothing_is_found_where_there_is_nothing():
    for tree in ({}, None, 5, [], {"model": {}}, {"a": {"b": {"c": {"d": _state("w")}}}}):
        assert contents_of(tree).networks == {}


@pytest.mark.parametrize(
    ("names", "unwrapped", "words"),
    [
        (("module.a.w", "module.b.w"), ["a.w", "b.w"], ["removed module."]),
        (("module.a.w", "b.w"), ["module.a.w", "b.w"], []),
        (("a._orig_mod.w", "b.w"), ["a.w", "b.w"], ["removed _orig_mod."]),
        (("_orig_mod.module.w", "_orig_mod.module.b"), ["w", "b"], ["removed _orig_mod.", "removed module."]),
        (("_forward_module.model.w",), ["w"], ["removed _forward_module.", "removed model."]),
        (("model.w", "model.b"), ["w", "b"], ["removed model."]),
        (("model.w", "head.w"), ["model.w", "head.w"], []),
        (("a.w", "a._orig_mod.w"), ["a.w", "a._orig_mod.w"], []),  # two names would become one
        (("a.module.w", "a.module.b"), ["a.module.w", "a.module.b"], []),  # a layer that is called module
    ],
)
def test_wrappers_are_removed_and_said(names: tuple[str, ...], unwrapped: list[str], words: list[str]):
    contents = contents_of({"state_dict": _state(*names)})
    assert list(contents.networks["state_dict"]) == unwrapped
    assert list(contents.wrappers) == ["taken from state_dict", *words]


def test_averaged_models_lose_their_count(saved: _Saved):
    average = torch.optim.swa_utils.AveragedModel(torch.nn.Linear(2, 2))
    contents = saved({"model": average.state_dict()})
    assert list(contents.networks["model"]) == ["weight", "bias"]
    assert "left out n_averaged" in contents.wrappers


def test_names_that_a_library_saved_are_kept(trainer_directory: Callable[..., Path], safetensors_file: Path):
    for path in (trainer_directory(30), safetensors_file):
        kind = format_of(path)
        assert kind is not None
        assert kind.own_names
    assert not torch_zip.FORMAT.own_names
    contents = contents_of({"model": _state("model.w", "model.b"), "config": {}}, own_names=True)
    assert list(contents.networks["model"]) == ["model.w", "model.b"]


def _special() -> dict[str, tuple[object, str]]:
    ragged = [torch.ones(2), torch.ones(3)]
    scales, zeros = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0, 1, 2])
    return {
        "sparse": (torch.eye(3).to_sparse(), "a sparse tensor, which is not read"),
        "rows": (torch.eye(3).to_sparse_csr(), "a sparse tensor, which is not read"),
        "ragged": (torch.nested.nested_tensor(ragged), "a nested tensor, which is not read"),
        "jagged": (torch.nested.nested_tensor(ragged, layout=torch.jagged), "a nested tensor, which is not read"),
        "quantized": (torch.quantize_per_tensor(torch.randn(3, 4), 0.1, 2, torch.qint8),
                      "a quantized tensor, which is not read"),
        "by_row": (torch.quantize_per_channel(torch.randn(3, 4), scales, zeros, 0, torch.quint8),
                   "a quantized tensor, which is not read"),
        "packed": (torch.quantize_per_channel(torch.randn(3, 4), scales, zeros.float(), 0, torch.quint4x2),
                   "a quantized tensor, which is not read"),
        "nowhere": (torch.empty(3, device="meta"), "a tensor without values, on the meta device, which is not read"),
        "conjugate": (torch.ones(2, dtype=torch.complex64).conj(),
                      "a conjugated or negated view of another tensor, which is not read"),
        "negative": (torch.ones(2, dtype=torch.complex64).conj().imag,
                     "a conjugated or negated view of another tensor, which is not read"),
        "four_bits": (torch.zeros(8, dtype=torch.uint8).view(torch.float4_e2m1fn_x2),
                      "of type float4_e2m1fn_x2, which is not read"),
        "bits": (torch.zeros(8, dtype=torch.uint8).view(torch.bits8), "of type bits8, which is not read"),
        "updates": (5, "a number, no tensor"),
    }  # fmt: skip


@pytest.mark.filterwarnings("ignore")  # of torch's prototypes, while they are made
@pytest.mark.parametrize("legacy", [False, True])
def test_special_tensors_and_numbers_are_left_out_each_by_its_name(tmp_path: Path, legacy: bool):
    special = _special()
    state = {f"module.w{i}": torch.ones(2) for i in range(9)}
    state |= {f"module.{name}": value for name, (value, _) in special.items() if not (legacy and name == "ragged")}
    path = tmp_path / "ckpt.pt"
    torch.save({"state_dict": state}, path, _use_new_zipfile_serialization=not legacy)
    kind = format_of(path)
    assert kind is not None
    assert kind.prove(path).state is State.COMPLETE
    contents = contents_of(kind.read(path))
    assert len(contents.networks["state_dict"]) == 9
    expected = {name: why for name, (_, why) in special.items() if not (legacy and name == "ragged")}
    assert contents.left_out["state_dict"] == expected
    assert contents.wrappers == ("taken from state_dict", "removed module.")


def test_a_network_of_nothing_but_special_tensors_is_one(saved: _Saved):
    contents = saved({"model": {"a": torch.eye(3).to_sparse(), "b": torch.eye(3).to_sparse()}})
    assert contents.networks == {"model": {}}
    assert set(contents.left_out["model"]) == {"a", "b"}


def test_special_buffers_of_a_whole_module_are_named(saved: _Saved):
    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    model[0].register_buffer("mask", torch.eye(2).to_sparse())
    model[0].register_buffer("scratch", torch.eye(2).to_sparse(), persistent=False)
    contents = saved({"model": model})
    assert list(contents.networks["model"]) == ["0.weight", "0.bias"]
    assert contents.left_out["model"] == {"0.mask": "a sparse tensor, which is not read"}


def test_types_that_safetensors_has_and_torch_has_not_are_named(tmp_path: Path):
    header = (
        b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"q":{"dtype":"F4","shape":[4],"data_offsets":[4,6]}}'
    )
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(6))
    kind = format_of(path)
    assert kind is not None
    contents = contents_of(kind.read(path), own_names=True)
    assert list(contents.networks[""]) == ["w"]
    assert contents.left_out[""] == {"q": "of type F4, which is not read"}


def test_metrics_and_losses_are_no_networks():
    tree = {"model": _state("w"), "best": {"accuracy": _ref()}, "losses": {"train": _ref(100)}}
    assert list(contents_of(tree).networks) == ["model"]


def test_an_average_kept_by_a_foreign_object_is_found():
    tree = {"model": _state("w"), "ema": Opaque("app.Average", {"decay": 0.9, "shadow": _state("w")})}
    assert list(contents_of(tree).networks) == ["model", "ema.shadow"]


def test_a_state_that_holds_everything_one_level_down():
    adam = {"state": {}, "param_groups": [{"lr": 0.5, "step": 8}]}
    contents = contents_of({"app": {"model": _state("w"), "optimizer": adam}})
    assert list(contents.networks) == ["app.model"]
    assert contents.optimizers == (adam,)
    assert contents.progress.updates == Fact(8, "optimizer.param_groups.step")


def test_whole_modules_are_networks(saved: _Saved):
    inner = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    contents = saved({"model": torch.nn.Sequential(inner, torch.nn.Linear(3, 1)), "epoch": 3})
    names = contents.networks["model"]
    assert list(names)[:2] == ["0.0.weight", "0.0.bias"]
    assert "0.1.running_mean" in names
    assert len(names) == 9


@pytest.mark.parametrize("key", ["optimizer", "optimizer_state_dict", "optim", "opt"])
def test_the_optimizer_is_found(saved: _Saved, key: str):
    optimizer = torch.optim.SGD(torch.nn.Linear(2, 2).parameters(), lr=0.25, momentum=0.9)
    contents = saved({"model": {"w": torch.ones(2)}, key: optimizer.state_dict()})
    assert contents.progress.lr_stored == Fact(0.25, "optimizer.param_groups[0].lr")


def test_lightning_and_pickled_optimizers_are_found(saved: _Saved):
    optimizer = torch.optim.Adam(torch.nn.Linear(2, 2).parameters(), lr=0.25)
    for stored in ({"optimizer_states": [optimizer.state_dict()]}, {"optimizer": optimizer}):
        contents = saved({"state_dict": {"w": torch.ones(2)}, **stored})
        assert contents.progress.lr_stored == Fact(0.25, "optimizer.param_groups[0].lr")


def test_progress_of_a_small_trainer(training_file: Path):
    progress = contents_of(torch_zip.read(training_file)).progress
    assert progress.step == Fact(4, "iter_num")
    assert progress.updates == Fact(4, "iter_num")
    assert progress.epoch == Fact(2, "epoch")  # a numpy integer
    assert progress.lr_stored is not None
    assert progress.lr_stored.value == pytest.approx(0.05 * (1 + np.cos(np.pi * 4 / 10)), rel=1e-12)  # the cosine
    assert progress.lr_last is None


def test_updates_come_from_adam_when_nothing_else_tells(saved: _Saved):
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.Adam(model.parameters())
    for _ in range(7):
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
    progress = saved({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3}).progress
    assert progress.updates == Fact(7, "optimizer.state.step")
    assert progress.step == Fact(3, "epoch")


@pytest.mark.parametrize(
    ("tree", "source", "value"),
    [
        ({"step": 5, "global_step": 9}, "global_step", 9),
        ({"epoch": 5, "it": 9}, "it", 9),
        ({"epoch": 5}, "epoch", 5),
        ({"step": torch.tensor(12)}, "step", 12),
        ({"step": torch.tensor([12], dtype=torch.int32)}, "step", 12),
        ({"step": np.int32(12)}, "step", 12),
        ({"step": 12.0}, "step", 12),
        ({"step": True, "epoch": 2}, "epoch", 2),
        ({"step": float("nan"), "epoch": 2}, "epoch", 2),
        ({"meta": {"iter": 8}}, "meta.iter", 8),
        ({"train_state": {"step": torch.tensor(3.0, dtype=torch.bfloat16)}}, "train_state.step", 3),
    ],
)
def test_the_step_inside(saved: _Saved, tree: dict[str, object], source: str, value: int):
    assert saved({"model": {"w": torch.ones(2)}, **tree}).progress.step == Fact(value, source)


def test_fractions_are_no_steps(saved: _Saved):
    progress = saved({"model": {"w": torch.ones(2)}, "epoch": 1.5}).progress
    assert progress.step is None
    assert progress.epoch == Fact(1.5, "epoch")


def test_other_counters(saved: _Saved):
    tree = {"model": {"w": torch.ones(2)}, "tokens_seen": 10**12, "samples": torch.tensor(640), "wall_time": 12.5}
    progress = saved(tree).progress
    assert progress.tokens == Fact(10**12, "tokens_seen")
    assert progress.examples == Fact(640, "samples")
    assert progress.wall_time == Fact(12.5, "wall_time")


def _logged(rates: list[tuple[int, float]], stored: float, step: int = 30) -> Fact | None:
    log = [{"step": at, "learning_rate": rate} for at, rate in rates]
    tree = {
        "model": _state("w"),
        "optimizer": {"param_groups": [{"lr": stored}], "state": {}},
        "trainer_state": {"global_step": step, "log_history": [*log, {"step": step, "eval_loss": 1.0}]},
    }
    return contents_of(tree).progress.lr_last


def test_the_last_rate_is_taken_from_the_log_only_where_it_is_certain():
    source = "trainer_state.log_history[-1].learning_rate"
    assert _logged([(20, 0.3), (30, 0.2)], stored=0.1) == Fact(0.2, source)  # logged before the scheduler's step
    assert _logged([(20, 0.2), (30, 0.1)], stored=0.1) is None  # an older Trainer: this is the next rate
    assert _logged([(20, 0.1), (30, 0.1)], stored=0.1) == Fact(0.1, source)  # the schedule stands still
    assert _logged([(20, 0.3)], stored=0.1) is None  # logged too early
    assert _logged([], stored=0.1) is None


def test_progress_of_a_trainer_directory(trainer_directory: Callable[..., Path]):
    directory = trainer_directory(30)
    kind = format_of(directory)
    assert kind is not None
    progress = contents_of(kind.read(directory)).progress
    assert progress.step == Fact(30, "trainer_state.global_step")
    assert progress.updates == Fact(30, "trainer_state.global_step")
    assert progress.epoch == Fact(1.5, "trainer_state.epoch")
    assert progress.tokens is None  # the Trainer writes 0 when it does not count
    assert progress.lr_stored is not None


def test_hostile_values_where_numbers_are_expected_say_nothing():
    odd: list[object] = ["x", [], {}, Opaque("a", None), None, "9" * 5000, 10**400, _ref(3), float("inf")]
    for value in odd:
        tree = {"model": _state("w"), "step": value, "epoch": value, "tokens": value, "trainer_state": value,
                "optimizer": {"param_groups": value, "state": value}}  # fmt: skip
        progress = contents_of(tree).progress
        assert progress.epoch is None, value
        assert progress.lr_stored is None, value
