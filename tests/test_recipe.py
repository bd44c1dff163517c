"""The operator's file: what it may say, what is said when it is wrong, and that equal data give equal hashes."""

import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, TensorDataset

from sounding import Run, SoundingError
from sounding.digest import digest_of
from sounding.recipe import Probe, load_recipe, survey

RUN = Run("lab", "a", {"width": 8})
HEAD = "import torch\nfrom sounding.recipe import Probe\ndef architecture(checkpoint): return torch.nn.Linear(2, 2)\n"


@pytest.fixture
def written(tmp_path: Path):
    def write(text: str, name: str = "recipe.py"):
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return write


def message(path: str):
    with pytest.raises(SoundingError) as caught:
        load_recipe(path).probes(RUN)
    return str(caught.value)


# --- loading --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("version = 1", ["defines no `architecture`", "def architecture(checkpoint):"]),
        ("1/0", ["ZeroDivisionError", "recipe.py:1"]),
        ("import sys; sys.exit('bye')", ["SystemExit: bye"]),
        ("def f(:", ["SyntaxError"]),
        ("version = 'two'\n" + HEAD, ["version is 'two'", "`version = 1`"]),
        ("version = True\n" + HEAD, ["version is True"]),
        (HEAD, ["defines no `probe`", "def probe(run):"]),
        (HEAD + "def probe(run): return [1, 2]", ["probe returned a list", "Probe(train="]),
        (HEAD + "def probe(run): return {'other': Probe(train=(torch.ones(2), torch.ones(2)))}", ['named "default"']),
        (HEAD + "def probe(run): raise KeyError('x')", ["probe raised: KeyError", "recipe.py:4"]),
        (HEAD + "def probe(run): exit()", ["probe raised: SystemExit"]),
        (HEAD + "def probe(run, device): ...", ["probe asks for `device`", "run"]),
        (HEAD + "def probe(run): return Probe(train=(torch.ones(2), torch.ones(3)))", ["differ in length: [2, 3]"]),
    ],
)
def test_what_is_wrong_is_said_with_what_to_write(written: Callable[..., str], text: str, words: Any):
    path = written(text)
    said = message(path)
    for word in (path, *words):
        assert word in said
    if "defines no `probe`" not in said:
        assert survey(path, RUN).error == said


def test_a_missing_file_is_named(tmp_path: Path):
    assert "no such recipe" in message(str(tmp_path / "absent.py"))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return torch.nn.Linear", ["the class Linear", "call the class"]),
        ("return 3", ["architecture returned a int", "torch.nn.Module"]),
        ("raise RuntimeError('no width')", ["architecture raised: RuntimeError: no width"]),
    ],
)
def test_wrong_architectures(written: Callable[..., str], body: str, words: Any):
    recipe = load_recipe(written(f"import torch\ndef architecture(checkpoint):\n    {body}\n"))
    with pytest.raises(SoundingError) as caught:
        recipe.architecture(None, RUN)
    for word in words:
        assert word in str(caught.value)


def test_functions_receive_what_they_name(written: Callable[..., str]):
    text = """
import torch
def architecture(checkpoint, run, model):
    assert (checkpoint, model) == ("the checkpoint", "ema")
    return torch.nn.Linear(run.attributes["width"], 1)
"""
    assert load_recipe(written(text)).architecture("the checkpoint", RUN, "ema").in_features == 8


def test_a_single_parameter_may_have_any_name(written: Callable[..., str]):
    text = "import torch\ndef architecture(ckpt): return torch.nn.Linear(ckpt, 1)\n"
    assert load_recipe(written(text)).architecture(5, RUN).in_features == 5


def test_a_recipe_is_loaded_again_when_it_or_a_module_beside_it_changes(written: Callable[..., str]):
    written("SIZE = 3", "beside.py")
    path = written("import torch, beside\ndef architecture(c): return torch.nn.Linear(beside.SIZE, 1)\n")
    first = load_recipe(path)
    assert load_recipe(path) is first
    assert first.architecture(None, RUN).in_features == 3
    assert "beside" not in sys.modules
    written("SIZE = 4444", "beside.py")
    assert load_recipe(path).architecture(None, RUN).in_features == 4444
    written("version = 7\nimport torch\ndef architecture(c): return torch.nn.Linear(9, 1)\n")
    assert load_recipe(path).version == 7


def test_modules_of_one_name_beside_two_recipes_are_not_mixed(tmp_path: Path):
    sizes = []
    for size in (3, 4):
        (tmp_path / str(size)).mkdir()
        (tmp_path / str(size) / "net.py").write_text(f"SIZE = {size}")
        path = tmp_path / str(size) / "recipe.py"
        path.write_text(
            "import torch\ndef architecture(c):\n    from net import SIZE\n    return torch.nn.Linear(SIZE, 1)\n"
        )
        sizes.append(load_recipe(str(path)).architecture(None, RUN).in_features)
    assert sizes == [3, 4]


