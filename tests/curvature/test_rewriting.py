"""Layers written to be differentiated twice are torch's own: their values, slopes and second derivatives."""

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional

from sounding.curvature import rewriting
from sounding.curvature.engines import WAYS
from sounding.curvature.examination import examine
from sounding.curvature.memory import Memory
from sounding.curvature.objective import Objective
from sounding.curvature.rewriting import Rewriting
from sounding.curvature.twice import Geometry, convolved, elementwise, normalised
from sounding.probe import Probe
from sounding.recipe import Recipe


class Viewing(nn.Module):
    """Looks at a convolution's result as rows, as networks from the time before `flatten` do."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.inner(x)
        return found.view(len(x), -1)


IMAGES, SERIES, VOLUMES, ROWS = (5, 3, 6, 4), (5, 3, 7), (3, 2, 4, 3, 3), (5, 6)
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "conv1d": (lambda: nn.Conv1d(3, 4, 3, stride=2, padding=1), SERIES),
    "conv2d": (lambda: nn.Conv2d(3, 4, 3, padding=(1, 0), bias=False), IMAGES),
    "conv2d in groups": (lambda: nn.Conv2d(3, 6, 3, groups=3, padding=2, dilation=2), IMAGES),
    "conv2d, same": (lambda: nn.Conv2d(3, 4, 3, padding="same"), IMAGES),
    "conv3d": (lambda: nn.Conv3d(2, 3, 2), VOLUMES),
    "two convolutions": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Conv2d(4, 2, 2)), IMAGES),
    "viewed": (Viewing, IMAGES),
    "batch norm": (lambda: nn.BatchNorm2d(3), IMAGES),
    "batch norm of rows": (lambda: nn.BatchNorm1d(6, affine=False), ROWS),
    "layer norm": (lambda: nn.LayerNorm(4), IMAGES),
    "layer norm over two": (lambda: nn.LayerNorm((6, 4), elementwise_affine=False), IMAGES),
    "layer norm without bias": (lambda: nn.LayerNorm(6, bias=False), ROWS),
    "rms norm": (lambda: nn.RMSNorm(6), ROWS),
    "group norm": (lambda: nn.GroupNorm(3, 6), (5, 6, 4)),
    "instance norm": (lambda: nn.InstanceNorm2d(3, affine=True), IMAGES),
    "gelu": (nn.GELU, ROWS),
    "gelu by tanh": (lambda: nn.GELU(approximate="tanh"), ROWS),
    "silu": (nn.SiLU, ROWS),
    "silu in place": (lambda: nn.Sequential(nn.Linear(6, 6), nn.SiLU(inplace=True)), ROWS),
    "mish": (nn.Mish, ROWS),
    "hard swish": (nn.Hardswish, ROWS),
    "elu": (lambda: nn.ELU(0.7), ROWS),
    "softplus": (lambda: nn.Softplus(2.0), ROWS),
}


@pytest.mark.parametrize("training", [False, True], ids=["running", "batch"])
@pytest.mark.parametrize("name", LAYERS)
def test_a_product_with_second_derivatives_is_that_of_torch_s_own_layer(name: str, training: bool) -> None:
    layer, x = _layer(name, training)
    for own, ours in zip(_derived(layer, x, rewritten=False), _derived(layer, x, rewritten=True), strict=True):
        torch.testing.assert_close(ours, own, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("name", LAYERS)
def test_what_is_linear_pushes_a_tangent_forward_as_torch_does(name: str) -> None:
    layer, x = _layer(name, training=False)
    for own, ours in zip(_pushed(layer, x, rewritten=False), _pushed(layer, x, rewritten=True), strict=True):
        torch.testing.assert_close(ours, own, rtol=1e-11, atol=1e-13)


def test_derivatives_are_those_of_differences() -> None:
    torch.manual_seed(0)
    x, weight = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in ((2, 2, 5), (3, 2, 2)))
    geometry = Geometry([2], [1], [1], 1)
    for layer, given in (
        (lambda x: elementwise(functional.gelu, x, linear=False), (x,)),
        (lambda x: normalised(x, (0, 2), 0.1, centred=True, linear=False), (x,)),
        (lambda x: normalised(x, (2,), 0.1, centred=False, linear=False), (x,)),
        (lambda x, weight: convolved(x, weight, None, geometry, linear=False), (x, weight)),
    ):
        assert gradcheck(layer, given)
        assert gradgradcheck(layer, given)


def test_a_hard_sigmoid_gets_the_second_derivative_that_torch_s_own_lacks() -> None:
    x = torch.linspace(-4, 4, 11, dtype=torch.float64, requires_grad=True)  # none at a kink
    weight = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    with Rewriting():
        value = functional.hardsigmoid(weight * x)
    own = functional.hardsigmoid((weight * x).detach())
    torch.testing.assert_close(value, own, rtol=1e-14, atol=0)
    slopes = torch.autograd.grad((value**2).sum(), weight, create_graph=True)
    inside = x[(1.5 * x).abs() < 3]  # there the value is (wx + 3) / 6, elsewhere it is constant
    torch.testing.assert_close(torch.autograd.grad(slopes, weight)[0], (inside**2).sum() / 18)


def test_a_network_that_cannot_be_rewritten_keeps_its_own_layers() -> None:
    class Mapped(nn.Module):
        """Maps a convolution over its input, which only torch's own can be mapped."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Conv1d(1, 2, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = torch.func.vmap(self.inner)(x[:, None, None])[:, 0]
            return found.sum(-1)

    assert examine("hessian", _objective(Mapped()), WAYS["auto"], Memory(1e9, 100)).engine == "reverse"


