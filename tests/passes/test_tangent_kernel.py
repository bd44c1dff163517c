"""The tangent kernel against closed forms and Jacobians taken one output of one example at a time."""

from typing import Any

import numpy as np
import pytest
import torch
from making import checkpoint
from torch import nn
from torch.nn import functional as F

from sounding import Run, Unavailable
from sounding.measuring.counting import Count, counted
from sounding.passes import Model, Recipe, TangentKernel
from sounding.passes import tangent_kernel as module
from sounding.passes.linearisation import linearisation
from sounding.passes.other import Other
from sounding.passes.remembering import forget
from sounding.passes.tangent_kernel import computed, tangent_kernel
from sounding.recipe import Probe

ROWS = torch.randn(12, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
IMAGES = torch.randn(9, 1, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def seeded(make: Any) -> Any:
    torch.manual_seed(3)
    network: Any = make().double().eval()
    return network


def held(network: nn.Module, inputs: Any, targets: Any = None, **functions: Any) -> tuple[Model, Recipe]:
    count = len(next(iter(inputs.values()))) if isinstance(inputs, dict) else len(inputs)
    probe = Probe(train=(inputs, torch.zeros(count, dtype=torch.long) if targets is None else targets))
    recipe = Recipe("here", 1, {"architecture": lambda: network, "probe": lambda run: probe, **functions})
    return Model(network, recipe, torch.device("cpu")), recipe


def kernel_of(network: nn.Module, inputs: Any, **options: Any) -> TangentKernel:
    model, recipe = held(network, inputs)
    return computed(model, recipe, Run("lab", "a", {}), **options)


def naive(network: nn.Module, inputs: torch.Tensor) -> np.ndarray:
    """Σ_k J_k J_kᵀ."""
    jacobian = jacobian_of(network, inputs)
    return torch.einsum("ikp,jkp->ij", jacobian, jacobian).numpy()


def jacobian_of(network: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """From a backward pass of one example for each number, [examples, outputs, parameters]."""
    trained = [each for each in network.parameters() if each.requires_grad]
    rows = []
    for example in inputs:
        outputs = network(example[None]).reshape(-1)
        slopes = [torch.autograd.grad(each, trained, retain_graph=True, allow_unused=True) for each in outputs]
        filled = [
            [torch.zeros_like(own) if each is None else each for own, each in zip(trained, found, strict=True)]
            for found in slopes
        ]
        rows.append(torch.stack([torch.cat([each.reshape(-1) for each in found]) for found in filled]))
    return torch.stack(rows)


class ByValue(nn.Module):
    """Looks at a number of its input, which cannot be mapped over examples."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.layer = nn.Linear(5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = self.layer(x) * self.scale
        return found * 2 if float(x.sum()) > 1e9 else found


class Twice(nn.Module):
    """Uses the weight of a linear layer beside the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(torch.tanh(self.layer(x)), self.layer.weight)


def convolutional() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(48, 2))


def tokens() -> nn.Module:
    return nn.Sequential(nn.Unflatten(1, (5, 1)), nn.Linear(1, 4), nn.GELU(), nn.Flatten(), nn.Linear(20, 3))


def partly_frozen() -> nn.Module:
    network = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
    network[0].bias.requires_grad_(False)
    network[2].weight.requires_grad_(False)
    return network


def tied() -> nn.Module:
    network = nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 5))
    network[2].weight = network[0].weight
    return network


def plain() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 7), nn.ReLU(inplace=True), nn.Linear(7, 3, bias=False))


def test_of_a_linear_model_it_is_a_product_of_inputs():
    found = kernel_of(seeded(lambda: nn.Linear(5, 4)), ROWS)
    expected = 4 * (ROWS @ ROWS.T + 1).numpy()
    np.testing.assert_allclose(found.matrix, expected, rtol=1e-12)
    assert (found.method, found.outputs, found.exact) == ("pairs", 4, True)


@pytest.mark.parametrize(
    ("make", "method"),
    [
        (plain, "pairs"),
        (partly_frozen, "pairs"),
        (tied, "jacobian"),
        (Twice, "jacobian"),
        (tokens, "jacobian"),
        (ByValue, "loop"),
    ],
)
def test_it_is_the_sum_of_products_of_jacobians(make: Any, method: str):
    network = seeded(make)
    found = kernel_of(network, ROWS)
    np.testing.assert_allclose(found.matrix, naive(network, ROWS), rtol=1e-9, atol=1e-9)
    assert found.method == method