def test_nothing_is_written_beside_the_recipe(written: Callable[..., str], tmp_path: Path):
    written("SIZE = 3", "beside.py")
    load_recipe(written("import beside\n" + HEAD))
    assert sorted(each.name for each in tmp_path.iterdir()) == ["beside.py", "recipe.py"]


def test_unseeded_data_are_the_same_every_time_and_leave_the_generators_alone(written: Callable[..., str]):
    text = HEAD + (
        "import random, numpy\ndef probe(run):\n"
        "    x = torch.randn(4, 2) + random.random() + numpy.random.rand()\n"
        "    return Probe(train=(x, torch.arange(4)))\n"
    )
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    expected = (torch.rand(1), random.random(), np.random.rand())
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    hashes = {survey(written(text + f"# {i}"), RUN).probe_hashes["default"] for i in range(2)}
    assert len(hashes) == 1
    assert (torch.rand(1), random.random(), np.random.rand()) == expected


def test_a_survey_tells_version_and_every_probes_hash(written: Callable[..., str]):
    text = HEAD + (
        "version = 4\ndef probe(run):\n    p = lambda n: Probe(train=(torch.ones(n, 2), torch.ones(n)))\n"
        "    return {'default': p(3), 'large': p(run.attributes['width'])}\n"
    )
    sheet = survey(written(text), RUN)
    assert (sheet.version, sheet.error) == (4, "")
    assert set(sheet.probe_hashes) == {"default", "large"}
    assert len(set(sheet.probe_hashes.values())) == 2


def test_a_recipe_without_a_probe_can_be_surveyed(written: Callable[..., str]):
    sheet = survey(written(HEAD), RUN)
    assert (sheet.version, dict(sheet.probe_hashes), sheet.error) == (1, {}, "")


def test_survey_reports_data_it_cannot_hash(written: Callable[..., str]):
    text = HEAD + "def probe(run): return Probe(train=[({1, 2}, 3), ({4}, 5), ({6}, 7)])\n"
    assert "set" in survey(written(text), RUN).error


# --- probes ---------------------------------------------------------------------------------------------------------


X, Y = torch.arange(12.0).reshape(6, 2), torch.arange(6)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"train": X}, ["train split is a Tensor"]),
        ({"train": 3}, ["train split is a int", "Probe(train="]),
        ({"train": (X[:0], Y[:0])}, ["train split is empty"]),
        ({"train": (X, torch.tensor(1.0))}, ["without dimensions"]),
        ({"train": (X, Y), "heldout": (X, Y[:2])}, ["heldout split differ in length: [2, 6]"]),
        ({"train": (X, Y), "ids": ["a"]}, ["ids has 1 values for the train split of 6"]),
        ({"train": (X, Y), "groups": {"c": Y[:5]}}, ["groups['c'] has 5 values"]),
        ({"train": (X, Y), "flags": [True] * 6}, ["flags must map names"]),
        ({"train": (X, Y), "ids": {"heldout": list(range(6))}}, ["split 'heldout'", "there are: train"]),
        ({"train": (X, Y), "unit": "word"}, ["unit is 'word'"]),
        ({"train": (["a", "b"], Y)}, ["list where a tensor is expected"]),
        ({"train": ({"a": X, "b": X[:3]}, Y)}, ["differ in length: [3, 6]"]),
    ],
)
def test_wrong_probes(arguments: dict[str, Any], words: Any):
    with pytest.raises(SoundingError) as caught:
        Probe(**arguments)
    for word in words:
        assert word in str(caught.value)


class Words(Dataset):
    """A data set of dictionaries, as text models have it."""

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": torch.full((3,), index), "labels": torch.tensor(index * 10)}


def test_batches_of_all_kinds_of_splits():
    for data in ((X, Y), (X.numpy(), Y.numpy()), TensorDataset(X, Y)):
        inputs, targets = Probe(train=data).splits["train"].batch(2, 5)
        assert torch.equal(inputs, X[2:5])
        assert torch.equal(targets, Y[2:5])
    inputs, targets = Probe(train=({"a": X, "b": (Y, X)}, Y)).splits["train"].batch(1, 2)
    assert torch.equal(inputs["a"], X[1:2])
    assert torch.equal(inputs["b"][1], X[1:2])
    inputs, targets = Probe(train=Words()).splits["train"].batch(1, 3)
    assert list(inputs) == ["input_ids"]
    assert targets.tolist() == [10, 20]


def test_a_collate_of_ones_own():
    probe = Probe(train=Words(), collate=lambda items: (torch.stack([each["input_ids"] for each in items]), "t"))
    inputs, targets = probe.splits["train"].batch(0, 2)
    assert inputs.shape == (2, 3)
    assert targets == "t"


