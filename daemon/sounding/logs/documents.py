"""Logs that a trainer writes anew each time, all of it: the Hugging Face Trainer's `log_history`."""

from collections.abc import Iterator, Sequence
from typing import BinaryIO

from sounding.formats.json_file import parse_json
from sounding.formats.proof import ImpossibleError, UnfinishedError
from sounding.logs.entries import Entry, LogError, entry_of
from sounding.logs.lines import Read, Spot

HISTORY = "log_history"


def read_history(file: BinaryIO, spot: Spot, step_keys: Sequence[str]) -> Iterator[Read]:
    """Every entry of a `trainer_state.json`, from the first whatever `spot` says; none while it is half written.

    Raises LogError when it is something else.
    """
    file.seek(0)
    try:
        history = parse_json(file, "the log").get(HISTORY)
    except UnfinishedError:
        return
    except ImpossibleError as error:
        raise LogError(str(error)) from error
    if not isinstance(history, list):
        raise LogError(f"there is no list {HISTORY!r} in it; expected a Trainer's `trainer_state.json`")
    for found in history:
        entry: Entry | None = entry_of(found, step_keys) if isinstance(found, dict) else None
        yield Spot(), entry
