"""What a run went through in the end, against a twin that keeps everything in a dictionary."""

import random
from pathlib import Path

import numpy as np
import pytest
from making import publish_logs, results_in

from sounding.keeping.series import read_series

Logged = tuple[str, int, int, str, float]  # file, attempt, updates, key, value; in the order logged


def chain_of(logged: list[Logged]) -> dict[str, dict[int, float]]:
    """Attempt by attempt: what a later one began at is forgotten, of the same file entirely, else key by key."""
    kept: dict[tuple[str, str, int], float] = {}
    for number in sorted({attempt for _, attempt, *_ in logged}):
        mine = [row for row in logged if row[1] == number]
        start, file, keys = min(row[2] for row in mine), mine[0][0], {row[3] for row in mine}
        kept = {
            (f, key, updates): value
            for (f, key, updates), value in kept.items()
            if updates < start or (f != file and key not in keys)
        }
        kept |= {(f, key, updates): value for f, _, updates, key, value in mine}
    chain: dict[str, dict[int, float]] = {}
    for (_, key, updates), value in kept.items():
        chain.setdefault(key, {})[updates] = value
    return chain


@pytest.mark.parametrize("seed", range(4))
def test_the_newest_chain_of_attempts(tmp_path: Path, seed: int):
    dice = random.Random(seed)
    logged: list[Logged] = []
    for attempt in range(1, 6):
        file, updates = dice.choice(["f", "f", "g"]), dice.randrange(0, 30)
        keys = ["loss", "lr"] if file == "f" else ["loss", "accuracy"]
        for _ in range(dice.randrange(1, 12)):
            updates += dice.randrange(0, 4)
            logged.append((file, attempt, updates, dice.choice(keys), dice.random()))
    results = results_in(tmp_path)
    for seq, start in enumerate(range(0, len(logged), 7), 1):
        publish_logs(results, seq, logged[start : start + 7], first=start)
    found = read_series(tmp_path, "lab", "a")
    assert {
        key: dict(zip(one.updates.tolist(), one.values.tolist(), strict=True)) for key, one in found.items()
    } == chain_of(logged)
    for one in found.values():
        assert one.updates.dtype == one.values.dtype == np.float64
        assert (np.diff(one.updates) > 0).all()


def test_of_several_sources_the_one_that_reaches_furthest_counts(tmp_path: Path):
    results = results_in(tmp_path)
    publish_logs(results, 1, [("f", 1, n, "loss", 1.0) for n in range(5)], source="long")
    publish_logs(results, 2, [("f", 1, n, "loss", 2.0) for n in (0, 9)], source="far")
    publish_logs(results, 3, [("f", 1, n, "loss", 3.0) for n in range(99)], run="b")
    (loss,) = read_series(tmp_path, "lab", "a").values()
    assert (loss.source, loss.updates.tolist()) == ("far", [0.0, 9.0])


def test_values_that_are_no_numbers_any_more_are_kept(tmp_path: Path):
    publish_logs(results_in(tmp_path), 1, [("f", 1, 0, "loss", float("nan")), ("f", 1, 1, "loss", float("inf"))])
    assert repr(read_series(tmp_path, "lab", "a")["loss"].values.tolist()) == "[nan, inf]"


def test_nothing_logged_is_no_series(tmp_path: Path):
    assert read_series(tmp_path / "none", "lab", "a") == {}
    assert read_series(results_in(tmp_path).path, "lab", "a") == {}
    publish_logs(results_in(tmp_path), 1, [("f", 1, 0, "loss", 1.0)], run="b")
    assert read_series(tmp_path, "lab", "a") == {}
