"""A job's plugins over shared passes: what is computed once, what is freed, and what every failure becomes."""

import math
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sounding import Checkpoint, Curve, Metric, Reading, Run, Skip, Unavailable, accumulator, plugin, shared_pass
from sounding.batch import Batch
from sounding.measuring.discovery import Loaded
from sounding.measuring.measure import measure
from sounding.passes import Model, Optimizer, Other, Predictions, Recipe, Weights
from sounding.recipe import survey
from sounding.records import Ending, Job, RecipeSheet

M = [Metric("m", unit="1", meaning="m", source="s")]
KINDS = [*M, Metric("word", "1", "w", "s", kind="label"), Metric("line", "1", "l", "s", kind="curve")]


def simple(function: Any, **kwargs: Any):
    return plugin(version=1, metrics=KINDS, **kwargs)(function)


def fine(weights: Weights):
    yield Reading("m", float(sum(each.double().sum() for each in weights.values())))


def by_name(results: Any):
    return {result.task.key.plugin: result for result in results}


# --- what plugins get -----------------------------------------------------------------------------------------------


def test_readings_options_and_roots(
    linear: tuple[Checkpoint, Path], job_of: Callable[..., Job], with_plugins: Callable[..., Loaded]
):
    checkpoint, _ = linear

    def asks(weights: Weights, checkpoint: Checkpoint, run: Run, *, factor: float = 2.0, names: tuple[str, ...] = ()):
        yield Reading("m", factor * checkpoint.step + run.attributes["width"], part=",".join(names))
        yield Reading("word", label=run.name)
        yield Curve("line", (0, 1), torch.tensor([2.0, 3.0]))

    asks = simple(asks)
    job = job_of(checkpoint, asks, attributes={"width": 8}, options={"factor": 3, "names": ["p", "q"]})
    (result,) = measure(job, with_plugins(asks))
    assert (result.ending, result.reason) == (Ending.OK, "")
    assert result.findings == (
        Reading("m", 11.0, part="p,q"),
        Reading("word", label="a"),
        Curve("line", (0.0, 1.0), (2.0, 3.0)),
    )
    assert (result.probe, result.dtype, result.device, result.seed) == ("", "float64", "cpu", None)
    assert result.wall_seconds > 0


def test_a_whole_job_with_model_and_data(linear: tuple[Checkpoint, Path], job_of: Callable[..., Job]):
    from sounding.measuring.discovery import load

    checkpoint, recipe = linear
    loaded = load()
    plugins = [loaded.plugins[name] for name in ("gradient_norm", "loss", "weight_norm", "symmetry")]
    sheet = survey(str(recipe), Run("lab", "a", {}))
    results = measure(job_of(checkpoint, *plugins, recipe=recipe, sheet=sheet))
    assert [result.task.key.plugin for result in results] == ["gradient_norm", "loss", "weight_norm", "symmetry"]
    assert [result.ending for result in results] == [Ending.OK] * 4
    probe = sheet.probe_hashes["default"]  # of whoever takes examples from it, in the traversal or by themselves
    assert [result.probe for result in results] == [probe, probe, "", probe]
    assert {result.dtype for result in results} == {"float64"}


def test_two_accumulators_and_three_plugins_take_one_traversal(
    linear: tuple[Checkpoint, Path],
    job_of: Callable[..., Job],
    with_plugins: Callable[..., Loaded],
    recipe_file: Callable[..., Path],
):
    checkpoint, _ = linear
    recipe = recipe_file(
        "import torch\nfrom sounding.recipe import Probe\nforwards = []\n"
        "def architecture(c):\n    net = torch.nn.Linear(3, 2).double()\n"
        "    net.register_forward_hook(lambda *a: forwards.append(len(a[2])))\n    return net\n"
        "def probe(run): return Probe(train=(torch.ones(20, 3).double(), torch.arange(20) % 2))\n"
        "def attributes(checkpoint): return {'forwards': sum(forwards), 'calls': len(forwards)}\n",
        "counting.py",
    )
    made = []

    class Counter:
        def __init__(self) -> None:
            self.examples = 0

        def update(self, batch: Batch):
            self.examples += batch.size

        def result(self) -> int:
            return self.examples

    @accumulator(version=1)
    def counted() -> Counter:
        made.append(1)
        return Counter()

    @simple
    def one(predictions: Predictions):
        yield Reading("m", len(predictions["train"].losses))

    @simple
    def two(counted: int):
        yield Reading("m", counted)

    @simple
    def three(predictions: Predictions, counted: int, recipe: Recipe, checkpoint: Checkpoint):
        said = recipe.attributes(checkpoint)
        yield Reading("m", said["forwards"])
        yield Reading("m", said["calls"], part="calls")

    job = job_of(checkpoint, one, two, three, recipe=recipe)
    results = by_name(measure(job, with_plugins(one, two, three, counted)))
    assert results["one"].findings == (Reading("m", 20.0),)
    assert results["two"].findings == (Reading("m", 20.0),)
    assert results["three"].findings == (Reading("m", 20.0), Reading("m", 2.0, part="calls"))
    assert made == [1]


