"""No directory of a store is listed more than once in a turn of the daemon, whatever happens in the store."""

import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from making import complete
from running.helm import CONFIG, Helm

PATTERN = '["{run}/checkpoint-{step}", "{run}/last", "{group}/{run}/ckpt_{step}.pt"]'
_listed: list[Callable[[str], None]] = []  # a hook can never be taken away again, so there is one for all tests


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if event in ("os.scandir", "os.listdir") and _listed:
        place = arguments[0]
        _listed[-1](f"/proc/self/fd/{place}" if isinstance(place, int) else os.fsdecode(place or "."))  # type: ignore[arg-type]


@pytest.fixture
def listed() -> Iterator[Counter[str]]:
    """How often each directory was listed, by its real path."""
    if not getattr(sys, "_sounding_listings_hooked", False):
        sys.addaudithook(_hook)
        sys._sounding_listings_hooked = True  # type: ignore[attr-defined]
    counts: Counter[str] = Counter()
    _listed.append(lambda path: counts.update([os.path.realpath(path)]))
    yield counts
    _listed.pop()


def script(helm: Helm) -> Iterator[str]:
    """Everything that happens in the store, a step between any two turns."""
    runs = helm.post.runs
    for step in (1, 2, 3):
        helm.post.write(f"a/checkpoint-{step}/shards/model.safetensors", f"content {step}")
        yield "written"
    helm.post.write("g/b/ckpt_1.pt", "one")
    (runs / "a" / "last").symlink_to("checkpoint-3")
    yield "a link to the newest checkpoint"
    (runs / "latest").symlink_to("a")
    (runs / "g" / "up").symlink_to("..")
    yield "links to runs, and upwards"
    helm.post.write("a/checkpoint-3/shards/model.safetensors", "rewritten")
    yield "rewritten"
    (runs / "a").rename(runs / "c")
    yield "renamed"
    shutil.rmtree(runs / "g")
    yield "deleted"
    away = runs.rename(runs.with_name("away"))
    yield "gone"
    away.rename(runs)
    yield "back"


def test_no_directory_is_listed_twice_in_a_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listed: Counter[str]):
    config = CONFIG.replace('"{run}/ckpt_{step}.pt"', PATTERN) + "full_scan_seconds = 6.0\n"
    helm = Helm(tmp_path, monkeypatch, config)
    helm.daemon.lookout.examine = lambda sighting, store: complete(sighting.path, sighting.step or 3)
    ever: Counter[str] = Counter()
    for event in script(helm):
        for _ in range(12):
            listed.clear()
            helm.run(1.0, step=1.0)
            seen = list(listed.items())  # at once: other threads of this process list directories of their own
            below = {path: count for path, count in seen if Path(path).is_relative_to(helm.post.runs)}
            assert max(below.values(), default=0) <= 1, f"{event}: {below}"
            ever.update(below)
    helm.close()
    assert {Path(path).name for path in ever} >= {"runs", "a", "c", "g", "b", "checkpoint-1", "shards"}
    assert ever[str(helm.post.runs)] >= 10, "there were full scans among the turns"
