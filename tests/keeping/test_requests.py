"""What a person asks for reaches the daemon whole, and what is no request does not stop it."""

import os
from pathlib import Path

import pytest
from making import checkpoint, outcome, sheet, task_on

from sounding.errors import SoundingError
from sounding.keeping.requests import DIRECTORY, Redo, read_requests, request_redo


def test_requests_come_back_oldest_first(tmp_path: Path):
    first = request_redo(tmp_path, plugin="loss")
    second = request_redo(tmp_path, run="a", step=0, checkpoint="abcd")
    os.utime(first, ns=(2, 2))
    os.utime(second, ns=(1, 1))
    assert list(read_requests(tmp_path)) == [
        (second, Redo(run="a", step=0, checkpoint="abcd")),
        (first, Redo(plugin="loss")),
    ]


def test_a_request_that_is_half_written_is_not_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seen: list[object] = []
    real = Path.replace

    def look_then_replace(path: Path, target: Path) -> Path:
        seen.extend(read_requests(tmp_path))
        return real(path, target)

    monkeypatch.setattr(Path, "replace", look_then_replace)
    request_redo(tmp_path, plugin="loss")
    assert seen == []
    assert [redo for _, redo in read_requests(tmp_path)] == [Redo("loss")]


def test_where_there_are_no_requests_nothing_comes(tmp_path: Path):
    assert list(read_requests(tmp_path)) == []
    (tmp_path / DIRECTORY).mkdir()
    (tmp_path / DIRECTORY / "directory.json").mkdir()
    assert list(read_requests(tmp_path)) == []


def test_redoing_everything_must_be_said_plugin_by_plugin(tmp_path: Path):
    with pytest.raises(SoundingError, match="name a plugin, a run, a step or a checkpoint"):
        request_redo(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_without_results_there_is_nothing_to_redo(tmp_path: Path):
    with pytest.raises(SoundingError, match="no results at"):
        request_redo(tmp_path / "missing", plugin="loss")


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"plugins": "loss"}', "\udcff"])
def test_what_is_no_request_is_named_and_the_others_are_read(tmp_path: Path, text: str):
    good = request_redo(tmp_path, plugin="loss")
    bad = good.with_name("zz.json")
    bad.write_bytes(text.encode(errors="surrogateescape"))
    found = dict(read_requests(tmp_path))
    assert found[good] == Redo("loss")
    assert str(found[bad]).startswith("zz.json is not a request")


def test_a_request_that_must_not_be_read_is_named_and_the_others_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    good = request_redo(tmp_path, plugin="loss")
    bad = request_redo(tmp_path, plugin="norm")
    real = Path.read_text

    def guarded(path: Path, encoding: str | None = None) -> str:
        if path == bad:
            raise PermissionError(13, "Permission denied")
        return real(path, encoding=encoding)

    monkeypatch.setattr(Path, "read_text", guarded)
    found = dict(read_requests(tmp_path))
    assert found[good] == Redo("loss")
    assert found[bad] == f"{bad} cannot be read: Permission denied"


KNOWN = checkpoint(10)


@pytest.mark.parametrize(
    ("redo", "matches"),
    [
        (Redo(plugin="norm"), True),
        (Redo(plugin="loss"), False),
        (Redo(run="a"), True),
        (Redo(run="b"), False),
        (Redo(step=10), True),
        (Redo(step=0), False),
        (Redo(checkpoint=KNOWN.checkpoint_id[:4]), True),
        (Redo(checkpoint=KNOWN.checkpoint_id), True),
        (Redo(checkpoint="x" + KNOWN.checkpoint_id), False),
        (Redo("norm", "a", 10, KNOWN.checkpoint_id), True),
        (Redo("norm", "a", 11, KNOWN.checkpoint_id), False),
    ],
)
def test_a_redo_matches_what_has_every_field_that_is_set(redo: Redo, matches: bool):
    task = task_on(KNOWN, sheet("norm"))
    assert redo.matches(outcome(task.key, task.subject)) == matches