def test_passes_are_computed_once_in_order_and_freed_after_their_last_user(
    linear: tuple[Checkpoint, Path], job_of: Callable[..., Job], with_plugins: Callable[..., Loaded]
):
    events = []

    class Value:
        def __init__(self, name: str) -> None:
            self.name = name
            events.append(f"make {name}")

        def __del__(self) -> None:
            events.append(f"free {self.name}")

    class First(Value): ...

    class Second(Value): ...

    @shared_pass(version=1)
    def first(weights: Weights) -> First:
        return First("first")

    @shared_pass(version=1)
    def second(first: First) -> Second:
        return Second("second")

    @simple
    def a(first: First):
        events.append("a")
        yield Reading("m", 1)

    @simple
    def b(second: Second):
        events.append("b")
        yield Reading("m", 1)

    @simple
    def c(second: Second):
        events.append("c")
        yield Reading("m", 1)

    measure(job_of(linear[0], a, b, c), with_plugins(a, b, c, first, second))
    assert events == ["make first", "a", "make second", "free first", "b", "c", "free second"]


def test_pass_settings_reach_the_pass(
    linear: tuple[Checkpoint, Path], job_of: Callable[..., Job], with_plugins: Callable[..., Loaded]
):
    @shared_pass(version=1)
    def rank(weights: Weights, *, top: int = 2) -> int:
        return top

    @simple
    def uses(rank: int):
        yield Reading("m", rank)

    (result,) = measure(job_of(linear[0], uses, passes={"rank": {"top": 7}}), with_plugins(uses, rank))
    assert result.findings == (Reading("m", 7.0),)
    (result,) = measure(job_of(linear[0], uses, passes={"rank": {"top": "x"}}), with_plugins(uses, rank))
    assert result.ending is Ending.FAILED
    assert "`top` is 'x'" in result.reason


def test_networks_by_name(
    save: Callable[..., Checkpoint], job_of: Callable[..., Job], with_plugins: Callable[..., Loaded]
):
    checkpoint = save({"model": {"w": torch.full((2,), 1.0)}, "ema": {"w": torch.full((2,), 5.0)}})
    each = simple(fine)
    (first,) = measure(job_of(checkpoint, each), with_plugins(each))
    (second,) = measure(job_of(checkpoint, each, network="ema"), with_plugins(each))
    (third,) = measure(job_of(checkpoint, each, network="emma"), with_plugins(each))
    assert (first.findings[0].value, second.findings[0].value) == (2.0, 10.0)
    assert third.ending is Ending.FAILED
    assert "no network 'emma'" in third.reason
    assert "ema" in third.reason


def test_networks_by_the_operators_names_for_them(
    save: Callable[..., Checkpoint], job_of: Callable[..., Job], with_plugins: Callable[..., Loaded]
):
    checkpoint = save({"model": {"w": torch.full((2,), 1.0)}, "ema": {"decay": 0.9, "shadow": {"w": torch.ones(2)}}})
    each = simple(fine)
    models = {"averaged": "ema.shadow"}
    (named,) = measure(job_of(checkpoint, each, network="averaged", models=models), with_plugins(each))
    (other,) = measure(job_of(checkpoint, each, network="ema.shadow", models={"ema.shadow": "no"}), with_plugins(each))
    assert named.findings[0].value == 2.0
    assert named.task.subject.model == "averaged"
    assert "no network 'no'" in other.reason


