"""The log: lines with time, level and words; bounded, whoever writes into it; read while it is written."""

import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from sounding.running.logbook import LOG_FILE, Pen, Reader


@pytest.fixture
def pen(tmp_path: Path) -> Iterator[Pen]:
    made = Pen(tmp_path, most_bytes=400)
    yield made
    made.close()


def say(pen: Pen, text: str, level: int = logging.INFO) -> None:
    pen.handle(logging.LogRecord("sounding", level, "", 0, "%s", (text,), None))


def lines(reader: Reader, count: int = 99) -> list[str]:
    return [entry.plain()["text"] or "" for entry in reader.last(count)]


def test_a_line_has_the_time_in_utc_a_level_and_words(pen: Pen, tmp_path: Path):
    record = logging.LogRecord("sounding", logging.WARNING, "", 0, "store %s\nis away", ("b",), None)
    record.created = 1_767_225_599.0
    pen.handle(record)
    assert (tmp_path / LOG_FILE).read_text() == "2025-12-31T23:59:59Z WARNING store b is away\n"
    (entry,) = Reader(tmp_path).last(1)
    assert entry.plain() == {"time": "2025-12-31T23:59:59Z", "level": "WARNING", "text": "store b is away"}


def test_what_others_print_stands_between_as_it_came(pen: Pen, tmp_path: Path):
    say(pen, "one")
    with (tmp_path / LOG_FILE).open("ab") as plugin:
        plugin.write(b"hello \xff\n")
    say(pen, "two")
    assert [entry.plain()["level"] for entry in Reader(tmp_path).last(9)] == ["INFO", None, "INFO"]
    assert lines(Reader(tmp_path)) == ["one", "hello �", "two"]


def test_a_full_log_is_kept_once_and_children_go_on_writing_into_the_new_one(pen: Pen, tmp_path: Path):
    with (tmp_path / LOG_FILE).open("ab", buffering=0) as child:  # the file that a worker was given as it started
        for number in range(30):
            say(pen, f"line {number:2}")
            child.write(b"printed\n")
            sizes = [path.stat().st_size for path in tmp_path.iterdir()]
            assert max(sizes) < 450
            assert len(sizes) <= 2
        child.write(b"the last word\n")
    found = lines(Reader(tmp_path))
    assert found[-3:] == ["line 29", "printed", "the last word"]
    assert len(found) > len((tmp_path / LOG_FILE).read_text().splitlines()), "the log before counts as well"
    assert lines(Reader(tmp_path), 3) == found[-3:]


def test_a_flood_of_others_is_bounded_at_the_next_heartbeat(pen: Pen, tmp_path: Path):
    say(pen, "before")
    with (tmp_path / LOG_FILE).open("ab") as child:
        child.write(b"x" * 5000 + b"\n")
    pen.bound()
    assert (tmp_path / LOG_FILE).stat().st_size == 0
    pen.bound()
    say(pen, "after")
    assert re.search("x{5000}", (tmp_path / f"{LOG_FILE}.1").read_text())
    assert lines(Reader(tmp_path), 1) == ["after"]


def test_following_gives_whole_lines_once_and_begins_anew_when_the_log_was_emptied(pen: Pen, tmp_path: Path):
    say(pen, "old")
    reader = Reader(tmp_path)
    assert [entry.plain()["text"] for entry in reader.last(5)] == ["old"]
    assert list(reader.more()) == []
    say(pen, "new")
    with (tmp_path / LOG_FILE).open("a") as child:
        child.write("half a ")
    assert [entry.plain()["text"] for entry in reader.more()] == ["new"]
    with (tmp_path / LOG_FILE).open("a") as child:
        child.write("line\n")
    assert [entry.line for entry in reader.more()] == ["half a line"]
    pen.doRollover()
    say(pen, "short")
    assert [entry.plain()["text"] for entry in reader.more()] == ["short"]
