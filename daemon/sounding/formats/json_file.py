"""JSON beside weights, written by trainers and read as data from strangers."""

import json
from pathlib import Path
from typing import BinaryIO

from sounding.formats.proof import ImpossibleError, UnfinishedError, megabytes, opened, size_of

_MOST_BYTES = 100_000_000


def read_json(path: Path) -> dict[str, object]:
    """The JSON object in a file.

    Raises UnfinishedError while the text is cut short, ImpossibleError when it is no object or absurdly large.
    """
    with opened(path) as file:
        return parse_json(file, path.name)


def parse_json(file: BinaryIO, name: str) -> dict[str, object]:
    """As `read_json`, of an open file; `name` stands in the messages."""
    if size_of(file) > _MOST_BYTES:
        raise ImpossibleError(f"{name} has {megabytes(size_of(file))}, more than is read")
    text = file.read()
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ImpossibleError(f"{name} is nested too deeply") from error
    except ValueError as error:
        raise UnfinishedError(f"{name} is not whole JSON ({len(text)} bytes): {str(error)[:80]}") from error
    if not isinstance(value, dict):
        raise ImpossibleError(f"{name} is not a JSON object")
    return value