def test_a_pair_sees_its_own_passes_of_the_other(
    save: Callable[..., Checkpoint], job_of: Callable[..., Job], with_plugins: Callable[..., Loaded]
):
    before, after = (save({"model": {"w": torch.full((3,), float(step))}}, step) for step in (4, 6))

    @plugin(version=1, metrics=M, over="pair", against="previous")
    def compare(weights: Weights, other: Other):
        yield Reading("m", float(weights["w"].sum() - other.weights["w"].sum()), part=str(other.checkpoint.step))
        with pytest.raises(AttributeError, match=r"`other` has no `model`.*weights"):
            _ = other.model

    (result,) = measure(job_of(after, compare, previous=before), with_plugins(compare))
    assert result.findings == (Reading("m", 6.0, part="4"),)


# --- how it ends ----------------------------------------------------------------------------------------------------


def raising(weights: Weights):
    yield Reading("m", 1.0)
    raise ValueError("not today")


def exiting(weights: Weights):
    raise SystemExit(7)
    yield


def empty(weights: Weights):
    return iter(())


def skipping(weights: Weights):
    yield Skip("too small")
    yield Skip("no bias", part="x")


def returning(weights: Weights):
    return None


def undeclared(weights: Weights):
    yield Reading("n", 1.0)


def no_number(weights: Weights):
    yield Reading("m", value="three")


def no_value(weights: Weights):
    yield Reading("m", label="three")


def no_finding(weights: Weights):
    yield 3.0


def twice(weights: Weights):
    yield Reading("m", 1.0, part="x")
    yield Reading("m", 2.0, part="x")


def odd_part(weights: Weights):
    yield Reading("m", 1.0, part=3)


def odd_quality(weights: Weights):
    yield Reading("m", 1.0, quality="fine")


def curve_for_scalar(weights: Weights):
    yield Curve("m", (1.0,), (1.0,))


def scalar_for_curve(weights: Weights):
    yield Reading("line", 1.0)


def crooked(weights: Weights):
    yield Curve("line", (1.0, 2.0), (1.0,))


def no_optimizer(optimizer: Optimizer):
    yield Reading("m", 1.0)


def needs_recipe(model: Model):
    yield Reading("m", 1.0)


@pytest.mark.parametrize(
    ("function", "ending", "words"),
    [
        (raising, Ending.FAILED, ["raising raised ValueError: not today", f"{Path(__file__).name}:"]),
        (exiting, Ending.FAILED, ["exiting raised SystemExit: 7"]),
        (empty, Ending.SKIPPED, ["empty yielded nothing"]),
        (skipping, Ending.SKIPPED, ["too small; x: no bias"]),
        (returning, Ending.FAILED, ["returning returned nothing, expected to `yield`"]),
        (undeclared, Ending.FAILED, ["yielded the metric `n`, which it does not declare", "Declared: m"]),
        (no_number, Ending.FAILED, ["yielded `m` of the whole with value a str, expected a number"]),
        (no_value, Ending.FAILED, ["without a proper `value`"]),
        (no_finding, Ending.FAILED, ["yielded a float, expected Reading, Curve or Skip"]),
        (twice, Ending.FAILED, ["yielded `m` twice for `x`"]),
        (odd_part, Ending.FAILED, ["yielded `m` with part a int, expected a text"]),
        (odd_quality, Ending.FAILED, ["with quality 'fine', expected one of ok, unconverged, unresolved"]),
        (curve_for_scalar, Ending.FAILED, ["Curve for `m`, which is declared as a scalar"]),
        (scalar_for_curve, Ending.FAILED, ["Reading for `line`, which is declared as a curve"]),
        (crooked, Ending.FAILED, ["curve `line` with 2 x and 1 y"]),
        (no_optimizer, Ending.SKIPPED, ["holds no optimizer state"]),
        (needs_recipe, Ending.FAILED, ["the store has no recipe"]),
    ],
)
def test_every_failure_is_a_result_and_harms_no_other(
    linear: tuple[Checkpoint, Path],
    job_of: Callable[..., Job],
    with_plugins: Callable[..., Loaded],
    function: Any,
    ending: Ending,
    words: Any,
):
    bad, good = simple(function), simple(fine)
    results = by_name(measure(job_of(linear[0], bad, good), with_plugins(bad, good)))
    assert results["fine"].ending is Ending.OK
    result = results[function.__name__]
    assert result.ending is ending
    for word in words:
        assert word in result.reason
    assert all(isinstance(each, Skip) for each in result.findings)


