"""Discovery: everything broken is refused with a reason, and everything else stays usable."""

import importlib
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sounding.measuring.collecting import Source, collect
from sounding.measuring.describing import code_digest, describe, describe_loaded
from sounding.measuring.discovery import Loaded, assemble, load
from sounding.running.dispatch import Child, Died, Limits, call_and_wait

HEAD = """
from collections.abc import Iterator
from typing import Literal
from sounding import Finding, Metric, Reading, plugin, shared_pass, accumulator
from sounding.passes import Gradients, Model, Opened, Predictions, Weights

METRICS = [Metric("m", unit="1", meaning="m", source="s")]
"""
GOOD = """
@plugin(version=3, metrics=METRICS)
def good(weights: Weights, *, size: int = 4, ratio: float = 0.5, kind: Literal["a", "b"] = "a") -> Iterator[Finding]:
    '''Fine.'''
    yield Reading("m", 1.0)
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest):
    """Write a package of plugins and look into it; every test has a package name of its own."""
    name = "pkg_" + "".join(char for char in request.node.name if char.isalnum())

    def write(**modules: Any):
        root = tmp_path / name
        root.mkdir()
        (root / "__init__.py").write_text("")
        for module, text in modules.items():
            (root / f"{module}.py").write_text(HEAD + textwrap.dedent(text))
        monkeypatch.syspath_prepend(tmp_path)
        return assemble(*collect([Source("sounding", "sounding.passes"), Source("theirs", name)]))

    return write


def reason(loaded: Any, name: str):
    """The one reason why `name` was refused."""
    (found,) = [each for each in loaded.refusals if each.name == name or each.name.endswith(f".{name}")]
    return found.reason


def test_what_is_installed():
    loaded = load()
    assert {"weight_norm", "weight_change", "loss", "gradient_norm"} <= set(loaded.plugins)
    assert {"weights", "optimizer", "model", "predictions", "gradients"} <= set(loaded.passes)
    assert loaded.refusals == ()
    assert load() is loaded


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("raise ValueError('no such thing')", ["ValueError: no such thing", "broken.py"]),
        ("import nothing_of_that_name", ["ModuleNotFoundError", "nothing_of_that_name"]),
        ("import sys; sys.exit(3)", ["SystemExit: 3"]),
        ("def f(:\n  pass", ["SyntaxError"]),
        ("@plugin(version=0, metrics=METRICS)\ndef p(weights: Weights): ...", ["p: version is 0"]),
        ("@plugin(version=1, metrics=METRICS)\ndef p(weights): ...", ["`weights` has no type annotation"]),
    ],
)
def test_a_module_that_breaks_harms_no_other(package: Callable[..., Loaded], text: str, words: Any):
    loaded = package(broken=text, fine=GOOD)
    assert "good" in loaded.plugins
    for word in words:
        assert word in reason(loaded, "broken")


def test_a_misspelt_need_is_answered_with_a_suggestion(package: Callable[..., Loaded]):
    loaded = package(a="@plugin(version=1, metrics=METRICS)\ndef p(wieghts: Weights): ...", b=GOOD)
    assert "needs `wieghts`, which is no pass; did you mean `weights`?" in reason(loaded, "p")
    assert set(loaded.plugins) == {"good"}


def test_an_annotation_that_differs_from_what_the_pass_returns(package: Callable[..., Loaded]):
    loaded = package(
        a="@plugin(version=1, metrics=METRICS)\ndef p(predictions: Weights): ...",
        b="@plugin(version=1, metrics=METRICS)\ndef q(run: str): ...",
        c=GOOD,
    )
    assert "annotates `predictions`" in reason(loaded, "p")
    assert "Predictions" in reason(loaded, "p")
    assert "annotates `run`" in reason(loaded, "q")
    assert set(loaded.plugins) == {"good"}


def test_a_name_used_twice_is_refused_to_both(package: Callable[..., Loaded]):
    loaded = package(a=GOOD, b=GOOD, c=GOOD.replace("def good", "def other_one"))
    refused = [each for each in loaded.refusals if each.name == "good"]
    assert len(refused) == 2
    for each in refused:
        assert ".a" in each.reason
        assert ".b" in each.reason
    assert set(loaded.plugins) == {"other_one"}


def test_one_object_seen_in_two_modules_is_one(package: Callable[..., Loaded], request: pytest.FixtureRequest):
    name = "pkg_" + "".join(char for char in request.node.name if char.isalnum())
    loaded = package(a=GOOD, b=f"from {name}.a import good")
    assert set(loaded.plugins) == {"good"}
    assert loaded.refusals == ()
    assert loaded.origins["good"] == f"theirs: {name}.a"


def test_a_pass_that_takes_the_name_of_a_built_in_one_loses_it(package: Callable[..., Loaded]):
    loaded = package(a="@shared_pass(version=1)\ndef weights(opened: Opened) -> int: return 1", b=GOOD)
    assert "`weights` is used by" in reason(loaded, "weights")
    assert loaded.passes["weights"].function.__module__ == "sounding.passes.weights"
    assert "good" in loaded.plugins


def test_passes_in_a_circle_are_refused_with_those_that_use_them(package: Callable[..., Loaded]):
    loaded = package(
        a="""
        @shared_pass(version=1)
        def one(two: int) -> int: return two
        @shared_pass(version=1)
        def two(one: int) -> int: return one
        @shared_pass(version=1)
        def three(two: int) -> int: return two
        @plugin(version=1, metrics=METRICS)
        def p(three: int): ...
        """,
        b=GOOD,
    )
    for name in ("one", "two"):
        assert "in a circle" in reason(loaded, name)
        assert "`one`" in reason(loaded, name)
    assert "needs the pass `two`, which was refused" in reason(loaded, "three")
    assert "needs the pass `three`, which was refused" in reason(loaded, "p")
    assert set(loaded.plugins) == {"good"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("@shared_pass(version=1)\ndef run(weights: Weights) -> int: return 1", "supplied by the engine"),
        (
            "class A:\n    def update(self, batch): ...\n    def result(self) -> int: return 1\n"
            "@accumulator(version=1)\ndef run2(predictions: Predictions) -> A: return A()",
            "all fill in one traversal",
        ),
        (
            "class A:\n    def update(self, batch): ...\n    def result(self): return 1\n"
            "@accumulator(version=1)\ndef untyped() -> A: return A()",
            "no return annotation",
        ),
    ],
)
def test_wrong_passes(package: Callable[..., Loaded], text: str, words: Any):
    loaded = package(a=text, b=GOOD)
    assert any(words in each.reason for each in loaded.refusals)
    assert set(loaded.plugins) == {"good"}


def test_a_sheet_tells_what_the_daemon_needs_to_know(package: Callable[..., Loaded]):
    loaded = package(a=GOOD, b="@plugin(version=1, metrics=METRICS)\ndef q(gradients: Gradients): yield")
    catalogue = describe_loaded(loaded, {"good": {"size": 9}}, {})
    sheet = catalogue.plugins["good"]
    assert (sheet.version, sheet.over, sheet.cost, sheet.summary) == (3, "checkpoint", "weights", "Fine.")
    assert [(each.name, each.type, each.value) for each in sheet.options] == [
        ("size", "int", 9),
        ("ratio", "float", 0.5),
        ("kind", "Literal['a', 'b']", "a"),
    ]
    assert [each.name for each in sheet.passes] == ["weights"]
    assert not sheet.needs_recipe
    other = catalogue.plugins["q"]
    assert [each.name for each in other.passes] == ["gradients", "model", "weights"]
    assert other.needs_recipe
    assert other.summary == ""


def test_the_options_hash_follows_the_values_in_force_only(package: Callable[..., Loaded]):
    loaded = package(a=GOOD)

    def hashed(**settings: Any):
        return describe_loaded(loaded, {"good": settings}, {}).plugins["good"].options_hash

    assert hashed() == hashed(size=4) == hashed(ratio=0.5, kind="a")
    assert len({hashed(), hashed(size=5), hashed(ratio=0.25), hashed(kind="b")}) == 4
    assert hashed(ratio=1) == hashed(ratio=1.0)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"size": "big"}, ["plugin good", "`size`", "'big'", "int", "default is 4"]),
        ({"size": 1.5}, ["`size`", "1.5"]),
        ({"size": True}, ["`size`", "True"]),
        ({"ratio": "0.5"}, ["`ratio`", "float"]),
        ({"kind": "c"}, ["`kind`", "Literal"]),
        ({"sise": 3}, ["no option `sise`; did you mean `size`?"]),
    ],
)
def test_a_wrong_option_refuses_its_plugin_alone(package: Callable[..., Loaded], settings: dict[str, Any], words: Any):
    loaded = package(a=GOOD, b=GOOD.replace("def good", "def fine"))
    catalogue = describe_loaded(loaded, {"good": settings}, {})
    (refusal,) = catalogue.refusals
    assert refusal.name == "good"
    for word in words:
        assert word in refusal.reason
    assert set(catalogue.plugins) == {"fine"}


@pytest.mark.parametrize("default", ["'four'", "None", "4.5"])
def test_a_default_of_the_wrong_type_is_the_authors_mistake(package: Callable[..., Loaded], default: str):
    loaded = package(a=GOOD.replace("size: int = 4", f"size: int = {default}"))
    assert "the default of option `size`" in reason(loaded, "good")


def test_settings_of_unknown_plugins_and_passes_are_told(package: Callable[..., Loaded]):
    loaded = package(a=GOOD)
    refusals = describe_loaded(loaded, {"goood": {"size": 1}}, {"wheights": {"a": 1}}).refusals
    assert {each.name for each in refusals} == {"goood", "wheights"}
    assert "did you mean `good`?" in refusals[0].reason + refusals[1].reason
    assert "did you mean `weights`?" in refusals[0].reason + refusals[1].reason


def test_wrong_pass_settings_refuse_the_pass_and_its_users(package: Callable[..., Loaded]):
    text = """
    @shared_pass(version=1)
    def rank(weights: Weights, *, top: int = 2) -> int: return top
    @plugin(version=1, metrics=METRICS)
    def p(rank: int): ...
    """
    loaded = package(a=text, b=GOOD)
    catalogue = describe_loaded(loaded, {}, {"rank": {"top": "x"}})
    assert set(catalogue.plugins) == {"good"}
    reasons = {each.name: each.reason for each in catalogue.refusals}
    assert "`top` is 'x'" in reasons["rank"]
    assert "needs the pass `rank`" in reasons["p"]
    one, two = (describe_loaded(loaded, {}, {"rank": {"top": top}}).plugins["p"].passes[0] for top in (2, 3))
    assert one.options_hash != two.options_hash


def test_code_digests_follow_code_and_nothing_else(package: Callable[..., Loaded]):
    loaded = package(
        a="def f(x):\n    '''One.'''\n    return x + 1\n",
        b="def f(x):\n    '''Other words.'''\n\n    return x + 1  # and a comment\n",
        c="def f(x):\n    '''One.'''\n    return x + 2\n",
        d=GOOD,
    )
    name = loaded.plugins["good"].function.__module__.rpartition(".")[0]
    one, same, different = (code_digest(importlib.import_module(f"{name}.{each}").f) for each in "abc")
    assert one == same != different
    assert code_digest(len) == ""


def test_the_bundled_plugins_are_described_without_refusals():
    catalogue = describe({}, {})
    assert catalogue.refusals == ()
    assert catalogue.plugins["loss"].needs_recipe
    assert not catalogue.plugins["weight_change"].needs_recipe
    assert catalogue.plugins["weight_norm"].origin == "sounding: sounding_plugins.weight_norm"


def test_an_import_that_kills_the_process_is_named_and_can_be_avoided(
    package: Callable[..., Loaded], tmp_path: Path, request: pytest.FixtureRequest
):
    package(a=GOOD)
    name = "pkg_" + "".join(char for char in request.node.name if char.isalnum())
    (tmp_path / name / "deadly.py").write_text("import os; os._exit(9)")
    diary = tmp_path / "diary"

    def collected(*without: str) -> Any:
        arguments = ([Source("theirs", name)], list(without), str(diary))
        return call_and_wait(child, "measuring.names:collected", arguments, Limits(60.0, 4 << 30))

    child = Child("discovery")
    try:
        with pytest.raises(Died, match="exited with status 9"):
            collected()
        assert diary.read_text() == f"{name}.deadly"
        found, refused, reason = collected(diary.read_text())
    finally:
        child.stop()
    assert (found, refused) == (["good"], [f"{name}.deadly"])
    assert reason.startswith(f"importing {name}.deadly ended the process")
