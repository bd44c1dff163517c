import argparse
import enum
import json
import os
from pathlib import Path, PurePosixPath

import pytest
import torch
import yaml

from sounding.formats import torch_zip
from sounding.records import Attribute, Opaque, Sighting
from sounding.seeing.attributes import attribute, find_attributes


def _find(
    root: Path, *sources: str, tree: object = None, parts: dict[str, int | float | str] | None = None
) -> tuple[dict[str, Attribute], tuple[str, ...]]:
    sighting = Sighting("runs", "a", str(root / "a/ckpt.pt"), 1, parts or {}, ())
    found, problems = find_attributes(sighting, sources, str(root), tree)
    return {item.key: item for item in found}, problems


@pytest.mark.parametrize(
    ("value", "number", "text"),
    [
        (3, 3.0, "3"), (0.5, 0.5, "0.5"), ("1e-3", 0.001, "1e-3"), ("-.5", -0.5, "-.5"), (" 7 ", 7.0, " 7 "),
        (True, 1.0, "true"), (False, 0.0, "false"), (None, None, "null"), ("adam", None, "adam"), ("", None, ""),
        ("nan", None, "nan"), ("1_000", None, "1_000"), ("infinity", None, "infinity"), (float("nan"), None, "nan"),
        ("1e999", None, "1e999"), ("0x10", None, "0x10"),
    ],
)  # fmt: skip
def test_values_as_number_and_text(value: bool | int | float | str | None, number: float | None, text: str):
    assert attribute("k", value, "s") == Attribute("k", number, text, "s")


def test_values_that_are_too_long_are_described():
    assert attribute("k", 10**5000, "s").text == "a whole number of 16610 bits"
    assert attribute("k", 10**5000, "s").number is None
    assert attribute("k", "x" * 2000, "s").text == "x" * 1000 + "…"


def test_typed_parts_of_the_path(tmp_path: Path):
    found, problems = _find(tmp_path, parts={"lr": 0.1, "seed": 3, "variant": "wide"})
    assert found["lr"] == Attribute("lr", 0.1, "0.1", "path")
    assert found["seed"].number == 3.0
    assert found["variant"] == Attribute("variant", None, "wide", "path")
    assert problems == ()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("config.yaml", "lr: 1e-3\noptimizer:\n  name: adam\n  amsgrad: true\nlayers: [1, 2]\nnone:\n"),
        ("config.json", '{"lr": 1e-3, "optimizer": {"name": "adam", "amsgrad": true}, "layers": [1, 2], "none": null}'),
        ("config.toml", 'lr = 1e-3\nnone = "null"\nlayers = [1, 2]\n[optimizer]\nname = "adam"\namsgrad = true\n'),
    ],
)
def test_files_beside_the_run(tmp_path: Path, name: str, text: str):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / name).write_text(text)
    found, problems = _find(tmp_path, f"{{run}}/{name}")
    assert problems == ()
    assert set(found) == {"lr", "optimizer.name", "optimizer.amsgrad", "none"}
    assert found["lr"].number == 0.001
    assert found["lr"].source == f"{{run}}/{name}"
    assert found["optimizer.amsgrad"].number == 1.0
    assert found["optimizer.name"] == Attribute("optimizer.name", None, "adam", f"{{run}}/{name}")


def test_sources_that_do_not_exist_are_no_problem(tmp_path: Path):
    assert _find(tmp_path, "{run}/config.yaml", "checkpoint:args", tree={"model": {}}) == ({}, ())


class Colour(enum.Enum):
    """A setting that is one of a few."""

    RED = "red"


def test_what_yaml_dumps_of_python_objects_is_read_as_data(tmp_path: Path):
    args = argparse.Namespace(
        lr=0.1, out=PurePosixPath("runs"), betas=(0.9, 0.95), colour=Colour.RED, loss=json.dumps, name="a", none=None
    )
    (tmp_path / "args.yaml").write_text(yaml.dump(args))
    found, problems = _find(tmp_path, "args.yaml")
    assert problems == ()
    assert found["lr"].number == 0.1
    assert {key: item.text for key, item in found.items()} == {
        "lr": "0.1", "out": "runs", "colour": "red", "loss": "json.dumps", "name": "a", "none": "null",
    }  # fmt: skip


def test_no_object_in_yaml_is_made(tmp_path: Path):
    marker = tmp_path / "marker"
    calls = (f"a: !!python/object/apply:os.system ['touch {marker}']",
             f"a: !!python/object/new:subprocess.Popen [['touch', '{marker}']]",
             f"a: !!python/object/apply:builtins.eval [\"open('{marker}', 'w')\"]")  # fmt: skip
    for text in calls:
        (tmp_path / "c.yaml").write_text(text)
        _find(tmp_path, "c.yaml")
        assert not marker.exists()
    (tmp_path / "c.yaml").write_text("&a !!python/object:x.Y {self: *a}")
    assert "recursive" in _find(tmp_path, "c.yaml")[1][0]