def test_values_that_are_not_finite_are_recorded_and_stated(
    linear: tuple[Checkpoint, Path], job_of: Callable[..., Job], with_plugins: Callable[..., Loaded]
):
    @simple
    def odd(weights: Weights):
        yield Reading("m", math.nan, part="x")
        yield Reading("m", torch.tensor(math.inf), part="y")
        yield Reading("m", 1, part="z")

    (result,) = measure(job_of(linear[0], odd), with_plugins(odd))
    assert result.ending is Ending.OK
    assert result.reason == "not finite: m of `x` is nan and 1 more"
    assert [each.value for each in result.findings[1:]] == [math.inf, 1.0]


def test_a_pass_that_fails_fails_its_users_with_its_reason(
    linear: tuple[Checkpoint, Path], job_of: Callable[..., Job], with_plugins: Callable[..., Loaded]
):
    calls = []

    @shared_pass(version=1)
    def broken(weights: Weights) -> int:
        calls.append(1)
        raise ZeroDivisionError("by nothing")

    @shared_pass(version=1)
    def missing(weights: Weights) -> int:
        raise Unavailable("no such thing stored")

    @shared_pass(version=1)
    def above(missing: int) -> float:
        return 1.0

    @simple
    def a(broken: int):
        yield Reading("m", 1.0)

    @simple
    def b(broken: int):
        yield Reading("m", 1.0)

    @simple
    def c(above: float):
        yield Reading("m", 1.0)

    good = simple(fine)
    results = by_name(measure(job_of(linear[0], a, b, c, good), with_plugins(a, b, c, good, broken, missing, above)))
    for name in "ab":
        assert results[name].ending is Ending.FAILED
        assert "the pass `broken` failed: ZeroDivisionError: by nothing" in results[name].reason
    assert calls == [1]
    assert (results["c"].ending, results["c"].reason) == (Ending.SKIPPED, "no such thing stored")
    assert results["fine"].ending is Ending.OK


def test_a_recipe_that_fails_fails_only_those_that_need_it(
    linear: tuple[Checkpoint, Path],
    job_of: Callable[..., Job],
    with_plugins: Callable[..., Loaded],
    recipe_file: Callable[..., Path],
):
    recipe = recipe_file("def architecture(c): raise OSError('no config')", "failing.py")
    needs, good = simple(needs_recipe), simple(fine)
    results = by_name(measure(job_of(linear[0], needs, good, recipe=recipe), with_plugins(needs, good)))
    assert "architecture raised: OSError: no config" in results["needs_recipe"].reason
    assert results["fine"].ending is Ending.OK


def test_a_traversal_that_fails_is_tried_once(
    linear: tuple[Checkpoint, Path], job_of: Callable[..., Job], recipe_file: Callable[..., Path]
):
    from sounding.measuring.discovery import load

    recipe = recipe_file(
        "import torch\nfrom sounding.recipe import Probe\n"
        "def architecture(c): return torch.nn.Linear(3, 2).double()\n"
        "def probe(run): return Probe(train=(torch.ones(20, 5).double(), torch.arange(20) % 2))\n",
        "misfit.py",
    )
    plugins = [load().plugins[name] for name in ("loss", "gradient_norm")]
    results = measure(job_of(linear[0], *plugins, recipe=recipe))
    for result in results:
        assert result.ending is Ending.FAILED
        assert "mat1 and mat2 shapes cannot be multiplied" in result.reason


