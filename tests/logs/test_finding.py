"""Where logs are looked for: names and `stat`, directories listed only when they changed."""

import os
from pathlib import Path

import pytest
from making import settings_in

from sounding.logs.finding import Finder


def finder(path: Path, *logs: str) -> Finder:
    listed = ", ".join(f'"{log}"' for log in logs)
    text = f'[[stores]]\npath = "runs"\npattern = "{{run}}/ckpt_{{step}}.pt"\nlogs = [{listed}]\n'
    return Finder(settings_in(path, text).stores[0])


def touch(path: Path, mtime: float = 1000.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("x")
    os.utime(path, (mtime, mtime))


def names(of: Finder, run: str = "a", newest: Path | None = None, now: float = 0.0) -> list[str]:
    return [found.log.name for found in of.find(run, None if newest is None else str(newest), now)]


def test_each_setting_by_run_and_the_last_written_last(tmp_path: Path):
    look = finder(tmp_path, "{run}/metrics.csv", "{run}/lightning_logs/*/metrics.csv", "logs/{run}-*.jsonl")
    store = look.store.path
    assert names(look) == []
    for number, mtime in ((0, 50.0), (10, 70.0), (9, 70.0), (1, 90.0)):
        touch(store / f"a/lightning_logs/version_{number}/metrics.csv", mtime)
    touch(store / "a/metrics.csv")
    touch(store / "b/metrics.csv")
    touch(store / "logs/a-train.jsonl")
    touch(store / "logs/ab-train.jsonl")
    (store / "a/lightning_logs/version_2").mkdir()
    assert names(look, now=1.0) == [
        "a/metrics.csv",
        *(f"a/lightning_logs/version_{number}/metrics.csv" for number in (0, 9, 10, 1)),
        "logs/a-train.jsonl",
    ]
    assert names(look, "b") == ["b/metrics.csv"]
    assert {found.log.source for found in look.find("b", None, 0.0)} == {"{run}/metrics.csv"}


def test_the_file_of_the_newest_checkpoint_keeps_one_name(tmp_path: Path):
    look = finder(tmp_path, "checkpoint:trainer_state.json")
    newest = look.store.path / "a/checkpoint-20"
    touch(newest / "trainer_state.json")
    assert names(look) == []
    (found,) = look.find("a", str(newest), 0.0)
    assert (found.log.name, found.log.path) == ("checkpoint:trainer_state.json", str(newest / "trainer_state.json"))
    assert names(look, newest=look.store.path / "a/checkpoint.pt") == []


def test_no_link_leads_out_of_a_checkpoint(tmp_path: Path):
    look = finder(tmp_path, "checkpoint:trainer_state.json")
    newest = look.store.path / "a/checkpoint-20"
    newest.mkdir(parents=True)
    touch(tmp_path / "secret.json")
    (newest / "trainer_state.json").symlink_to(tmp_path / "secret.json")
    assert names(look, newest=newest) == []


@pytest.mark.parametrize("run", ["", ".", ".."])
def test_no_run_leads_out_of_the_store(tmp_path: Path, run: str):
    look = finder(tmp_path, "{run}/metrics.csv")
    touch(look.store.path / "metrics.csv")
    touch(tmp_path / "metrics.csv")
    assert names(look, run) == []


def test_a_run_may_have_signs_in_its_name_that_mean_something_elsewhere(tmp_path: Path):
    look = finder(tmp_path, "{run}/*.csv")
    for name in ("*", "[ab]", "a?", "x"):
        touch(look.store.path / name / "m.csv")
    for name in ("*", "[ab]", "a?"):
        assert names(look, name) == [f"{name}/m.csv"]


def test_directories_are_listed_when_they_changed_and_once_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    look = finder(tmp_path, "{run}/*.csv")
    touch(look.store.path / "a/m.csv")
    listed: list[str] = []

    def listdir(path: str) -> list[str]:
        listed.append(path)
        return [entry.name for entry in os.scandir(path)]

    monkeypatch.setattr(os, "listdir", listdir)
    counts = []
    for now in (0.0, 1.0, 3.0, 5.0, 100.0):
        assert names(look, now=now) == ["a/m.csv"]
        counts.append(len(listed))
    assert counts == [1, 2, 3, 3, 3]
    touch(look.store.path / "a/n.csv")
    assert names(look, now=101.0) == ["a/m.csv", "a/n.csv"]


def test_names_that_are_no_text_are_left_out(tmp_path: Path):
    look = finder(tmp_path, "{run}/*.csv")
    touch(look.store.path / "a/m.csv")
    touch(look.store.path / "a" / os.fsdecode(b"\xff.csv"))
    assert names(look) == ["a/m.csv"]
