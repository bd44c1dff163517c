"""Folding: many small files become one that names what it replaces; every row is kept exactly.

Files are folded in tiers of size, so that a row is written again only a few times over the life of a directory:
fresh files become a small fold, four small folds a larger one, until a file is large enough to stay as it is.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import duckdb

from sounding.keeping.listing import REPLACES, SCHEMA_VERSION_KEY, in_memory, is_fold, quoted
from sounding.keeping.schema import SCHEMA_VERSION
from sounding.keeping.worklist import WORK, Work, worklist_text, works_by_file

LOOSE = 64  # more fresh files than this are folded
AT_ONCE = 2048  # no more files than this in one fold, so that its memory and time are bounded
FAN_IN = 4  # folds of one tier that become one of the next
SMALLEST = 64 << 10  # bytes; folds below this are all of the lowest tier
LARGEST = 256 << 20  # bytes; folds above this stay as they are
SORT_MEMORY = "'256MB'"
ROW_GROUP = 40_960  # rows: of a large file, few are read for a series (of 122,880 it took half as long again)
SORTED_BY = ("record", "plugin", "metric", "store", "run", "part", "step", "seq")  # so that statistics prune


@dataclass(frozen=True, slots=True)
class Layout:
    """How the rows of a table lie in its folded files."""

    sorted_by: tuple[str, ...]
    kept: str = ""  # SQL after FROM: which rows still say something; all unless told
    has_works: bool = False  # the metadata names the work in a file


RESULTS = Layout(SORTED_BY, has_works=True)


def choose(sizes: Mapping[str, int], most_loose: int = LOOSE) -> list[str]:
    """Which of the files that count (name → bytes) to fold next: fresh ones first, then the smallest full tier."""
    loose = sorted(name for name in sizes if not is_fold(name))
    if len(loose) > most_loose:
        return loose[:AT_ONCE]
    tiers: dict[int, list[str]] = {}
    for name in sorted(sizes):
        if is_fold(name) and sizes[name] < LARGEST:
            tiers.setdefault(_tier(sizes[name]), []).append(name)
    full = [tier for tier, names in tiers.items() if len(names) >= FAN_IN]
    return tiers[min(full)] if full else []


def fold_files(paths: Sequence[Path], target: Path, replaces: Sequence[str], layout: Layout = RESULTS) -> None:
    """Write the rows of all paths, sorted, into one file; columns that only a newer version knows are kept too."""
    listed = ", ".join(quoted(os.fspath(path)) for path in paths)
    settings = {"memory_limit": SORT_MEMORY, "threads": "1", "temp_directory": quoted(f"{target}.spill")}
    with in_memory(settings) as connection:
        works = works_by_file(connection, [os.fspath(path) for path in paths]) if layout.has_works else {}
        source = f"read_parquet([{listed}], union_by_name = true) {layout.kept}"
        schema_version = _newest_schema(connection, listed)
        copy_sorted(connection, source, target, replaces, chain(*works.values()), schema_version, layout)


def copy_sorted(
    connection: duckdb.DuckDBPyConnection,
    source: str,
    target: Path,
    replaces: Sequence[str],
    works: Iterable[Work],
    schema_version: int = SCHEMA_VERSION,
    layout: Layout = RESULTS,
) -> None:
    """Write the rows of the SQL source, and the works among them, as a folded file.

    What does not fit the connection's memory is spilled.
    """
    metadata = {REPLACES: json.dumps(list(replaces)), SCHEMA_VERSION_KEY: str(schema_version)}
    if layout.has_works and (worklist := worklist_text(works)) is not None:
        metadata[WORK] = worklist
    pairs = ", ".join(f"{quoted(key)}: {quoted(value)}" for key, value in metadata.items())
    connection.execute(
        f"COPY (SELECT * FROM {source} ORDER BY {', '.join(layout.sorted_by)}) TO {quoted(os.fspath(target))} "
        f"(FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {ROW_GROUP}, KV_METADATA {{{pairs}}})"
    ).fetchall()


def _newest_schema(connection: duckdb.DuckDBPyConnection, listed: str) -> int:
    found = connection.execute(
        f"SELECT max(decode(value)::BIGINT) FROM parquet_kv_metadata([{listed}]) WHERE decode(key) = $key",
        {"key": SCHEMA_VERSION_KEY},
    ).fetchall()
    return max(SCHEMA_VERSION, found[0][0] or 0)


def _tier(size: int) -> int:
    tier = 0
    while size >= SMALLEST * FAN_IN ** (tier + 1):
        tier += 1
    return tier