def test_a_batch_without_targets_asks_for_a_collate():
    with pytest.raises(SoundingError, match="give Probe a `collate`"):
        Probe(train=[torch.ones(2)] * 3).splits["train"].batch(0, 2)


def test_per_example_values_default_to_positions_and_may_differ_by_split():
    probe = Probe(train=(X, Y), heldout=(X[:2], Y[:2]), ids={"heldout": ["p", "q"]}, flags={"noisy": Y > 2})
    assert list(probe.ids_of("train")) == list(range(6))
    assert list(probe.ids_of("heldout")) == ["p", "q"]
    assert probe.flags_of("train") == {"noisy": [False, False, False, True, True, True]}
    assert probe.flags_of("heldout") == {}


# --- hashes ---------------------------------------------------------------------------------------------------------


BASE = {"train": (X, Y), "heldout": (X + 1, Y), "ids": list("abcdef"), "flags": {"noisy": [True] * 6}}


@pytest.mark.parametrize(
    "change",
    [
        {"train": (X * (1 + 2.0**-23 * (X == 11)), Y)},
        {"train": (X.double(), Y)},
        {"train": (X.reshape(6, 1, 2), Y)},
        {"train": (X, Y.int())},
        {"train": (X, Y.flip(0))},
        {"heldout": None},
        {"heldout": (X, Y)},
        {"ids": list("abcdeg")},
        {"flags": {"noisy": [False] * 6}},
        {"flags": {"clean": [True] * 6}},
        {"groups": {"class": Y}},
        {"member": [True] * 6},
        {"true_targets": Y},
        {"unit": "token"},
    ],
)
def test_every_change_of_the_data_changes_the_hash(change: Any):
    probe = Probe(**{**BASE, **change})
    assert probe.hash != Probe(**BASE).hash


def test_inputs_targets_ids_and_membership_are_hashed_apart():
    base = Probe(**BASE)
    assert Probe(**{**BASE, "ids": None}).inputs_hash == base.inputs_hash
    assert Probe(**{**BASE, "ids": None}).ids_hash != base.ids_hash
    noisy = Probe(**{**BASE, "train": (X, Y.flip(0))})
    assert (noisy.inputs_hash, noisy.ids_hash) == (base.inputs_hash, base.ids_hash)
    assert noisy.targets_hash != base.targets_hash
    member = Probe(**BASE, member=torch.ones(6, dtype=torch.bool))
    assert member.inputs_hash == base.inputs_hash
    assert member.membership_hash != base.membership_hash


def test_the_layout_in_memory_does_not_matter():
    transposed = X.t().contiguous().t()
    assert not transposed.is_contiguous()
    assert Probe(train=(transposed, Y)).hash == Probe(train=(X, Y)).hash


def test_a_data_set_is_hashed_item_by_item():
    one, two = TensorDataset(X, Y), TensorDataset(X.clone(), Y.clone())
    assert Probe(train=one).hash == Probe(train=two).hash
    two.tensors[0][5, 1] += 1
    assert Probe(train=one).inputs_hash != Probe(train=two).inputs_hash
    assert Probe(train=one).targets_hash == Probe(train=two).targets_hash
    assert Probe(train=Words()).targets_hash == Probe(train=Words()).targets_hash


def test_hashes_are_equal_in_every_process():
    code = (
        "import torch\nfrom sounding.recipe import Probe\nX, Y = torch.arange(12.0).reshape(6, 2), torch.arange(6)\n"
        "print(Probe(train=({'b': X, 'a': X.bfloat16()}, Y), ids=list('abcdef'), groups={'g': Y, 'f': Y}).hash)"
    )
    here = Probe(train=({"a": X.bfloat16(), "b": X}, Y), ids=list("abcdef"), groups={"f": Y, "g": Y}).hash
    there = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "77"}
    )
    assert there.stdout.strip() == here


def test_digests_tell_types_and_boundaries_apart():
    values = [
        [1],
        [1.0],
        [True],
        ["1"],
        [b"1"],
        [None],
        [[1]],
        [1, 1],
        [[1, 1]],
        ["ab"],
        ["a", "b"],
        [{"a": 1}],
        [np.int64(1)],
    ]
    values += [
        [np.ones(2)],
        [np.ones(2, np.float32)],
        [np.ones((1, 2))],
        [torch.ones(2)],
        [torch.tensor(1.0)],
        [{}],
        [[]],
    ]
    assert len({digest_of(each) for each in values}) == len(values)


def test_what_cannot_be_hashed_is_refused():
    for value in (object(), {1, 2}, np.array([object()])):
        with pytest.raises(SoundingError, match="cannot be hashed"):
            digest_of([value])
