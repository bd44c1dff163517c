"""`check` says of a store on a network file system that it is scanned only, and how it is read."""

from pathlib import Path

import pytest
from making import CONFIG, settings_in

from sounding.asking.check import Problem, _network


@pytest.mark.parametrize(
    ("more", "read"), [("", "copied before they are read"), ("hold = false\n", "read where they lie")]
)
def test_a_store_on_a_network_is_told(tmp_path: Path, more: str, read: str):
    (store,) = settings_in(tmp_path, CONFIG + more).stores
    what = f"on a network file system (nfs4): scanned on a timer, without file events; checkpoints are {read}"
    assert list(_network(store, "nfs4")) == [Problem("ok", "store runs", what)]
    assert list(_network(store, "")) == []