def test_a_layer_that_comes_out_otherwise_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    network = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 2))
    assert examine("hessian", _objective(network), WAYS["auto"], Memory(1e9, 100)).engine == "rewritten"
    wrong = {functional.layer_norm: lambda x, *_, linear, **__: 2 * x}
    monkeypatch.setattr(rewriting, "_REPLACEMENTS", wrong)
    assert examine("hessian", _objective(network), WAYS["auto"], Memory(1e9, 100)).engine == "reverse"


def _layer(name: str, training: bool) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    layer = make().double().train(training)
    for each in layer.modules():
        if isinstance(each, nn.modules.batchnorm._BatchNorm) and each.running_mean is not None:
            each.running_mean.normal_()
            each.track_running_stats = not training
            if training:
                each.running_mean = each.running_var = None
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_()
    return layer, torch.randn(shape, dtype=torch.float64, requires_grad=True)


def _derived(layer: nn.Module, x: torch.Tensor, *, rewritten: bool) -> list[torch.Tensor]:
    """The value, the gradient of a function of it, and the Hessian's product with a vector."""
    leaves = [x, *layer.parameters()]
    with Rewriting() if rewritten else nullcontext():
        value = layer(x)
    slopes = torch.autograd.grad((value**3).sum(), leaves, create_graph=True)
    torch.manual_seed(1)
    product = torch.autograd.grad(
        slopes, leaves, [torch.randn(each.shape).to(each) for each in slopes], allow_unused=True
    )
    zeros = [torch.zeros_like(leaf) if each is None else each for each, leaf in zip(product, leaves, strict=True)]
    return [value, *slopes, *zeros]


def _pushed(layer: nn.Module, x: torch.Tensor, *, rewritten: bool) -> list[torch.Tensor]:
    """J·v, and Jᵀ·u after it from the same graph."""
    leaves = [x, *layer.parameters()]
    with Rewriting(linear=True) if rewritten else nullcontext():
        value = layer(x)
    dual = torch.zeros_like(value, requires_grad=True)
    slopes = torch.autograd.grad(value, leaves, dual, create_graph=True)
    torch.manual_seed(1)
    (pushed,) = torch.autograd.grad(slopes, dual, [torch.randn(each.shape).to(each) for each in slopes])
    return [pushed, *torch.autograd.grad(value, leaves, torch.randn(value.shape).to(value))]


def _objective(network: nn.Module) -> Objective:
    torch.manual_seed(0)
    probe = Probe(train=(torch.randn(6, 4), torch.arange(6) % 2))
    recipe = Recipe("a test's", 1, {"probe": lambda run: probe})
    named = dict(network.named_parameters())
    return Objective(network, recipe, probe.splits["train"], probe.unit, range(6), named)
