"""Writing down what the daemon itself decides: verdicts, attributes, settings, requests. One file a turn."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from sounding.deciding.runs import newest_horizons
from sounding.keeping.ledger import Ledger, RunName
from sounding.keeping.requests import Redo
from sounding.keeping.results import ResultsDirectory, tmp_name, write_rows
from sounding.keeping.rows import Row, attribute_row, outcome_row, setting_row, verdict_row
from sounding.records import Attribute, Catalogue, Ending, Outcome
from sounding.seeing.attributes import attribute
from sounding.seeing.lookout import Seen


@dataclass
class Journal:
    """The parent's own pen. `seq` numbers every publication of the daemon, jobs included."""

    results: ResultsDirectory
    ledger: Ledger
    epoch: str
    _last_seq: int = 0

    def next_seq(self) -> int:
        """A number greater than any given before, in this or any earlier life of the results."""
        self._last_seq = max(self._last_seq, self.ledger.greatest_seq) + 1
        return self._last_seq

    def write_sightings(self, news: Iterable[Seen], wall: datetime) -> None:
        """Record verdicts that are news, with the attributes that came with them."""
        seq = self.next_seq()
        rows: list[Row] = []
        attributes: dict[tuple[RunName, str, str], Attribute] = {}  # of several checkpoints at once, the last
        for seen in news:
            sighting, examination = seen.sighting, seen.examination
            rows.append(verdict_row(sighting, seen.verdict, seen.checkpoint, examination, wall, seq))
            for each in () if examination is None else examination.attributes:
                attributes[(sighting.store, sighting.run), each.key, each.source] = each
        rows += [
            attribute_row(*run, each, seq, wall) for (run, _, _), each in attributes.items() if self._is_new(run, each)
        ]
        self._publish(rows, seq)

    def write_attributes(self, run: RunName, found: Mapping[str, int | float | str], wall: datetime) -> None:
        """Record what the recipe knows of a run, where it is news."""
        seq = self.next_seq()
        attributes = [attribute(key, value, "recipe") for key, value in sorted(found.items())]
        self._publish([attribute_row(*run, a, seq, wall) for a in attributes if self._is_new(run, a)], seq)

    def write_settings(self, catalogue: Catalogue, wall: datetime) -> None:
        """Record the plugin versions and options in force where they changed."""
        seq = self.next_seq()
        rows: list[Row] = []
        for sheet in catalogue.plugins.values():
            known = self.ledger.settings.get(sheet.name)
            if known is None or (known.version, known.options_hash) != (sheet.version, sheet.options_hash):
                rows.append(setting_row(sheet, seq, wall))
        self._publish(rows, seq)

    def write_redo(self, redo: Redo, wall: datetime) -> None:
        """Turn a request into outcomes that owe the work anew."""
        seq = self.next_seq()
        runs = [run for run in self.ledger.runs() if redo.run in (None, run[1])]
        asked = [
            outcome
            for run in sorted(runs)
            for outcome in newest_horizons(self.ledger.outcomes(run).values())
            if redo.matches(outcome)
        ]
        reason = "asked for again"
        self._publish([outcome_row(Outcome(o.key, o.subject, Ending.REDO, reason, 0, seq, wall)) for o in asked], seq)

    def _is_new(self, run: RunName, attribute: Attribute) -> bool:
        known = self.ledger.past(run).attributes.get((attribute.key, attribute.source))
        return known is None or known[1] != attribute

    def _publish(self, rows: list[Row], seq: int) -> None:
        if not rows:
            return
        temporary = self.results.tmp / tmp_name(self.epoch, seq)
        write_rows(temporary, rows, self.results.at)
        try:
            self.results.publish(temporary, seq)
        except OSError:
            with suppress(OSError):  # what is not published is written anew, under another number
                temporary.unlink(missing_ok=True)
            raise
