"""A plugin that dies costs only itself, and everybody is told why."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import invoke
from end_to_end.lab import CONFIG, PLUGINS, Lab

from sounding.config import load_config
from sounding.running.service import watch

HOSTILE = Path(__file__).parent / "hostile"
LIMITS = """workers = 2
attempts = 1
deadline_seconds = 5.0
memory_limit_mb = 900
"""
WRONG_OPTION = """
[plugins.counts]
top_k = "three"
"""


@pytest.fixture(scope="module", autouse=True)
def installed() -> Iterator[None]:
    """The hostile plugins, for this process and its children."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(HOSTILE))
        yield


@pytest.fixture(scope="module")
def lab(tmp_path_factory, installed) -> Lab:
    lab = Lab.at(tmp_path_factory.mktemp("hostile"), CONFIG + LIMITS + WRONG_OPTION)
    lab.train_here("a", 4, 2)
    watch(load_config(lab.config), once=True)
    return lab


@pytest.fixture(scope="module")
def refused(lab) -> dict[str, str]:
    """Why what cannot be used is refused, by name."""
    listed = json.loads(invoke(lab.path, "plugins", "--json").stdout)["refused"]
    reasons = {(entry["name"], entry["reason"]) for entry in listed}
    assert len(dict(reasons)) == len(reasons), "told twice, in different words"
    return dict(reasons)


@pytest.mark.parametrize(
    ("plugin", "ending", "words"),
    [
        ("segfaults", "crashed", "SIGSEGV"),
        ("exits", "crashed", "exited with status 0"),
        ("loops", "timeout", "deadline of 5 s"),
        ("hoards", "memory", "over the limit of 900 MiB"),
    ],
)
def test_the_culprit_is_named(lab, plugin, ending, words):
    rows = lab.sql(f"SELECT step, status, reason, attempt FROM outcomes WHERE plugin = '{plugin}' ORDER BY step")
    assert [(step, status, attempt) for step, status, _, attempt in rows] == [(2, ending, 1), (4, ending, 1)]
    assert all(words in str(reason) for _, _, reason, _ in rows)


def test_all_others_have_their_readings(lab):
    done = set(lab.sql("SELECT plugin, step FROM outcomes WHERE status = 'ok'"))
    assert done >= {(plugin, 4) for plugin in PLUGINS} | {(plugin, 2) for plugin in PLUGINS - {"weight_change"}}
    assert set(lab.settled().values()) == {1}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("misspells", "weights"),
        ("hostile_broken", "this module is broken"),
        ("twin", "twin"),
        ("counts", "int"),
        ("hostile_mortal", "ended the process"),
    ],
)
def test_what_cannot_be_used_is_refused_with_a_reason(refused, name, words):
    assert words in refused[name]


def test_nothing_is_left_behind(lab):
    assert list((lab.results / "tmp").iterdir()) == []


@pytest.mark.parametrize(
    ("how", "ending"), [("delete", "gone"), ("overwrite", "superseded"), ("replace", "superseded")]
)
def test_a_checkpoint_that_changes_while_it_is_read_gives_no_number(lab, tmp_path, how, ending):
    config = CONFIG.replace('recipe = "recipe.py"', "") + "attempts = 1\n" + f'[plugins.vandal]\nhow = "{how}"\n'
    config += "".join(f"[plugins.{name}]\nenabled = false\n" for name in ("segfaults", "exits", "loops", "hoards"))
    victim = Lab.at(tmp_path, config)
    (victim.path / "runs" / "a").mkdir()
    source = lab.path / "runs" / "a" / "ckpt_4.pt"
    (victim.path / "runs" / "a" / source.name).write_bytes(source.read_bytes())
    watch(load_config(victim.config), once=True)
    statuses = {str(status) for (status,) in victim.sql("SELECT status FROM outcomes_all WHERE attempt = 1")}
    assert statuses == {ending}
    assert victim.sql("SELECT count(*) FROM readings_all") == [(0,)]