@pytest.mark.parametrize("held_at_once", [100, 8, 2])
def test_blocks_of_examples_change_nothing(held_at_once: int, monkeypatch: pytest.MonkeyPatch):
    network = seeded(convolutional)
    size = 8 * sum(each.numel() for each in network.parameters())
    monkeypatch.setattr(module, "BUDGET", held_at_once * size)
    found = kernel_of(network, IMAGES)
    np.testing.assert_allclose(found.matrix, naive(network, IMAGES), rtol=1e-9, atol=1e-9)
    assert found.method == "jacobian"
    # Blocks of four take 4 + 2·4 + 3·1 examples, blocks of one 1 + 2 + … + 9; two directions; two examples to try.
    assert found.backwards == {100: 2 * 9, 8: 2 * 15, 2: 2 * 45}[held_at_once] + 2


def test_float32_is_near_float64():
    network = seeded(plain)
    exact = kernel_of(network, ROWS).matrix
    found = kernel_of(network.float(), ROWS.float()).matrix
    np.testing.assert_allclose(found, exact, rtol=1e-5, atol=1e-5 * exact.max())


def test_rotating_the_outputs_leaves_it():
    network = seeded(plain)
    rotation = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
    model, recipe = held(network, ROWS, forward=lambda net, x: net(x) @ rotation)
    turned = computed(model, recipe, Run("lab", "a", {}))
    np.testing.assert_allclose(turned.matrix, kernel_of(network, ROWS).matrix, rtol=1e-9)


def test_random_directions_estimate_it_without_bias():
    network = seeded(lambda: nn.Linear(5, 6))
    exact = 6 * (ROWS @ ROWS.T + 1).numpy()
    ratios = []
    for seed in range(3):
        found = kernel_of(network, ROWS, outputs=2, seed=seed)
        assert (found.directions, found.exact) == (2, False)
        ratios.append(found.matrix.trace() / exact.trace())
    # A linear model's gradients have the same norm in every direction: exact for the trace, whatever the signs.
    assert np.allclose(ratios, 1.0)
    network = seeded(plain)
    exact = naive(network, ROWS)
    found = np.array([kernel_of(network, ROWS, outputs=2, seed=seed).matrix for seed in range(40)])
    errors = np.abs(found.mean(axis=0) - exact) / (found.std(axis=0, ddof=1) / np.sqrt(40) + 1e-12)
    assert np.mean(errors < 2) > 0.85
    assert errors.max() < 5


class Counting(torch.autograd.Function):
    """The identity; counts the examples of a forward and of a backward pass, under `vmap` too."""

    generate_vmap_rule = False
    forwards = backwards = 0

    @staticmethod
    def forward(value: torch.Tensor, way: str) -> torch.Tensor:
        setattr(Counting, way, getattr(Counting, way) + len(value))
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> Any:
        return Counting.apply(slopes[0], "backwards"), None

    @staticmethod
    def vmap(info: Any, in_dims: Any, value: torch.Tensor, way: str) -> Any:
        flat = value.movedim(in_dims[0], 0).flatten(0, 1)
        return Counting.apply(flat, way).unflatten(0, (info.batch_size, -1)), 0