def test_unknown_plugins_and_options(
    linear: tuple[Checkpoint, Path], job_of: Callable[..., Job], with_plugins: Callable[..., Loaded]
):
    good = simple(fine)
    (result,) = measure(job_of(linear[0], good, options={"sise": 1}), with_plugins(good))
    assert "plugin fine has no option `sise`" in result.reason
    (result,) = measure(job_of(linear[0], simple(raising)), with_plugins(good))
    assert "no plugin `raising` is installed" in result.reason


# --- damage ---------------------------------------------------------------------------------------------------------


def test_written_weights_fail_the_writer_and_nobody_else(
    linear: tuple[Checkpoint, Path], job_of: Callable[..., Job], with_plugins: Callable[..., Loaded]
):
    @simple
    def writes(weights: Weights):
        weights["weight"].zero_()
        yield Reading("m", 1.0)

    good = simple(fine)
    (expected,) = measure(job_of(linear[0], good), with_plugins(good))
    content = Path(linear[0].path).read_bytes()
    results = by_name(measure(job_of(linear[0], writes, good), with_plugins(writes, good)))
    assert results["writes"].ending is Ending.FAILED
    assert "wrote to the weights in place (weight)" in results["writes"].reason
    assert results["fine"].findings == expected.findings
    assert Path(linear[0].path).read_bytes() == content


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda net: net.weight.detach().add_(1), "tensors"),
        (lambda net: net.train(), "another mode"),
        (lambda net: net(torch.ones(1, 3).double()).sum().backward(), "`.grad`"),
        (lambda net: net.weight.requires_grad_(False), "requires_grad"),
        (lambda net: net.register_forward_hook(lambda *a: None), "hooks"),
    ],
)
def test_a_damaged_model_fails_the_plugin_and_is_built_anew(
    linear: tuple[Checkpoint, Path],
    job_of: Callable[..., Job],
    with_plugins: Callable[..., Loaded],
    damage: Any,
    words: Any,
):
    checkpoint, recipe = linear

    @simple
    def damages(model: Model):
        damage(model.module)
        yield Reading("m", 1.0)

    @simple
    def reads(model: Model):
        net = model.module
        assert not net.training
        assert net.weight.grad is None
        assert net.weight.requires_grad
        assert not net._forward_hooks
        yield Reading("m", float(net.weight.detach().sum()))

    (expected,) = measure(job_of(checkpoint, reads, recipe=recipe), with_plugins(reads))
    results = by_name(measure(job_of(checkpoint, damages, reads, recipe=recipe), with_plugins(damages, reads)))
    assert results["damages"].ending is Ending.FAILED
    assert words in results["damages"].reason
    assert results["reads"].findings == expected.findings


def test_a_plugin_that_keeps_a_tensor_is_found_out(
    linear: tuple[Checkpoint, Path], job_of: Callable[..., Job], with_plugins: Callable[..., Loaded]
):
    kept = []

    @simple
    def keeps(weights: Weights):
        kept.append(weights["weight"])
        yield Reading("m", 1.0)

    good = simple(fine)
    results = by_name(measure(job_of(linear[0], keeps, good), with_plugins(keeps, good)))
    assert results["keeps"].ending is Ending.FAILED
    assert "still in use (weight)" in results["keeps"].reason
    assert results["fine"].ending is Ending.OK
    kept.clear()


def test_nothing_stays_mapped_or_open(
    linear: tuple[Checkpoint, Path], job_of: Callable[..., Job], with_plugins: Callable[..., Loaded]
):
    plugins = [simple(each) for each in (fine, raising, no_number, no_finding)]
    measure(job_of(linear[0], *plugins), with_plugins(*plugins))
    assert linear[0].path not in Path("/proc/self/maps").read_text()
    assert linear[0].path not in {os.path.realpath(each) for each in Path("/proc/self/fd").iterdir()}


# --- chance ---------------------------------------------------------------------------------------------------------


