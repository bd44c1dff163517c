"""A lookout over real files, with an examiner that reads what the test wrote into them."""

import os
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from making import CONFIG, START, complete, results_in, settings_in

from sounding.config import Store
from sounding.keeping.ledger import Ledger
from sounding.records import Examination, Sighting, State, Verdict
from sounding.running.journal import Journal
from sounding.seeing.lookout import Lookout, Seen

QUIET_CONFIG = CONFIG + "quiet_seconds = 2.0\n"


class Post:
    """A lookout over real files. The text of a file is what the examiner finds: half, broken, or its fingerprint."""

    def __init__(self, path: Path, config: str = QUIET_CONFIG) -> None:
        self.settings = settings_in(path, config)
        self.runs = self.settings.stores[0].path
        self.results = results_in(self.settings.results)
        self.examined: list[str] = []
        self.needs_quiet = False
        self.now = 1000.0
        self.written = 0
        self.restart()

    def restart(self) -> None:
        self.ledger = Ledger(self.results)
        self.ledger.refresh()
        self.journal = Journal(self.results, self.ledger, "epoch")
        self.lookout = Lookout(self.settings, self.ledger, self.examine)

    def write(self, name: str, text: str) -> str:
        """Write a file later than all before it, by its own clock."""
        path = self.runs / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        self.written += 1
        os.utime(path, ns=(self.written, self.written))
        return str(path)

    def examine(self, sighting: Sighting, store: Store) -> Examination:
        assert store.name == sighting.store
        self.examined.append(sighting.path)
        text = Path(sighting.path).read_text()
        if text == "half":
            return Examination(Verdict(State.PENDING, "half of it"))
        if text == "broken":
            return Examination(Verdict(State.BROKEN, "no checkpoint"))
        fingerprint, _, step = text.partition("@")
        found = complete(fingerprint, int(step) if step else sighting.step, needs_quiet=self.needs_quiet)
        return replace(found, asked=tuple(store.attributes))

    def look(self, *, after: float = 10.0, full: bool = True, budget: float = 1e9) -> tuple[list[Seen], set[str]]:
        self.now += after
        self.examined.clear()
        wall = START + timedelta(seconds=self.now)
        news, runs = self.lookout.look(self.now, wall, full=full, budget=budget)
        return news, {run for _, run in runs}

    def record(self, news: list[Seen]) -> None:
        self.journal.write_sightings(news, START + timedelta(seconds=self.now))
        self.ledger.refresh()

    def states(self) -> dict[str, State]:
        return {str(Path(path).relative_to(self.runs)): seen.verdict.state for path, seen in self.lookout.seen.items()}

    def steps(self, run: str = "a") -> tuple[int, ...]:
        return tuple(c.step for c in self.lookout.view(("runs", run), growing=True, models=("",)).readable)
