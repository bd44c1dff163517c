"""`scan`, `watch` and `analyse` on real checkpoints; what `demo` refuses; the lines and frames of progress."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
import torch
from cli.lab import CONFIG, Lab
from rich.console import Console

from sounding.running.status import Running, Status, StoreStatus
from sounding_cli.watching import display, line_reporter

MOMENT = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
STATUS = Status("node7", 1, MOMENT.isoformat(), MOMENT.isoformat(), "watching", (StoreStatus("runs", "/x", 1, 2, 1),))
BUSY = replace(STATUS, state="measuring", owed=3, running=(Running("fast", 7, ("loss",), MOMENT.isoformat()),))


@pytest.fixture
def trained(empty_lab: Lab) -> Lab:
    """A run of two checkpoints: a weight of norm 5, then one of norm 10."""
    (empty_lab.path / "runs" / "fast").mkdir()
    for step in (1, 2):
        state = {"layer.weight": torch.tensor([[3.0, 4.0]]) * step}
        torch.save({"model": state, "step": step}, empty_lab.path / "runs" / "fast" / f"ckpt_{step}.pt")
    return empty_lab


def test_scan_shows_what_would_be_measured_and_writes_nothing(trained: Lab) -> None:
    (trained.path / "runs" / "fast" / "ckpt_3.pt").write_bytes(b"half")
    before = sorted(trained.path.rglob("*"))
    rows = trained.json("scan")
    assert [(row["step"], row["verdict"]) for row in rows][:2] == [(1, "complete"), (2, "complete")]
    assert rows[2]["step"] == 3
    assert rows[2]["verdict"] != "complete"
    assert rows[2]["reason"] in trained.run("scan").replace("\n", " ") or len(rows[2]["reason"]) > 60
    assert sorted(trained.path.rglob("*")) == before


def test_scan_of_nothing_names_the_pattern(empty_lab: Lab) -> None:
    assert "matches {run}/ckpt_{step}.pt" in empty_lab.run("scan")


def test_watch_once_measures_and_the_readings_are_shown(trained: Lab) -> None:
    text = trained.run("watch", "--once")
    assert "0 failed" in text
    rows = trained.json("show", "fast", "weight_norm.frobenius")
    assert [(row["step"], row["value"]) for row in rows] == [(1, 5.0), (2, 10.0)]
    (explanation,) = trained.json("why", "fast@2")
    assert {task["plugin"]: task["state"] for task in explanation["tasks"]}["weight_norm"] == "done"


def test_once_and_until_idle_exclude_each_other(empty_lab: Lab) -> None:
    assert "one of them" in empty_lab.error("watch", "--once", "--until-idle", "3", code=2)


def test_analyse_needs_no_configuration_and_gives_a_list_of_readings(trained: Lab) -> None:
    (trained.path / "sounding.toml").unlink()
    path = "runs/fast/ckpt_2.pt"
    rows = trained.json("analyse", path)
    found = {(row["metric"], row["part"]): (row["value"], row["unit"]) for row in rows}
    assert found["frobenius", "layer.weight"] == (10.0, "weight")
    text = trained.run("analyse", path, "--plugin", "weight_norm", "--option", "weight_norm.matrices_only=true")
    assert "layer.weight" in text
    assert "[weight]" in text


def test_analyse_tells_readings_of_one_part_apart(trained: Lab) -> None:
    weights = {"h.0.attn.qkv.weight": torch.eye(12, 4), "h.0.norm1.weight": torch.ones(4)}
    torch.save({"model": weights, "iter_num": 1}, trained.path / "attention.pt")
    heads = ("analyse", "attention.pt", "--plugin", "logit_scale", "--option", "logit_scale.heads=2")
    places = [(row["part"], row["index"]) for row in trained.json(*heads) if row["metric"] == "attention_logit_gain"]
    assert places == [("h.0.attn", None), ("h.0.attn", 0), ("h.0.attn", 1), ("", None)]


def test_tables_of_analyse_leave_room_for_the_names_of_parts(trained: Lab) -> None:
    blocks = ("encoder.blocks.0.attn", "encoder.blocks.1.attn")
    weights = {f"{block}.qkv.weight": torch.eye(12, 4) for block in blocks}
    weights |= {block.replace("attn", "norm1.weight"): torch.ones(4) for block in blocks}
    torch.save({"model": weights, "iter_num": 1}, trained.path / "attention.pt")
    text = trained.run("analyse", "attention.pt", "--plugin", "logit_scale", "--option", "logit_scale.heads=2")
    assert [line for line in text.splitlines() if len(line) > 100] == []
    words = [line.split() for line in text.splitlines()]
    assert {line[0] for line in words if line} >= set(blocks)
    assert {line[1] for line in words if line and line[0] in blocks} >= {"0", "1"}  # heads, beside the names
    metrics = {"attention_logit_gain", "attention_logit_bound", "attention_logit_bound_rotated"}
    assert {word for line in words for word in line} >= metrics


def test_analyse_compares_with_any_other_checkpoint(trained: Lab) -> None:
    pair = ("analyse", "runs/fast/ckpt_2.pt", "--against", "runs/fast/ckpt_1.pt")
    found = {(row["metric"], row["part"]): row["value"] for row in trained.json(*pair, "--plugin", "weight_change")}
    assert found["absolute_change", "layer.weight"] == 5.0
    assert {row["plugin"] for row in trained.json(*pair)} >= {"weight_change", "update_geometry"}
    assert "leave out --against" in trained.error(*pair, "--plugin", "weight_norm")
    assert "with --against" in trained.error("analyse", "runs/fast/ckpt_2.pt", "--plugin", "weight_change")
    assert "elsewhere.pt: no such file" in trained.error("analyse", "runs/fast/ckpt_2.pt", "--against", "elsewhere.pt")


def test_analyse_of_what_is_no_checkpoint_is_an_error(trained: Lab) -> None:
    assert "no such file" in trained.error("analyse", "nowhere.pt")
    (trained.path / "half.pt").write_bytes(b"PK\x03\x04 half")
    assert "half.pt" in trained.error("analyse", "half.pt")


@pytest.mark.parametrize("option", ["matrices_only=true", "weight_norm.matrices_only", "weight_norm.=1"])
def test_an_option_must_name_plugin_key_and_value(trained: Lab, option: str) -> None:
    assert "PLUGIN.KEY=VALUE" in trained.error("analyse", "runs/fast/ckpt_2.pt", "--option", option, code=2)


def test_a_pipe_gets_a_line_per_change_only(capsys: pytest.CaptureFixture[str]) -> None:
    report = line_reporter()
    for status in (STATUS, STATUS, replace(STATUS, heartbeat="later"), BUSY, replace(BUSY, done=4, owed=0)):
        report(status)
    assert capsys.readouterr().out.splitlines() == [
        "watching · 0 owed · 0 done · 0 skipped · 0 failed",
        "measuring fast @ 7 · 3 owed · 0 done · 0 skipped · 0 failed",
        "measuring fast @ 7 · 0 owed · 4 done · 0 skipped · 0 failed",
    ]


def test_a_terminal_gets_a_frame_with_a_bar_and_what_each_worker_does() -> None:
    screen = Console(width=100, force_terminal=True, color_system=None)
    with screen.capture() as captured:
        screen.print(display(replace(BUSY, message="disk full"), MOMENT, "heading"))
    text = captured.get()
    for expected in (
        "heading",
        "measuring",
        "3 owed",
        "measuring fast @ 7: loss (0 s)",
        "runs: 2 complete",
        "disk full",
    ):
        assert expected in text


def test_the_demo_refuses_a_directory_that_is_in_use(lab: Lab) -> None:
    assert "not empty" in lab.error("demo", "--directory", str(lab.path))
    assert (lab.path / "sounding.toml").read_text(encoding="utf-8") == CONFIG


def test_the_demo_says_what_to_install(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install 'sounding[demo]'" in lab.error("demo")
