"""Asking for work again: a request to the daemon, refused when nothing recorded answers to it."""

import difflib
from pathlib import Path

from sounding.asking.query import connect
from sounding.errors import SoundingError
from sounding.keeping.requests import Redo, request_redo

_MATCHING = """
    SELECT count(*) FROM (
        SELECT * FROM outcomes QUALIFY "over" NOT IN ('run', 'group')
            OR seq = max(seq) OVER (PARTITION BY plugin, version, options_hash, basis, store, run, model)
    ) WHERE ($plugin IS NULL OR plugin = $plugin) AND ($run IS NULL OR run = $run) AND ($step IS NULL OR step = $step)
      AND starts_with(checkpoint_id, coalesce($checkpoint, ''))"""


def ask_again(results: Path, redo: Redo) -> int:
    """Leave the request; how many outcomes it asks for again.

    Raises SoundingError when no outcome matches, naming what comes near.
    """
    wanted = {"plugin": redo.plugin, "run": redo.run, "step": redo.step, "checkpoint": redo.checkpoint}
    with connect(results, ["outcomes"]) as connection:
        [(count,)] = connection.execute(_MATCHING, wanted).fetchall()
        known = connection.execute("SELECT DISTINCT plugin, run FROM outcomes").fetchall()
    if count == 0:
        plugins, runs = sorted({plugin for plugin, _ in known}), sorted({run for _, run in known})
        near = _near(redo.plugin, plugins) or _near(redo.run, runs)
        raise SoundingError(
            f"redo: nothing recorded matches all of that{near}. Plugins with outcomes: {', '.join(plugins) or 'none'}."
        )
    request_redo(results, plugin=redo.plugin, run=redo.run, step=redo.step, checkpoint=redo.checkpoint)
    return int(count)


def _near(given: str | None, known: list[str]) -> str:
    if given is None or given in known:
        return ""
    near = difflib.get_close_matches(given, known, n=1)
    return f"; {given!r} is unknown, {near[0]!r} is not" if near else f"; {given!r} is unknown"
