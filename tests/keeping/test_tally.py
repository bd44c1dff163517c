"""How much of a log is recorded, counted as its files come and are folded."""

from pathlib import Path

import pytest
from making import START, results_in

from sounding.keeping.logbook import LogRows, write_logs
from sounding.keeping.results import ResultsDirectory
from sounding.keeping.tally import Tally
from sounding.records import LogState

RUN = ("runs", "a")


class Book:
    def __init__(self, path: Path) -> None:
        self.results: ResultsDirectory = results_in(path)
        self.tally = Tally(self.results.logs)
        self.seq = 0

    def write(self, *updates: int, run: str = "a", attempt: int = 1, source: str = "log.csv") -> None:
        rows = LogRows()
        for number, update in enumerate(updates):
            rows.add(("runs", run, source, "log.csv"), attempt, update, number, [("loss", 1.0), ("lr", 2.0)])
        self.seq += 1
        temporary = self.results.tmp / f"{self.seq}.parquet"
        write_logs(temporary, rows, [], self.seq, START)
        self.results.logs.publish(temporary, self.seq)

    def cold(self, run: tuple[str, str] = RUN) -> LogState:
        tally = Tally(self.results.logs)
        tally.refresh()
        return tally.state(run)


@pytest.fixture
def book(tmp_path: Path) -> Book:
    return Book(tmp_path / "results")


def test_without_a_log_there_is_nothing(book: Book):
    assert book.tally.refresh() == set()
    assert book.tally.state(RUN) == LogState()


def test_rows_are_added_up_run_by_run_as_they_come(book: Book):
    book.write(1, 2, 3)
    book.write(5, run="b")
    assert book.tally.refresh() == {RUN, ("runs", "b")}
    assert (book.tally.state(RUN).rows, book.tally.state(RUN).last) == (6, 3)
    assert book.tally.refresh() == set()
    book.write(4, 5)
    assert book.tally.refresh() == {RUN}
    assert (book.tally.state(RUN).rows, book.tally.state(RUN).last) == (10, 5)
    assert book.tally.state(("runs", "b")).rows == 2


def test_the_last_update_is_that_of_the_newest_attempt_of_any_source(book: Book):
    book.write(1, 2, 1000)
    book.tally.refresh()
    first = book.tally.state(RUN)
    book.write(3, 4, attempt=2)
    book.tally.refresh()
    begun_again = book.tally.state(RUN)
    assert (begun_again.rows, begun_again.last) == (10, 4)
    assert begun_again.chain != first.chain
    book.write(70, source="other.csv")
    assert book.tally.refresh() == {RUN}
    assert book.tally.state(RUN).last == 70


def test_folding_changes_nothing_and_a_cold_count_is_the_same(book: Book):
    for number in range(70):
        book.write(number)
        if number == 40:
            book.tally.refresh()
    before = book.cold()
    assert (before.rows, before.last) == (140, 69)
    assert book.results.logs.fold(START) is not None
    book.write(70)
    book.tally.refresh()
    assert book.tally.state(RUN) == book.cold() == LogState(142, 70, before.chain)
    assert book.tally.refresh() == set()