class Counted(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return Counting.apply(self.inner(x), "forwards")  # type: ignore[no-untyped-call]


@pytest.fixture
def counts() -> type[Counting]:
    Counting.forwards = Counting.backwards = 0
    return Counting


@pytest.mark.parametrize(("make", "method", "each"), [(plain, "pairs", 36), (tied, "jacobian", 62)])
def test_the_passes_it_says_it_took_are_those_that_were_made(counts: Any, make: Any, method: str, each: int):
    found = kernel_of(Counted(seeded(make)), ROWS)
    assert found.method == method
    assert (found.forwards, found.backwards) == (counts.forwards, counts.backwards)
    assert found.backwards == each  # directions × 12 examples, and two to try where it is mapped


def test_the_examples_are_the_same_for_a_seed_and_keep_their_ids():
    probe = Probe(train=(ROWS, torch.arange(12)), ids=[f"e{place}" for place in range(12)])
    network = seeded(lambda: nn.Linear(5, 2))
    recipe = Recipe("here", 1, {"probe": lambda run: probe})
    found = computed(Model(network, recipe, torch.device("cpu")), recipe, Run("lab", "a", {}), examples=4)
    again = computed(Model(network, recipe, torch.device("cpu")), recipe, Run("lab", "b", {}), examples=4)
    positions = found.sample.positions
    assert again.sample.positions == positions == tuple(sorted(set(positions)))
    assert found.sample.ids == tuple(f"e{place}" for place in positions)
    rows = ROWS[list(positions)]
    np.testing.assert_allclose(found.matrix, 2 * (rows @ rows.T + 1).numpy(), rtol=1e-12)
    targets = found.targets()
    assert targets is not None
    assert targets.tolist() == list(positions)


def test_inputs_by_name_and_outputs_of_many_places():
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(1, 2)

        def forward(self, x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
            return self.layer(x[..., None]) * scale[:, None, None]

    scale = torch.linspace(0.5, 2.0, 12, dtype=torch.float64)
    found = kernel_of(seeded(Named), {"x": ROWS, "scale": scale})
    expected = 2 * np.outer(scale, scale) * (ROWS @ ROWS.T + 5).numpy()
    assert found.outputs == 10
    np.testing.assert_allclose(found.matrix, expected, rtol=1e-9)
    assert found.targets() is not None


def test_what_has_no_kernel_says_why():
    with pytest.raises(Unavailable, match="other examples of a batch"):
        kernel_of(seeded(lambda: nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3, track_running_stats=False))), ROWS)
    with pytest.raises(Unavailable, match="most_backwards"):
        kernel_of(seeded(tied), ROWS, most_backwards=59)
    with pytest.raises(Unavailable, match="expected 2 to 512"):
        kernel_of(seeded(plain), ROWS, examples=513)
    with pytest.raises(Unavailable, match="no parameter"):
        kernel_of(seeded(plain).requires_grad_(False), ROWS)
    model, recipe = held(seeded(plain), ROWS, forward=lambda net, x: {"features": net(x)})
    with pytest.raises(Unavailable, match="a dict for 12 examples"):
        computed(model, recipe, Run("lab", "a", {}))


def linearised(network: Any, moved: Any, inputs: torch.Tensor) -> Any:
    one, two = held(network, inputs), held(moved, inputs)
    run = Run("lab", "a", {})
    first, now = (computed(model, recipe, run) for model, recipe in (one, two))
    return linearisation(two[0], now, Other({"model": one[0], "tangent_kernel": first}))


def test_what_the_linearised_network_misses():
    network, moved = seeded(tied), seeded(tied)
    with torch.no_grad():
        for each in moved.parameters():
            each += 0.3 * torch.randn_like(each)
    found = linearised(network, moved, ROWS)
    moves = [now.detach() - then.detach() for now, then in zip(moved.parameters(), network.parameters(), strict=True)]
    slope = jacobian_of(network, ROWS) @ torch.cat([each.reshape(-1) for each in moves])
    change = (moved(ROWS) - network(ROWS)).detach()
    assert found.change == pytest.approx(float(change.norm()))
    assert found.before == pytest.approx(float(network(ROWS).detach().norm()))
    assert found.error == pytest.approx(float((change - slope).norm() / change.norm()))


def test_attention_can_be_linearised_and_mapped():
    def attention() -> nn.Module:
        layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
        return nn.Sequential(nn.Unflatten(1, (3, 4)), layer, nn.Flatten())

    inputs = torch.randn(6, 12, dtype=torch.float64)
    network, moved = seeded(attention), seeded(attention)
    with torch.no_grad():
        for each in moved.parameters():
            each += 1e-5 * torch.randn_like(each)
    found = kernel_of(network, inputs)
    np.testing.assert_allclose(found.matrix, naive(network, inputs), rtol=1e-8, atol=1e-8)
    assert linearised(network, moved, inputs).error < 1e-3


def test_kernels_of_the_last_checkpoints_are_remembered():
    forget()
    count, run = Count(), Run("lab", "a", {})
    model, recipe = held(counted(seeded(plain), count), ROWS)

    def forwards(step: int, recipe: Recipe = recipe) -> int:
        before = count.forwards
        found = tangent_kernel(model, recipe, run, checkpoint(step), "", examples=6)
        assert found.sample.inputs.shape == (6, 5)
        assert np.array_equal(found.matrix, computed(model, recipe, run, examples=6).matrix)
        return count.forwards - before - 14  # of which `computed` took 2n + 2

    assert [forwards(step) for step in (0, 1, 0, 1)] == [14, 14, 0, 0]
    assert forwards(0, held(model.module, ROWS)[1]) == 14  # another recipe
    assert [forwards(step) for step in range(2, 11)] == [14] * 9
    assert [forwards(10), forwards(1)] == [0, 14]  # eight are kept