def test_chance_is_seeded_by_checkpoint_and_plugin(
    save: Callable[..., Checkpoint], job_of: Callable[..., Job], with_plugins: Callable[..., Loaded]
):
    one, two = (save({"model": {"w": torch.ones(2)}}, step) for step in (1, 2))

    @simple
    def draws(weights: Weights):
        yield Reading("m", float(torch.rand(())) + random.random())

    @simple
    def draws_too(weights: Weights):
        yield Reading("m", float(torch.rand(())) + random.random())

    loaded = with_plugins(draws, draws_too)
    together = by_name(measure(job_of(one, draws, draws_too), loaded))
    (alone,) = measure(job_of(one, draws_too), loaded)
    (elsewhere,) = measure(job_of(two, draws), loaded)
    assert together["draws_too"].findings == alone.findings
    assert together["draws_too"].seed == alone.seed is not None
    values = {each.findings[0].value for each in (together["draws"], together["draws_too"], elsewhere)}
    assert len(values) == 3
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    measure(job_of(one, draws), loaded)
    assert torch.rand(1) == expected


# --- change ---------------------------------------------------------------------------------------------------------


def test_a_checkpoint_that_is_gone_or_was_overwritten_before(
    save: Callable[..., Checkpoint], job_of: Callable[..., Job], with_plugins: Callable[..., Loaded]
):
    good = simple(fine)
    checkpoint = save({"model": {"w": torch.ones(2)}})
    save({"model": {"w": torch.ones(200)}})
    (result,) = measure(job_of(checkpoint, good), with_plugins(good))
    assert (result.ending, result.findings) == (Ending.SUPERSEDED, ())
    Path(checkpoint.path).unlink()
    (result,) = measure(job_of(checkpoint, good), with_plugins(good))
    assert result.ending is Ending.GONE
    assert checkpoint.path in result.reason


@pytest.mark.parametrize("which", ["now", "before"])
@pytest.mark.parametrize(("change", "ending"), [("overwrite", Ending.SUPERSEDED), ("delete", Ending.GONE)])
def test_a_change_meanwhile_discards_what_was_read(
    save: Callable[..., Checkpoint],
    job_of: Callable[..., Job],
    with_plugins: Callable[..., Loaded],
    which: Any,
    change: Any,
    ending: Ending,
):
    before, now = (save({"model": {"w": torch.ones(2)}}, step) for step in (1, 2))
    changed = Path({"now": now, "before": before}[which].path)

    @plugin(version=1, metrics=M, over="pair", against="previous")
    def compare(weights: Weights, other: Other):
        if change == "delete":
            changed.unlink(missing_ok=True)
        else:
            changed.write_bytes(changed.read_bytes() + b" ")
        yield Reading("m", 1.0)

    good = simple(fine)
    results = by_name(measure(job_of(now, compare, good, previous=before), with_plugins(compare, good)))
    assert (results["compare"].ending, results["compare"].findings) == (ending, ())
    assert results["fine"].ending is (ending if which == "now" else Ending.OK)


def test_a_file_that_is_no_checkpoint(
    tmp_path: Path, save: Callable[..., Checkpoint], job_of: Callable[..., Job], with_plugins: Callable[..., Loaded]
):
    from dataclasses import replace

    from sounding.stamps import stamp_of

    path = tmp_path / "bad.pt"
    path.write_bytes(b"nothing of the kind")
    checkpoint = replace(save({"model": {"w": torch.ones(2)}}), path=str(path), stamp=stamp_of(path))
    good = simple(fine)
    (result,) = measure(job_of(checkpoint, good), with_plugins(good))
    assert result.ending is Ending.FAILED
    assert str(path) in result.reason


@pytest.mark.parametrize(
    ("sheet", "words"),
    [
        (RecipeSheet(1, {"default": "x"}), "the recipe is version 2 now, and was 1"),
        (RecipeSheet(2, {"default": "x"}), "probe holds other data"),
    ],
)
def test_a_recipe_other_than_planned_is_not_measured_with(
    linear: tuple[Checkpoint, Path],
    job_of: Callable[..., Job],
    with_plugins: Callable[..., Loaded],
    sheet: RecipeSheet,
    words: Any,
):
    checkpoint, recipe = linear
    needs, good = simple(needs_recipe), simple(fine)
    results = by_name(measure(job_of(checkpoint, needs, good, recipe=recipe, sheet=sheet), with_plugins(needs, good)))
    assert results["needs_recipe"].ending is Ending.FAILED
    assert words in results["needs_recipe"].reason
    assert results["fine"].ending is Ending.OK
