"""Series of readings: what one metric of one part did over the steps of a run."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sounding_cli.ask import Row

_SPLITS = ("", "train", "heldout")  # in this order, then all others by name
_PLACE = ("plugin", "metric", "model", "part", "split", "group", "index")
_WORD = 32  # letters of the longest label that stands in a table


@dataclass(frozen=True, slots=True)
class Series:
    """Readings of equal metric, part and split, by step; `rows` are in the order of their steps."""

    plugin: str
    metric: str
    model: str
    part: str
    split: str
    group: str
    index: int | None
    rows: tuple[Mapping[str, object], ...]
    kind: str = ""  # where it tells series apart, see `kinds`

    @property
    def name(self) -> str:
        """Plugin and metric, as they are named on the command line."""
        return f"{self.plugin}.{self.metric}"

    @property
    def detail(self) -> str:
        """What distinguishes the series from others of its metric."""
        place = "" if self.index is None else f"#{self.index}"
        return " ".join(filter(None, (self.model, self.part, self.kind, self.split, self.group, place)))

    @property
    def unit(self) -> str:
        """The unit in brackets, as it stands in headings; empty without one."""
        unit = str(self.rows[-1]["unit"] or "")
        return f"[{unit}]" if unit else ""

    @property
    def in_sentences(self) -> bool:
        """Whether its labels are too long for a column of a table."""
        return any(is_sentence(row) for row in self.rows)

    @property
    def values(self) -> list[float | None]:
        """The numbers in the order of their steps."""
        return [as_number(row["value"]) for row in self.rows]

    @property
    def steps(self) -> list[int]:
        """The steps at which it was measured."""
        return [int(str(row["step"])) for row in self.rows]


def as_number(value: object) -> float | None:
    """A value of a result's row as a float."""
    return float(value) if isinstance(value, int | float) else None


def is_sentence(row: Mapping[str, object]) -> bool:
    """Whether a reading is a label of more words than a column has room for."""
    return row["value"] is None and len(str(row["label"] or "")) > _WORD


def kinds(rows: Sequence[Mapping[str, object]]) -> list[str]:
    """The kind of each reading where it tells what is measured: of the whole network, or one of several of a part.

    Elsewhere it is the type of the part's layer, which readings share.
    """
    places = [tuple(row.get(key) for key in (*_PLACE, "step")) for row in rows]
    known: dict[tuple[object, ...], set[object]] = {}
    for place, row in zip(places, rows, strict=True):
        known.setdefault(place, set()).add(row["kind"] or "")
    return [
        str(row["kind"] or "") if not row["part"] or len(known[place]) > 1 else ""
        for place, row in zip(places, rows, strict=True)
    ]


def collected(rows: Iterable[Row]) -> list[Series]:
    """Readings as series: those of the whole network first, then in the order of names, each by step."""
    groups: dict[tuple[object, ...], list[Row]] = {}
    given = list(rows)
    for row, kind in zip(given, kinds(given), strict=True):
        groups.setdefault((kind, *(row[key] for key in _PLACE)), []).append(row)
    series = [_series(key, found) for key, found in groups.items()]
    return sorted(series, key=_order)


def of_whole(series: Sequence[Series]) -> list[Series]:
    """The series of the whole network; those of single parts only where their plugin has no other."""
    whole = {one.plugin for one in series if not one.part}
    return [one for one in series if not one.part or one.plugin not in whole]


def _series(key: tuple[object, ...], rows: list[Row]) -> Series:
    kind, plugin, metric, model, part, split, group = (str(value or "") for value in key[:-1])
    index = key[-1]
    ordered = sorted(rows, key=lambda row: (int(str(row["step"])), str(row["recorded_at"])))
    place = None if index is None else int(str(index))
    return Series(plugin, metric, model, part, split, group, place, tuple(ordered), kind)


def _order(series: Series) -> tuple[object, ...]:
    depth = series.rows[-1]["depth"]
    place = (series.part != "", series.plugin, series.metric, series.model)
    split = (_SPLITS.index(series.split) if series.split in _SPLITS else len(_SPLITS), series.split)
    return (*place, -1 if depth is None else depth, series.part, series.kind, split, series.group, series.index or 0)
