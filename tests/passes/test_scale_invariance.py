"""Which weights are scale invariant: networks whose answers are known, by name and by the symmetry matrix."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from sounding import Run, SoundingError
from sounding.opening import open_checkpoint
from sounding.passes import Model, Recipe, Weights
from sounding.passes.magnitudes import magnitudes
from sounding.passes.scale_invariance import by_structure, scale_invariance
from sounding.passes.symmetries import Scaling, judged, symmetries, symmetry_matrix
from sounding.passes.weights import weights
from sounding.recipe import Probe


def analysed(model: nn.Module, inputs: torch.Tensor, *, joint: bool = False, batch_statistics: bool = True) -> Any:
    torch.manual_seed(7)
    parameters = dict(model.named_parameters())
    count = len(parameters) + 4 if joint else 4
    matrix = symmetry_matrix(model, lambda module: module(inputs), parameters, count, batch_statistics)
    return judged(matrix, 1e-4, joint=joint)


def slices(model: nn.Module, inputs: torch.Tensor, **options: Any) -> dict[str, int]:
    return {name: each.slices for name, each in analysed(model, inputs, **options).invariant.items()}


def structural(model: nn.Module) -> dict[str, int]:
    return by_structure(Weights(dict(model.state_dict())))


def seeded(make: Any) -> Any:
    """A network with biases and scales unlike those of the start: a zero bias hides that it would have to scale too."""
    torch.manual_seed(3)
    model = make().double()
    for each in model.parameters():
        if each.ndim == 1:
            nn.init.normal_(each, 1.0, 0.5)
    return model


IMAGES = torch.randn(6, 3, 5, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
ROWS = torch.randn(8, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def test_a_plain_network_has_none_alone_but_neighbours_together():
    model = seeded(lambda: nn.Sequential(nn.Linear(6, 7, bias=False), nn.ReLU(), nn.Linear(7, 4, bias=False)))
    found = analysed(model, ROWS, joint=True)
    assert dict(found.invariant) == {}
    assert found.joint == ({"0.weight": 1.0, "2.weight": -1.0},)
    assert min(found.departures.values()) > 0.03
    assert structural(model) == {}


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5), nn.ReLU(),
        nn.Flatten(), nn.Linear(45, 4),
    )  # fmt: skip


def test_batch_norm_makes_every_channel_of_what_precedes_it_invariant_in_training():
    model = seeded(convolutional)
    before = {name: each.clone() for name, each in model.state_dict().items()}
    found = analysed(model, IMAGES)
    assert {name: each.slices for name, each in found.invariant.items()} == {"0.weight": 4, "3.weight": 5}
    assert set(found.without_effect) == {"0.bias", "3.bias"}
    assert structural(model) == {"0.weight": 4, "3.weight": 5}
    assert max(found.departures[name] for name in found.invariant) < 1e-5
    for name, each in model.state_dict().items():
        assert torch.equal(each, before[name]), name


def test_in_evaluation_it_makes_none():
    assert slices(seeded(convolutional), IMAGES, batch_statistics=False) == {}


class PreActivation(nn.Module):
    """A residual block in which the norm comes first, so that what is added up is rescaled together or not at all."""

    def __init__(self) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.bn2, self.conv2 = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1, bias=False)

    def forward(self, x: Any) -> Any:
        return x + self.conv2(F.relu(self.bn2(self.conv1(F.relu(self.bn1(x))))))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.b0, self.b1 = PreActivation(), PreActivation()
        self.bn, self.fc = nn.BatchNorm2d(4), nn.Linear(100, 4)

    def forward(self, x: Any) -> Any:
        return self.fc(F.relu(self.bn(self.b1(self.b0(self.conv1(x))))).flatten(1))


def test_a_pre_activation_stream_is_invariant_as_a_group():
    model = seeded(Residual)
    found = analysed(model, IMAGES, joint=True)
    assert {name: each.slices for name, each in found.invariant.items()} == {"b0.conv1.weight": 4, "b1.conv1.weight": 4}
    stream = {"conv1.weight": 1.0, "b0.conv2.weight": 1.0, "b1.conv2.weight": 1.0}
    assert stream in [dict(each) for each in found.joint]
    assert structural(model) == {"b0.conv1.weight": 4, "b1.conv1.weight": 4}


def test_layer_norm_and_the_matrix_after_it_share_a_scale():
    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(6, 8, bias=False), nn.LayerNorm(8, eps=1e-12), nn.Linear(8, 5))

    model = seeded(make)
    found = analysed(model, ROWS, joint=True)
    assert {name: each.slices for name, each in found.invariant.items()} == {"0.weight": 1}
    assert [dict(each) for each in found.joint] == [{"1.weight": 1.0, "1.bias": 1.0, "2.weight": -1.0}]
    assert structural(model) == {}


class Attention(nn.Module):
    """Queries and keys normalised over each of two heads."""

    def __init__(self, bias: bool = False) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(6, 8, bias=bias) for _ in range(3))
        self.q_norm, self.k_norm = nn.RMSNorm(4, eps=1e-12), nn.RMSNorm(4, eps=1e-12)

    def forward(self, x: Any) -> Any:
        q, k, v = (each(x).unflatten(-1, (2, 4)).transpose(-2, -3) for each in (self.q_proj, self.k_proj, self.v_proj))
        return F.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v)


def test_normalised_queries_and_keys_are_invariant_head_by_head():
    model = seeded(Attention)
    sequences = ROWS.reshape(2, 4, 6)
    assert slices(model, sequences) == {"q_proj.weight": 2, "k_proj.weight": 2}
    assert structural(model) == {"q_proj.weight": 2, "k_proj.weight": 2}
    biased = seeded(lambda: Attention(bias=True))
    assert slices(biased, sequences) == {}
    assert structural(biased) == {}
    for each in (biased.q_proj, biased.k_proj):
        each.bias.data.zero_()
    assert structural(biased) == {"q_proj.weight": 2, "k_proj.weight": 2}


def test_of_weight_norm_only_the_direction():
    model = seeded(lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(6, 5)), nn.Linear(5, 4)))
    direction = "0.parametrizations.weight.original1"
    assert slices(model, ROWS) == {direction: 5}
    assert structural(model) == {direction: 5}
    with pytest.warns(FutureWarning):
        old = nn.Sequential(nn.utils.weight_norm(nn.Linear(6, 5)))
    state = Weights(dict(old.state_dict()))
    assert by_structure(state) == {"0.weight_v": 5}
    assert "0.weight_v" in state.parameters()


def test_spectrally_normalised_weights():
    model = seeded(lambda: nn.Sequential(parametrizations.spectral_norm(nn.Linear(6, 5)), nn.Linear(5, 4)))
    assert structural(model) == {"0.parametrizations.weight.original": 1}
    assert slices(model, ROWS) == {"0.parametrizations.weight.original": 1}


class Tied(nn.Module):
    """Embedding, a norm on the stream, and a head that is the embedding again, or one of its own."""

    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 6)
        self.norm = nn.LayerNorm(6, eps=1e-12)
        self.head = nn.Linear(6, 9, bias=False)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, tokens: Any) -> Any:
        return self.head(self.norm(self.embed(tokens)))


def test_a_tied_head_takes_the_invariance_of_the_embedding_away():
    tokens = torch.arange(8).reshape(2, 4) % 5  # four words do not occur
    assert slices(seeded(lambda: Tied(tied=False)), tokens) == {"embed.weight": 9}
    assert slices(seeded(lambda: Tied(tied=True)), tokens) == {}


def test_modes_are_as_before_and_no_gradient_is_left():
    model = seeded(convolutional)
    model[1].eval()
    analysed(model, IMAGES)
    assert [each.training for each in model] == [True, False, *[True] * 6]
    assert all(each.grad is None for each in model.parameters())


def test_the_pass_runs_on_the_probe_and_the_recipes_forward():
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = convolutional()

        def forward(self, x: Any) -> Any:
            return {"logits": self.inner(x), "hidden": [x]}

    module = seeded(Wrapped)
    probe = Probe(train=(IMAGES, torch.zeros(6, dtype=torch.long)))
    recipe = Recipe("here", 1, {"architecture": lambda: module, "probe": lambda run: probe})
    run = Run("lab", "a", {})
    torch.manual_seed(0)
    found = symmetries(Model(module, recipe, torch.device("cpu")), recipe, run)
    assert set(found.invariant) == {"inner.0.weight", "inner.3.weight"}
    assert found.invariant.method == "symmetry"


def test_outputs_that_depend_on_nothing_are_refused():
    model = seeded(convolutional)
    with pytest.raises(SoundingError, match="no output of the network depends"):
        symmetry_matrix(model, lambda module: module(IMAGES).detach(), dict(model.named_parameters()), 2, True)


def test_slices_are_the_finest_that_hold():
    rows = np.array([[1.0, -1.0, 2.0, -2.0]])
    assert Scaling(rows, np.full(4, 5.0)).slices(1e-4) == 2
    assert Scaling(np.array([[1.0, 1.0]]), np.ones(2)).slices(1e-4) == 0


# --- by name --------------------------------------------------------------------------------------------------------


def test_all_convolutions_registered_before_all_norms_prove_nothing_wrong():
    class Apart(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
            self.bn1 = nn.BatchNorm2d(4)

    assert structural(Apart()) == {}


def test_files_that_lost_the_order_prove_nothing(tmp_path: Path):
    save_file(dict(convolutional().state_dict()), tmp_path / "a.safetensors")
    with open_checkpoint(str(tmp_path / "a.safetensors")) as opened:
        assert by_structure(weights(opened, "")) == {}


def test_the_operators_patterns_come_last_and_say_so():
    state = Weights(dict(convolutional().state_dict()))
    found = scale_invariance(state, patterns=(r"^\d+\.weight$",))
    assert {name: each.method for name, each in found.items()} == {
        "0.weight": "structure", "1.weight": "pattern", "3.weight": "structure", "4.weight": "pattern",
        "7.weight": "pattern",
    }  # fmt: skip
    assert found.method == "pattern + structure"
    norm = sum(float(state[name].double().square().sum()) for name in found) ** 0.5
    assert found.norm(magnitudes(state)) == pytest.approx(norm)
    with pytest.raises(SoundingError, match="no regular expression"):
        scale_invariance(state, patterns=("(",))
