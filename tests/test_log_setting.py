"""The entries of `logs`: what they may be, and what is said of those that are not."""

from pathlib import Path

import pytest
from making import settings_in

from sounding.config import Store
from sounding.errors import SoundingError
from sounding.log_setting import LogSetting, kind_of

PATTERN = "{run}/ckpt_{step}.pt"


def store(path: Path, logs: str, pattern: str = PATTERN) -> Store:
    return settings_in(path, f'[[stores]]\npath = "runs"\npattern = "{pattern}"\nlogs = {logs}\n').stores[0]


def test_settings_as_text_and_as_tables(tmp_path: Path):
    logs = '["{run}/m.csv", {path = "{run}/*/x.jsonl", updates = "n"}, "checkpoint:trainer_state.json"]'
    assert store(tmp_path, logs).logs == (
        LogSetting("{run}/m.csv"),
        LogSetting("{run}/*/x.jsonl", "n"),
        LogSetting("checkpoint:trainer_state.json"),
    )
    assert [setting.inside for setting in store(tmp_path, logs).logs] == ["", "", "trainer_state.json"]
    assert store(tmp_path, '"{run}/m.csv"').logs == (LogSetting("{run}/m.csv"),)
    assert store(tmp_path, "[]").logs == ()


def test_a_store_of_one_run_need_not_name_it(tmp_path: Path):
    assert store(tmp_path, '"metrics.csv"', "ckpt_{step}.pt").logs == (LogSetting("metrics.csv"),)


@pytest.mark.parametrize(
    ("logs", "said"),
    [
        ('"metrics.csv"', "it is the same file for every run; name the run in it"),
        ('"{run}/m.txt"', "expected a name that ends in .csv, .tsv, .jsonl, .ndjson, .json, or has tfevents in it"),
        ('"/{run}/m.csv"', "expected a path below the store"),
        ('"{run}/../m.csv"', "expected a path below the store"),
        ('"checkpoint:a/b.json"', "checkpoint: and the name of one file"),
        ('"checkpoint:*.json"', "neither inside a checkpoint"),
        ('"{lr}/m.csv"', "only {run}, and * within one name, stand for something"),
        ('"{run}/**/m.csv"', "only {run}, and * within one name"),
        ('[{path = "{run}/m.csv", step = "n"}]', "logs[0].step: unknown key; expected one of path, updates"),
        ('[{updates = "n"}]', 'logs[0].path: Field required; for example path = "{run}/metrics.csv"'),
        ("3", "logs: Input should be a valid list"),
    ],
)
def test_what_is_wrong_is_said_with_an_example(tmp_path: Path, logs: str, said: str):
    with pytest.raises(SoundingError) as raised:
        store(tmp_path, logs)
    assert said in str(raised.value)
    assert str(tmp_path / "sounding.toml") in str(raised.value)
    assert "for example" in str(raised.value) or "expected one of" in str(raised.value)


def test_kinds_by_name():
    kinds = {name: kind_of(name) for name in ("m.csv", "m.tsv", "m.jsonl", "m.ndjson", "trainer_state.json", "m.log")}
    assert list(kinds.values()) == ["csv", "csv", "jsonl", "jsonl", "history", None]
    assert kind_of("events.out.tfevents.1700000000.host.1.0") == "events"
