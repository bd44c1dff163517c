"""What `check` says of a store's training logs: what each setting finds, and which keys are in it."""

import time
from collections.abc import Iterable, Iterator, Sequence

from sounding.asking.problem import Problem
from sounding.config import Store
from sounding.errors import SoundingError
from sounding.log_setting import LogSetting
from sounding.logs.finding import Finder
from sounding.logs.reading import LogFile
from sounding.running.clerk import READ
from sounding.running.dispatch import Child, call_and_wait
from sounding.seeing.lookout import Seen
from sounding.seeing.roll import written

_LOOKED_INTO = 3  # logs of one setting, those last written
_SHOWN = 12  # keys


def check_logs(store: Store, here: Sequence[Seen], child: Child) -> Iterator[Problem]:
    """A line for each setting of `logs`, and one for each log that cannot be read."""
    finder, now, newest = Finder(store), time.monotonic(), _last_complete(here)
    runs = sorted({seen.sighting.run for seen in here})
    found = [each for run in runs for each in finder.find(run, newest.get(run), now)]
    for setting in store.logs:
        mine = [each for each in found if each.log.source == setting.text]
        mine.sort(key=lambda each: each.stat[2])
        yield from _setting(store, setting, [each.log for each in mine], child)


def _last_complete(here: Iterable[Seen]) -> dict[str, str]:
    """The path of the complete checkpoint of each run that was last written."""
    complete = (seen.sighting for seen in here if seen.checkpoint is not None)
    return {sighting.run: sighting.path for sighting in sorted(complete, key=written)}


def _setting(store: Store, setting: LogSetting, logs: Sequence[LogFile], child: Child) -> Iterator[Problem]:
    where = f"store {store.name}: logs"
    if not logs:
        advice = "it is read when there is one; otherwise correct it"
        yield Problem("warning", where, f"nothing matches {setting.text!r} in any run", advice)
        return
    keys: set[str] = set()
    for log in logs[-_LOOKED_INTO:]:
        try:
            seen, problem = call_and_wait(child, "sounding.logs.reading:preview", (log,), READ)
        except SoundingError as error:
            seen, problem = (), f"{log.path}: could not be read: {error}"
        keys.update(seen)
        if problem:
            yield Problem("warning", where, problem, f"correct {setting.text!r}, or leave it out")
    runs = len({log.run for log in logs})
    shown = ", ".join(sorted(keys)[:_SHOWN]) + (" …" if len(keys) > _SHOWN else "")
    yield Problem("ok", where, f"{setting.text!r}: {len(logs)} logs of {runs} runs, with {shown or 'no values yet'}")
