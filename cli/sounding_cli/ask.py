"""Questions to the results: rows as dicts; and what was meant by a name that nobody has."""

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TypeAlias

from sounding.errors import SoundingError

Row: TypeAlias = dict[str, object]


def ask(results: Path, sql: str, values: Sequence[object] = (), run: str | None = None) -> list[Row]:
    """The rows of a query over the views of this moment; with a `run`, those of other runs may be missing."""
    from sounding.asking.query import connect, named_in, retried

    def read() -> list[Row]:
        with connect(results, named_in(sql), run) as connection:
            cursor = connection.execute(sql, list(values))
            names = [column[0] for column in cursor.description or ()]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    return retried(read)


def glob_condition(column: str, pattern: str | None) -> tuple[list[str], list[object]]:
    """A condition of SQL and its value; no condition without a pattern."""
    return ([], []) if pattern is None else ([f'"{column}" GLOB ?'], [pattern])


def unknown(what: str, name: str, names: Sequence[str], listing: str) -> SoundingError:
    """The error for a name that nobody has: with the one that was probably meant, and where all of them are listed."""
    close = get_close_matches(name, names, n=1, cutoff=0.5)
    meant = f"; did you mean {close[0]!r}?" if close else ""
    some = f" There is {', '.join(sorted(names)[:8])}{' …' if len(names) > 8 else ''}." if names and not close else ""
    return SoundingError(f"no {what} {name!r}{meant or '.'}{some} `{listing}` lists all.")
