"""The way in for notebooks and scripts: `sounding.open(results)`."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from sounding.asking.query import make_views_of, named_in, open_memory, retried
from sounding.asking.readonly import in_words, refuse_all_but_reading
from sounding.asking.views import METRIC, READING
from sounding.errors import SoundingError

if TYPE_CHECKING:  # both are imported by DuckDB, and only when asked for
    import pandas
    import pyarrow


@dataclass(frozen=True, slots=True)
class Soundings:
    """The results of a directory; every question sees the files of its own moment, and its answer stays as it was."""

    results: Path

    def sql(self, text: str, **parameters: object) -> duckdb.DuckDBPyRelation:
        """The answer to one SELECT, whole and in memory; `$name` in the text stands for the parameter `name`.

        Raises SoundingError when the SQL is not a SELECT or is wrong.
        """
        return retried(lambda: self._answer(text, parameters))

    def arrow(self, text: str, **parameters: object) -> "pyarrow.Table":
        """As `sql`, as an Arrow table."""
        return self.sql(text, **parameters).to_arrow_table()

    def pandas(self, text: str, **parameters: object) -> "pandas.DataFrame":
        """As `sql`, as a pandas frame."""
        return self.sql(text, **parameters).df()

    def readings(self, **equal: object) -> duckdb.DuckDBPyRelation:
        """Current readings whose columns equal the values given, in the order of run, part and step."""
        unknown = sorted(set(equal) - set(READING))
        if unknown:
            raise SoundingError(f"readings: no column {', '.join(unknown)}; there are {', '.join(READING)}.")
        conditions = " AND ".join(f'"{name}" = ${name}' for name in equal) or "true"
        order = 'store, run, model, plugin, metric, part, split, "index", step'
        return self.sql(f"SELECT * FROM readings WHERE {conditions} ORDER BY {order}", **equal)

    def series(self, run: str, metric: str) -> duckdb.DuckDBPyRelation:
        """One metric of one run over its steps; the metric may be named with its plugin, as `sharpness.lambda_max`."""
        return self.sql(
            f"""
            SELECT step, value, label, low, high, stderr, status, unit, store, model, plugin, part, split, "index"
            FROM readings WHERE run = $run AND {METRIC.format("$metric")}
            ORDER BY store, model, plugin, part, split, "index", step""",
            run=run,
            metric=metric,
        )

    def _answer(self, text: str, parameters: dict[str, object]) -> duckdb.DuckDBPyRelation:
        connection = open_memory()
        refuse_all_but_reading(connection, text)
        make_views_of(connection, self.results, named_in(text))
        select = text.strip().rstrip(";")
        try:
            connection.execute(f"CREATE TEMP TABLE answer AS {select}", parameters).fetchall()
        except duckdb.IOException:
            raise  # a file has gone: the caller lists again
        except duckdb.Error as error:
            raise in_words(error, text) from error
        return connection.table("answer")


def open_results(results: str | Path) -> Soundings:
    """The results under a directory, which is the `path` of `[results]` in sounding.toml.

    Raises SoundingError when there is no such directory.
    """
    path = Path(results).expanduser().absolute()
    if not path.is_dir():
        raise SoundingError(
            f"{path}: no such directory, expected one with results; it is the `path` of [results] in sounding.toml."
        )
    return Soundings(path)
