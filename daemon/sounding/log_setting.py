"""Where a store's training logs lie: the entries of `logs = [...]`, checked before anything is looked for.

`{run}` stands for the run's name and `*` for anything within one path component; `checkpoint:NAME` is the file of that
name in the newest complete checkpoint that is a directory.
"""

import re
from dataclasses import dataclass
from typing import Literal, TypeAlias

from sounding.errors import SoundingError

Kind: TypeAlias = Literal["csv", "jsonl", "history", "events"]

INSIDE = "checkpoint:"
RUN = "{run}"
_ENDS: tuple[tuple[str, Kind], ...] = (
    (".csv", "csv"), (".tsv", "csv"), (".jsonl", "jsonl"), (".ndjson", "jsonl"), (".json", "history"),
)  # fmt: skip
_EVENTS = "tfevents"
_EXAMPLE = 'logs = ["{run}/metrics.csv", "checkpoint:trainer_state.json"]'


@dataclass(frozen=True, slots=True)
class LogSetting:
    """One entry of `logs`."""

    text: str  # as written; the `source` of everything read from there
    updates: str = ""  # the column or key that tells the update; empty for the usual ones

    @property
    def inside(self) -> str:
        """The name of a file inside checkpoints; empty for logs that lie below the store."""
        return self.text.removeprefix(INSIDE) if self.text.startswith(INSIDE) else ""


def log_setting(text: str, updates: str = "", *, names_runs: bool = True) -> LogSetting:
    """The setting, checked; `names_runs` says that the store holds several runs, told apart by their paths.

    Raises SoundingError saying what is wrong with it.
    """
    setting = LogSetting(text, updates)
    path = setting.inside or text
    names = path.split("/")
    if any(name in ("", ".", "..") for name in names) or (setting.inside and len(names) > 1):
        _refuse(text, "expected a path below the store, or checkpoint: and the name of one file")
    if "**" in path or re.search(r"[{}]", path.replace(RUN, "")) or (setting.inside and re.search(r"[*{]", path)):
        _refuse(text, "only {run}, and * within one name, stand for something, and neither inside a checkpoint")
    if kind_of(names[-1]) is None:
        _refuse(text, f"expected a name that ends in {', '.join(end for end, _ in _ENDS)}, or has {_EVENTS} in it")
    if names_runs and not setting.inside and RUN not in text:
        _refuse(text, "it is the same file for every run; name the run in it")
    return setting


def kind_of(name: str) -> Kind | None:
    """What kind of log a name promises."""
    if _EVENTS in name:
        return "events"
    return next((kind for end, kind in _ENDS if name.endswith(end)), None)


def _refuse(text: str, reason: str) -> None:
    raise SoundingError(f"logs: {text!r}: {reason}; for example {_EXAMPLE}.")
