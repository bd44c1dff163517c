"""Neural collapse as readings: against the twin from the formulas on both splits, and what keeps it from being read."""

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from collapse_reference import figures, fuzziness, three_passes
from soak.terminal_phase import Setting, digits, trained
from torch import nn

from sounding import Curve, Finding, Reading, Run, Skip, Tap
from sounding.geometry.imbalance import DeepLinear
from sounding.measuring.traversal import Wanted, traverse
from sounding.passes.class_moments import class_moments
from sounding.passes.head import head
from sounding.passes.layer_moments import layer_moments
from sounding.passes.model import Model
from sounding.recipe import Probe, Recipe
from sounding.testing import Trial
from sounding_plugins.neural_collapse import neural_collapse

NC: Any = neural_collapse


def network() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 5))


def data(examples: int = 300, classes: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(examples)
    labels = torch.randint(0, classes, (examples,), generator=generator)
    centres = torch.randn(5, 6, generator=torch.Generator().manual_seed(9))
    return centres[labels] + 0.5 * torch.randn(examples, 6, generator=generator), labels


def by_name(found: Iterable[Finding], split: str, part: str = "") -> dict[str, Reading]:
    return {
        each.metric: each
        for each in found
        if isinstance(each, Reading) and (each.split, each.part, each.group) == (split, part, "")
    }


def reasons(found: Iterable[Finding]) -> list[str]:
    return [each.reason for each in found if isinstance(each, Skip)]


def test_both_splits_are_those_of_the_formulas(sounding_plugin: Trial):
    model = network()
    (x, y), (held_x, held_y) = data(), data(200)
    found = sounding_plugin(NC, model=model, probe=Probe(train=(x, y), heldout=(held_x, held_y)))
    weight, bias = model[4].weight.detach(), model[4].bias.detach()
    truths = {}
    for split, inputs, labels in (("train", x, y), ("heldout", held_x, held_y)):
        rows = model[:4](inputs).detach()
        truth = three_passes(lambda rows=rows, labels=labels: [(rows, labels)], weight, bias, torch.float64)
        truths[split] = truth
        expected = figures(truth, weight, bias) | {"fuzziness": fuzziness(truth)}
        if split == "heldout":
            near = torch.cdist(rows.double(), truths["train"].means).argmin(1)
            expected["nc4_disagreement"] = float((near != model(held_x).argmax(1)).double().mean())
        readings = by_name(found, split)
        for name, value in expected.items():
            assert readings[name].value == pytest.approx(value, rel=1e-4), (split, name)
        assert readings["nc3_self_duality_squared"].value == pytest.approx(expected["nc3_self_duality"] ** 2, rel=1e-4)
        assert readings["classes"].value == 5
        assert readings["examples_per_class"].value == len(labels) / 5
        assert readings["nc4_disagreement"].quality == "ok"
        for name in ("nc1_pinv", "nc1_quotient", "cdnv"):
            null = readings[f"{name}_null"]
            assert null.low <= null.value <= null.high
            assert null.value > 3 * readings[name].value
    assert reasons(found) == []


@pytest.mark.parametrize("at_most", [1, 7, 64])
def test_float32_readings_are_the_same_for_any_batches(at_most: int):
    """The whole way from inputs to readings, networks in float32."""
    recipe = Recipe("recipe.py", 1, {"probe": lambda run: Probe(train=data(), heldout=data(200))})
    run, model = Run("", "", {}), Model(network().eval(), recipe, torch.device("cpu"))
    it, probe = head(model, recipe, run), recipe.probe(run)

    def values(at_most: int) -> dict[tuple[str, str, str], Any]:
        wanted = {
            "features": Wanted(lambda: class_moments(it, recipe, run), taps={"features": Tap.head()}),
            "layers": Wanted(layer_moments, taps=layer_moments.taps(modules="", widest=4096)),  # type: ignore[operator]
        }
        found = traverse(model, probe, wanted, at_most=at_most, head=it)
        readings = NC(found["features"], found["layers"], it, depth=True)
        return {(each.metric, each.split, each.part): each.value for each in readings if isinstance(each, Reading)}

    whole = values(1000)
    assert len(whole) > 60
    assert values(at_most) == {name: pytest.approx(value, rel=1e-5, abs=1e-9) for name, value in whole.items()}


def test_by_depth(sounding_plugin: Trial):
    model = network()
    x, y = data()
    found = sounding_plugin(NC, model=model, probe=Probe(train=(x, y)), depth=True)
    (curve,) = [each for each in found if isinstance(each, Curve)]
    for place, (name, depth) in enumerate((("0", 1), ("2", 3), ("4", 4))):
        rows = model[:depth](x).detach()
        truth = three_passes(lambda rows=rows: [(rows, y)], torch.ones(5, rows.shape[1]), torch.zeros(5), torch.float64)
        at = by_name(found, "train", name)
        assert at["fuzziness"].value == pytest.approx(fuzziness(truth), rel=1e-4)
        assert at["fuzziness"].depth == place
        assert curve.y[place] == at["fuzziness"].value
    logs = torch.tensor(curve.y, dtype=torch.float64).log()
    ratio = by_name(found, "train")["fuzziness_ratio"].value
    assert ratio == pytest.approx(float(((logs[2] - logs[0]) / 2).exp()))  # three points: the slope of the ends


def test_classes_without_examples_are_left_out_and_said(sounding_plugin: Trial):
    found = sounding_plugin(NC, model=network(), probe=Probe(train=data(classes=3)))
    assert reasons(found) == ["2 classes of the head have no examples and are left out"]
    assert by_name(found, "train")["classes"].value == 3


def test_targets_that_are_no_classes(sounding_plugin: Trial):
    x, _ = data()

    def squared(outputs: Any, targets: Any, inputs: Any):
        return ((outputs - targets) ** 2).mean(1)

    found = sounding_plugin(
        NC, model=network(), probe=Probe(train=(x, torch.zeros(300, 5))), functions={"loss": squared}, depth=True
    )
    assert len(found) == 2
    assert "no classes of the head" in reasons(found)[0]
    assert "not one class each" in reasons(found)[1]
    found = sounding_plugin(NC, model=network(), probe=Probe(train=data(classes=1)))
    assert "it takes two" in reasons(found)[0]


def test_features_that_overflow(sounding_plugin: Trial):
    x, y = data()
    x[50] = 3e38
    found = sounding_plugin(NC, model=network(), probe=Probe(train=(x, y)), depth=True)
    assert set(reasons(found)) == {"features are NaN or infinite", "its outputs are NaN or infinite"}


class Speech(nn.Module):
    """A language model with nothing in it: hidden states are embeddings."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.embed = nn.Embedding(11, 6)
        self.head = nn.Linear(6, 7, bias=False)

    def forward(self, tokens: Any):
        return self.head(self.embed(tokens))


def test_tokens_are_classes_and_rare_ones_are_dropped(sounding_plugin: Trial):
    model = Speech()
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 11, (12, 40), generator=generator)
    targets = (tokens + torch.randint(0, 2, (12, 40), generator=generator)) % 6
    targets[0, :4] = 6  # too few
    targets[:, 30:] = -100  # padding
    probe = Probe(train=(tokens, targets), heldout=(tokens[:5], targets[:5]), unit="token")
    found = sounding_plugin(NC, model=model, probe=probe)
    readings = by_name(found, "train")
    rows, labels = model.embed(tokens).detach()[targets >= 0].double(), targets[targets >= 0]
    means = torch.stack([rows[labels == label].mean(0) for label in range(6)])
    centred = means - means.mean(0)
    units = torch.nn.functional.normalize(centred, dim=1)
    logs = -torch.nn.functional.pdist(units).log()
    cosines = torch.nn.functional.cosine_similarity(model.head.weight.detach()[:6].double(), centred, dim=1)
    assert readings["gnc2_mean"].value == pytest.approx(float(logs.mean()), rel=1e-5)
    assert readings["gnc2_variance"].value == pytest.approx(float(logs.var(correction=0)), rel=1e-5)
    assert readings["unc3_mean"].value == pytest.approx(float(cosines.mean()), rel=1e-5)
    assert readings["unc3_variance"].value == pytest.approx(float(cosines.var(correction=0)), rel=1e-5)
    assert readings["examples_per_class"].value == pytest.approx((len(labels) - 4) / 6)
    assert not {"nc1_pinv", "nc4_disagreement"} & set(readings)
    held = model.embed(tokens[:5]).detach()[targets[:5] >= 0].double()
    near = torch.cdist(held, means).argmin(1)
    decided = (held @ model.head.weight.detach().double().T).argmax(1)
    disagreement = by_name(found, "heldout")["nc4_disagreement"].value
    assert disagreement == pytest.approx(float((near != decided).double().mean()))
    assert any("1 classes have too few tokens" in each for each in reasons(found))


def test_theory_stands_beside_the_norms(sounding_plugin: Trial):
    x, y = data()
    model = network()
    found = sounding_plugin(
        NC, model=model, probe=Probe(train=(x, y)), theory_layers=2, theory_decay=1e-3, theory_feature_decay=1e-3
    )
    expected = DeepLinear(2, 1e-3, 1e-3, tuple(torch.bincount(y).tolist())).mean_norms()
    rows = model[:4](x).detach()
    for label in range(5):
        values = {each.metric: each.value for each in found if isinstance(each, Reading) and each.group == str(label)}
        assert values["class_mean_norm"] == pytest.approx(float(rows[y == label].mean(0).norm()), rel=1e-5)
        assert values["class_mean_norm_theory"] == pytest.approx(expected[label])


def test_training_on_digits_goes_towards_collapse(sounding_plugin: Trial):
    """A short terminal phase; the long one is soak/test_terminal_phase.py."""
    found = {}
    accuracies = {}
    setting = Setting("short", True, 5e-3, 0.1, width=64, depth=2)
    for epoch, module, accuracy in trained(setting, 0, 20, (0, 20)):
        found[epoch] = by_name(sounding_plugin(NC, model=module, probe=digits()), "train")
        accuracies[epoch] = accuracy
    assert accuracies[0] < 0.5 < accuracies[20] == pytest.approx(1, abs=0.01)
    for name, factor in (("nc1_pinv", 4), ("cdnv", 3), ("nc2_angle_means", 1.2), ("nc3_self_duality", 1.5)):
        assert found[20][name].value < found[0][name].value / factor, name
    assert found[20]["nc4_disagreement"].value < 0.01 < 0.3 < found[0]["nc4_disagreement"].value
    assert found[20]["nc1_pinv"].value < found[20]["nc1_pinv_null"].low / 10
