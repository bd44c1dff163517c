"""Optimizers' states as their own code writes them: recognised, and given to the right weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from sounding import Unavailable
from sounding.opening import Opened, open_checkpoint
from sounding.passes import Optimizer
from sounding.passes.optimizer import optimizer
from sounding.passes.recognition import is_decoupled, recognise
from sounding.passes.weights import Weights, weights
from sounding.records import Stored

IN_ORDER = "by the order of the weights"
ONLY_WAY = "by the only way to deal the weights out, in order, that fits the shapes"


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def stepped(model: Any, optimizer: Any):
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.randn(5, 3)).square().sum().backward()
        optimizer.step()
    return optimizer


@contextmanager
def reopened(path: Path, tree: Mapping[str, Any]) -> Iterator[Optimizer]:
    """What the pass makes of a saved tree, while the file is open."""
    torch.save(dict(tree), path)
    with open_checkpoint(str(path)) as opened:
        holder = [optimizer(opened, weights(opened, ""))]  # the caller's name for it must not outlive the file
        yield holder[0]
        holder.clear()


def kept(model: Any, optimizer: Any) -> dict[str, Any]:
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict()}


@pytest.mark.parametrize(
    ("make", "name", "decoupled"),
    [
        (lambda p: torch.optim.SGD(p, lr=0.1), "sgd", False),
        (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True), "sgd", False),
        (lambda p: torch.optim.Adam(p, lr=0.1, amsgrad=True), "adam", False),
        (lambda p: torch.optim.AdamW(p, lr=0.1), "adamw", True),
        (lambda p: torch.optim.Adafactor(p, lr=0.1), "adafactor", True),
        (lambda p: torch.optim.NAdam(p, lr=0.1), "nadam", False),
        (lambda p: torch.optim.RAdam(p, lr=0.1, decoupled_weight_decay=True), "radam", True),
        (lambda p: torch.optim.Adamax(p, lr=0.1), "adamax", False),
        (lambda p: torch.optim.RMSprop(p, lr=0.1, momentum=0.9), "rmsprop", False),
        (lambda p: torch.optim.Adagrad(p, lr=0.1), "adagrad", False),
        (lambda p: torch.optim.Adadelta(p, lr=0.1), "adadelta", False),
        (lambda p: torch.optim.Muon([each for each in p if each.ndim == 2], lr=0.1), "muon", True),
        (lambda p: torch.optim.ASGD(p, lr=0.1), "unknown", None),
    ],
)
def test_torchs_own_are_recognised_and_their_state_finds_its_weights(
    tmp_path: Path, make: Any, name: str, decoupled: bool | None
):
    model = network()
    theirs = stepped(model, make(list(model.parameters())))
    with reopened(tmp_path / "a.pt", kept(model, theirs)) as found:
        assert (found.name, found.groups[0].kind, found.groups[0].decoupled) == (name, name, decoupled)
        assert found.groups[0].learning_rate == 0.1
        trained = [each for group in theirs.param_groups for each in group["params"]]
        names = {label: each for label, each in model.named_parameters() if any(each is one for one in trained)}
        assert found.groups[0].parameters == tuple(names)
        for label, parameter in names.items():
            for key, value in theirs.state[parameter].items():
                if isinstance(value, torch.Tensor):
                    assert torch.equal(found.state[label][key], value), (label, key)
        del found


SHAPE = (4, 3)
HALVES = {"lr": 0.1, "weight_decay": 0.0}
BETAS = {**HALVES, "betas": (0.9, 0.99), "eps": 1e-8}
# Layouts of optimizers that torch does not bring, as their published code writes them.
OTHERS = {
    "lion": (["exp_avg"], {**HALVES, "betas": (0.9, 0.99)}),
    "muon": (["momentum_buffer"], {**HALVES, "momentum": 0.95}),
    "muon ": (["momentum_buffer"], {**HALVES, "momentum": 0.95, "use_muon": True, "initial_lr": 0.1}),
    "soap": (
        ["exp_avg", "exp_avg_sq", "GG", "Q"],
        {**BETAS, "shampoo_beta": -1, "precondition_frequency": 10, "max_precond_dim": 10000},
    ),
    "shampoo": (
        ["momentum_buffer", "precond_0", "inv_precond_0", "precond_1", "inv_precond_1"],
        {**HALVES, "momentum": 0.9, "epsilon": 1e-4, "update_freq": 1},
    ),
    "adan": (
        ["exp_avg", "exp_avg_sq", "exp_avg_diff", "neg_pre_grad"],
        {**HALVES, "betas": (0.98, 0.92, 0.99), "no_prox": False, "max_grad_norm": 0.0},
    ),
    "adafactor": (
        ["exp_avg_sq_row", "exp_avg_sq_col", "RMS"],
        {**HALVES, "eps": (1e-30, 1e-3), "decay_rate": -0.8, "clip_threshold": 1.0, "relative_step": False},
    ),
    "adamp": (["exp_avg", "exp_avg_sq"], {**BETAS, "delta": 0.1, "wd_ratio": 0.1, "nesterov": False}),
    "lamb": (["exp_avg", "exp_avg_sq"], {**BETAS, "grad_averaging": True, "max_grad_norm": 1.0}),
    "adamw": (["exp_avg", "exp_avg_sq"], {**BETAS, "correct_bias": True}),
    "adam or adamw": (["exp_avg", "exp_avg_sq"], {**BETAS, "amsgrad": False}),
    "unknown": (["exp_avg", "exp_avg_var"], BETAS),
    # As timm and pytorch_optimizer write them.
    "shampoo ": (
        ["momentum_buffer", "pre_cond_0", "inv_pre_cond_0", "pre_cond_1", "inv_pre_cond_1"],
        {**HALVES, "momentum": 0.0, "weight_decouple": False, "fixed_decay": False, "matrix_eps": 1e-6},
    ),
    "sgdw": (
        ["momentum_buffer"],
        {**HALVES, "momentum": 0.9, "dampening": 0.0, "nesterov": False, "corrected_weight_decay": False},
    ),
    "sgdp": (["momentum"], {**HALVES, "momentum": 0.9, "dampening": 0.0, "delta": 0.1, "wd_ratio": 0.1}),
    "lars": (["momentum_buffer"], {**HALVES, "momentum": 0.9, "dampening": 0.0, "trust_coeff": 0.001}),
    "lion ": (["exp_avg"], {**HALVES, "betas": (0.9, 0.99), "weight_decouple": True, "fixed_decay": False}),
    "mars": (["exp_avg", "exp_avg_sq", "last_grad"], {**BETAS, "gamma": 0.025}),
    "adopt": (["exp_avg", "exp_avg_sq"], {**BETAS, "clip_exp": 0.333, "decoupled": False}),
    "adafactor ": (["exp_avg", "exp_avg_sq"], {**HALVES, "beta2_cap": 0.999, "clipping_threshold": 1.0}),
}
FORMS = {
    "GG": [torch.ones(4, 4), torch.ones(3, 3)], "Q": [torch.eye(4), torch.eye(3)], "RMS": 0.5,
    **{f"{inverse}pre_cond_{at}": torch.eye(4 - at) for at in (0, 1) for inverse in ("", "inv_")},
    "precond_0": torch.eye(4), "inv_precond_0": torch.eye(4), "precond_1": torch.eye(3), "inv_precond_1": torch.eye(3),
    "exp_avg_sq_row": torch.ones(4), "exp_avg_sq_col": torch.ones(3),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_others_are_recognised_by_their_keys(tmp_path: Path, name: str):
    keys, settings = OTHERS[name]
    values = {key: FORMS.get(key, torch.full(SHAPE, float(place))) for place, key in enumerate(keys, 1)}
    tree = {"state": {0: {"step": 5, **values}}, "param_groups": [{**settings, "params": [0]}]}
    if "muon" in name:
        del tree["state"][0]["step"]
    with reopened(
        tmp_path / "a.pt", {"model": {"w": torch.ones(SHAPE), "b": torch.ones(4)}, "optimizer": tree}
    ) as found:
        assert found.name == name.strip()
        assert found.groups[0].parameters == ("w",)
        assert list(found.raw) == [0]
        assert torch.equal(torch.as_tensor(found.state["w"][keys[0]]), torch.as_tensor(values[keys[0]]))
        if "GG" in keys:
            assert [tuple(each.shape) for each in found.state["w"]["GG"]] == [(4, 4), (3, 3)]
        del found


def test_settings_are_mapped_to_each_weight(tmp_path: Path):
    model = network()
    groups = [
        {"params": [model[0].weight, model[2].weight], "weight_decay": 0.5},
        {"params": [model[0].bias, *model[1].parameters(), model[2].bias], "weight_decay": 0.0, "lr": 0.01},
    ]
    adam = stepped(model, torch.optim.AdamW(groups, lr=0.25, betas=(0.8, 0.9), eps=1e-6))
    with reopened(tmp_path / "a.pt", kept(model, adam)) as found:
        assert found.mapping == "by order, matrices in the first group and vectors in the second"
        told = {
            name: (each.learning_rate, each.weight_decay, each.betas, each.epsilon)
            for name, _ in model.named_parameters()
            if (each := found.group_of(name)) is not None
        }
        assert set(told) == {name for name, _ in model.named_parameters()}
        assert told["2.weight"] == (0.25, 0.5, (0.8, 0.9), 1e-6)
        assert told["1.bias"] == (0.01, 0.0, (0.8, 0.9), 1e-6)
        moments: Any = found.first_moment("0.weight"), found.second_moment("0.weight")
        assert torch.equal(moments[0], adam.state[model[0].weight]["exp_avg"])
        assert torch.equal(moments[1], adam.state[model[0].weight]["exp_avg_sq"])
        del moments
        assert found.first_moment("nothing") is None
        del found


def test_a_learning_rate_stored_as_a_tensor_is_a_number(tmp_path: Path):
    model = network()
    adam = stepped(model, torch.optim.AdamW(model.parameters(), lr=torch.tensor(0.25), foreach=False))
    with reopened(tmp_path / "a.pt", kept(model, adam)) as found:
        assert found.groups[0].learning_rate == 0.25
        del found


def test_state_by_the_names_that_torch_stored(tmp_path: Path):
    model = network()
    adam = stepped(model, torch.optim.AdamW(list(model.named_parameters())[::-1], lr=0.1))
    with reopened(tmp_path / "a.pt", kept(model, adam)) as found:
        assert found.mapping == "by the names stored in the parameter groups"
        assert torch.equal(found.state["1.bias"]["exp_avg"], adam.state[model[1].bias]["exp_avg"])
        del found


def transformer() -> Any:
    """Repeated blocks, as many of one shape, with an embedding first and a head last."""
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3)) for _ in range(3)]
    return nn.Sequential(nn.Linear(3, 3, bias=False), *blocks, nn.Linear(3, 2))


def test_two_optimizers_and_a_frozen_weight_are_told_apart_by_shapes_alone(tmp_path: Path):
    """Hidden matrices go to Muon, the rest to AdamW, the first matrix to nobody; only one way to deal fits."""
    model = transformer()
    model[0].weight.requires_grad_(False)
    model[0].weight.data = torch.randn(3, 3)
    hidden = [each[0].weight for each in model[1:4]]
    rest = [each for each in model.parameters() if each.requires_grad and not any(each is one for one in hidden)]
    muon = stepped(model, torch.optim.Muon(hidden, lr=0.1))
    adam = stepped(model, torch.optim.AdamW(rest, lr=0.01))
    tree = {"model": model.state_dict(), "optimizer1": muon.state_dict(), "optimizer2": adam.state_dict()}
    with reopened(tmp_path / "a.pt", tree) as found:
        assert found.name == "muon + adamw"
        assert found.mapping.startswith("by shape")  # the frozen matrix could be any of the four
        assert found.groups[0].parameters == ()
        assert "4.weight" in found.groups[1].parameters
        del found
    del tree["model"]["0.weight"]  # without it
    with reopened(tmp_path / "a.pt", tree) as found:
        assert found.mapping == ONLY_WAY
        assert found.groups[0].parameters == ("1.0.weight", "2.0.weight", "3.0.weight")
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                owner = muon if any(parameter is each for each in hidden) else adam
                key = "momentum_buffer" if owner is muon else "exp_avg"
                assert torch.equal(found.state[name][key], owner.state[parameter][key]), name
        del found


def test_a_muon_that_keeps_an_adamw_in_the_same_group_is_two_groups(tmp_path: Path):
    settings = {"lr": 0.02, "wd": 0.1, "momentum": 0.95, "ns_steps": 5, "adamw_betas": (0.95, 0.9), "adamw_eps": 1e-8}
    state = {
        0: {"momentum_buffer": torch.ones(4, 3), "use_muon": True},
        1: {"moment1": torch.ones(4), "moment2": torch.ones(4), "step": 3, "use_muon": False},
    }
    tree = {"state": state, "param_groups": [{**settings, "params": [0, 1]}]}
    with reopened(
        tmp_path / "a.pt", {"model": {"w": torch.ones(4, 3), "b": torch.ones(4)}, "optimizer": tree}
    ) as found:
        assert found.name == "muon + adamw"
        muon, adamw = found.groups
        assert (muon.parameters, muon.betas, muon.momentum, muon.weight_decay) == (("w",), (), 0.95, 0.1)
        assert (adamw.parameters, adamw.betas, adamw.weight_decay) == (("b",), (0.95, 0.9), 0.1)
        del found


def test_an_order_that_fits_no_shapes_is_not_guessed(tmp_path: Path):
    model = network()
    adam = stepped(model, torch.optim.AdamW(list(model.parameters())[::-1], lr=0.1))
    with reopened(tmp_path / "a.pt", kept(model, adam)) as found:
        assert dict(found.state).keys() == {"0.weight", "2.weight", "2.bias"}  # the only ones of their shapes
        assert torch.equal(found.state["2.bias"]["exp_avg"], adam.state[model[2].bias]["exp_avg"])
        assert len(found.raw) == 6
        del found


def test_groups_without_any_state_are_not_dealt_out_by_order(tmp_path: Path):
    """SGD without momentum keeps nothing that has a shape; decay is on the matrices, which do not come last."""
    model = network()
    vectors = [each for each in model.parameters() if each.ndim < 2]
    matrices = [each for each in model.parameters() if each.ndim > 1]
    groups: Any = [{"params": vectors, "weight_decay": 0.0}, {"params": matrices, "weight_decay": 0.1}]
    with reopened(tmp_path / "a.pt", kept(model, stepped(model, torch.optim.SGD(groups, lr=0.1)))) as found:
        assert [group.parameters for group in found.groups] == [(), ()]
        del found
    alone = stepped(model, torch.optim.SGD(model.parameters(), lr=0.1))
    with reopened(tmp_path / "b.pt", kept(model, alone)) as found:
        assert len(found.groups[0].parameters) == 6, "of one group the order does not matter"
        del found


def test_sorted_names_are_no_order(tmp_path: Path):
    """A safetensors file sorts its names: key before query, though the network has them the other way round."""
    shapes = {"key.weight": (3, 3), "query.weight": (3, 3), "out.weight": (2, 3)}
    save_file({name: torch.ones(shape) for name, shape in shapes.items()}, tmp_path / "model.safetensors")
    real = {name: nn.Parameter(torch.ones(shapes[name])) for name in ("query.weight", "key.weight", "out.weight")}
    adam = torch.optim.AdamW(real.values(), lr=0.1)
    for scale, parameter in enumerate(real.values(), 1):
        parameter.grad = torch.full_like(parameter, float(scale))
    adam.step()
    tree = adam.state_dict()
    with open_checkpoint(str(tmp_path / "model.safetensors")) as opened:
        opened.optimizers = (tree,)
        found = optimizer(opened, weights(opened, ""))
        assert found.mapping.startswith("by shape")
        assert set(found.state) == {"out.weight"}
        assert set(found.groups[0].parameters) == set(shapes)  # one group has all of each shape: settings are certain
        del found


def test_nothing_of_the_state_is_mapped_before_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model = network()
    adam = stepped(model, torch.optim.AdamW(model.parameters(), lr=0.1))
    touched: list[Stored] = []
    original = Opened.tensor

    def watched(self: Opened, ref: Stored) -> torch.Tensor:
        touched.append(ref)
        return original(self, ref)

    monkeypatch.setattr(Opened, "tensor", watched)
    with reopened(tmp_path / "a.pt", kept(model, adam)) as found:
        assert found.mapping == IN_ORDER
        assert touched == []
        assert found.first_moment("2.weight") is not None
        assert len(touched) == 1
        del found


def test_without_an_optimizer_its_users_are_skipped(tmp_path: Path):
    with pytest.raises(Unavailable), reopened(tmp_path / "a.pt", {"model": network().state_dict()}):
        pass


@pytest.mark.parametrize(
    ("kind", "settings", "decoupled"),
    [
        ("lion", {}, True),
        ("lion", {"weight_decouple": False}, False),
        ("adam or adamw", {"weight_decouple": True}, True),
        ("adam or adamw", {"weight_decouple": True, "fixed_decay": True}, None),  # takes λ, not ηλ
        ("sgdw", {"corrected_weight_decay": True}, None),  # takes η²λ over the greatest η
        ("rmsprop", {"decoupled_decay": True}, True),
    ],
)
def test_settings_tell_how_weight_decay_acts(kind: str, settings: dict[str, object], decoupled: bool | None):
    assert is_decoupled(kind, settings) is decoupled


def test_keys_alone_decide():
    assert recognise([], {"lr": 1}) == "unknown"
    assert recognise(["momentum_buffer"], {"lr": 1, "momentum": 0.9, "dampening": 0, "weight_decay": 0}) == "sgd"
    assert recognise(["momentum_buffer"], {"lr": 1, "momentum": 0.9, "weight_decay": 0, "trust": 1}) == "unknown"
    assert recognise([], {"lr": 1, "momentum": 0.0, "dampening": 0, "weight_decouple": True}) == "sgdw"


def test_shapes_are_known_without_mapping():
    assert Weights({"w": torch.ones(2, 3)}).shape("w") == (2, 3)