def test_settings_of_a_job_of_hydra(tmp_path: Path):
    (tmp_path / "a" / ".hydra").mkdir(parents=True)
    (tmp_path / "a" / ".hydra" / "config.yaml").write_text("rate: 0.1\nmodel:\n  width: 20\ndoubled: ${rate}\n")
    (tmp_path / "a" / ".hydra" / "overrides.yaml").write_text("- model.width=20\n")
    found, problems = _find(tmp_path, "{run}/.hydra/config.yaml", "{run}/.hydra/overrides.yaml")
    assert problems == ()
    assert {key: item.text for key, item in found.items()} == {
        "rate": "0.1", "model.width": "20", "doubled": "${rate}",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("c.yaml", b"a: [unclosed"),
        ("c.yaml", b"\xff\xfe"),
        ("c.yaml", b"a: &a\n  x: 1\n" + b"\n".join(b"k%d: &k%d {a: *%s, b: *%s}" % (i, i, p, p) for i, p in
                                                 [(i, b"a" if i == 0 else b"k%d" % (i - 1)) for i in range(40)])),
        ("c.json", b"{"),
        ("c.json", b"[" * 100_000),
        ("c.toml", b"a ="),
        ("c.txt", b"a = 1"),
        ("c.yaml", b"a: 1\n" * 300_000),
    ],
)  # fmt: skip
def test_sources_that_cannot_be_read_are_named(tmp_path: Path, name: str, content: bytes):
    (tmp_path / name).write_bytes(content)
    found, problems = _find(tmp_path, name, parts={"seed": 1})
    assert set(found) == {"seed"}
    assert len(problems) == 1
    assert problems[0].startswith(f"{name}: ")


def test_a_pipe_beside_the_run_does_not_hang(tmp_path: Path):
    os.mkfifo(tmp_path / "c.yaml")
    _, problems = _find(tmp_path, "c.yaml")
    assert "not a regular file" in problems[0]


def test_a_run_name_cannot_lead_out_of_the_store(tmp_path: Path):
    sighting = Sighting("runs", "../x", "/p", 1, {}, ())
    _, problems = find_attributes(sighting, ("{run}/c.yaml",), str(tmp_path), None)
    assert "leads out" in problems[0]


def test_what_the_checkpoint_says(tmp_path: Path):
    tree = {
        "model": {"w": torch.ones(2)},
        "args": argparse.Namespace(lr=0.1, schedule={"warmup": 10}, out=Path("/runs/a"), device=torch.device("cpu")),
        "hyper_parameters": {"width": torch.tensor(64), "betas": (0.9, 0.95)},
    }
    torch.save(tree, tmp_path / "a.pt")
    found, problems = _find(
        tmp_path, "checkpoint:args", "checkpoint:hyper_parameters", tree=torch_zip.read(tmp_path / "a.pt")
    )
    assert problems == ()
    assert {key: item.text for key, item in found.items()} == {
        "lr": "0.1", "schedule.warmup": "10", "out": "/runs/a", "device": "cpu", "width": "64",
    }  # fmt: skip
    assert found["width"].number == 64.0


def test_wrapped_values_are_unwrapped():
    node = {"_content": {"lr": Opaque("omegaconf.nodes.AnyNode", {"_val": 0.5, "_metadata": {"a": 1}})}}
    tree = {"config": Opaque("omegaconf.dictconfig.DictConfig", node | {"_parent": None}),
            "args": {"colour": Opaque("app.Colour", {"args": ("red",)})}}  # fmt: skip
    found, _ = _find(Path("/x"), "checkpoint:config", "checkpoint:args", tree=tree)
    assert {key: item.text for key, item in found.items()} == {"lr": "0.5", "colour": "red"}


def test_dotted_places_and_conflicts(tmp_path: Path):
    (tmp_path / "c.json").write_text(json.dumps({"lr": 0.2}))
    sighting = Sighting("runs", "a", "/p", 1, {"lr": 0.1}, ())
    tree = {"trainer": {"args": {"lr": 0.3}}}
    found, _ = find_attributes(sighting, ("c.json", "checkpoint:trainer.args"), str(tmp_path), tree)
    assert [(item.key, item.number, item.source) for item in found] == [
        ("lr", 0.1, "path"), ("lr", 0.2, "c.json"), ("lr", 0.3, "checkpoint:trainer.args"),
    ]  # fmt: skip


def test_too_many_values_are_cut_and_said(tmp_path: Path):
    (tmp_path / "c.json").write_text(json.dumps({f"k{i}": i for i in range(2500)}))
    found, problems = _find(tmp_path, "c.json")
    assert len(found) == 2000
    assert "more than 2000" in problems[0]


def test_cycles_end():
    cycle: dict[str, object] = {"lr": 1}
    cycle["self"] = cycle
    found, _ = _find(Path("/x"), "checkpoint:config", tree={"config": cycle})
    assert found["lr"].number == 1.0
