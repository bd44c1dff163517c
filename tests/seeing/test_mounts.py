"""Network file systems: told from the mount table or by the operator, never trusted at once, and only scanned."""

from pathlib import Path

import pytest
from making import CONFIG, START, settings_in
from seeing.post import QUIET_CONFIG, Post

from sounding.records import State
from sounding.seeing.lookout import Lookout
from sounding.seeing.mounts import QUIET_SECONDS, SETTING, Mounts, kind_of, mounted

NETWORKS = (
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "lustre", "9p", "ceph", "beegfs", "gpfs", "virtiofs", "afs",
    "fuse.sshfs", "fuse.glusterfs", "fuse.s3fs", "fuse.rclone",
)  # fmt: skip
LOCAL = ("ext4", "xfs", "btrfs", "zfs", "tmpfs", "overlay", "fuseblk", "fuse.fuse-overlayfs", "nfsd", "apfs", "")


def mounts(path: Path, kind: str, more: str = "") -> Mounts:
    return Mounts(settings_in(path, CONFIG + more).stores, lambda: [("/", "ext4"), (str(path), kind)])


@pytest.mark.parametrize(("kinds", "is_network"), [(NETWORKS, True), (LOCAL, False)])
def test_kinds_that_other_hosts_write_to_are_told_from_those_of_one_machine(
    tmp_path: Path, kinds: tuple[str, ...], is_network: bool
):
    found = {kind: bool(mounts(tmp_path, kind).network) for kind in kinds}
    assert found == dict.fromkeys(kinds, is_network)


def test_the_operator_has_the_last_word(tmp_path: Path):
    assert mounts(tmp_path, "nfs4").network == {"runs": "nfs4"}
    assert mounts(tmp_path, "nfs4", "network = false\n").network == {}
    assert mounts(tmp_path, "ext4", "network = true\n").network == {"runs": SETTING}


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/data", "nfs"),
        ("/data/runs", "nfs"),
        ("/database", "ext4"),
        ("/data/local/a", "xfs"),
        ("/auto/a", "nfs4"),
        ("/", "ext4"),
    ],
)
def test_the_deepest_mount_point_counts_and_of_two_on_one_point_the_later(path: str, kind: str):
    table = [("/data/local", "xfs"), ("/", "ext4"), ("/data", "nfs"), ("/auto", "autofs"), ("/auto", "nfs4")]
    assert kind_of(path, table) == kind


def test_a_table_without_the_path_tells_nothing():
    assert kind_of("/data", [("/other", "nfs")]) == ""


def test_this_machine_knows_what_its_root_lies_on():
    kinds = dict(mounted())
    assert kind_of("/", mounted()) == kinds["/"] != ""


def test_a_store_behind_a_link_lies_where_the_link_leads(tmp_path: Path):
    (tmp_path / "far").mkdir()
    (tmp_path / "runs").symlink_to(tmp_path / "far")
    stores = settings_in(tmp_path, make_stores=False).stores
    assert Mounts(stores, lambda: [("/", "ext4"), (str(tmp_path / "far"), "nfs")]).network == {"runs": "nfs"}


def on_a_network(path: Path) -> Post:
    post = Post(path, QUIET_CONFIG)
    post.lookout = Lookout(post.settings, post.ledger, post.examine, table=lambda: [("/", "nfs4")])
    return post


def test_on_a_network_every_format_waits_until_the_clients_cache_is_old(tmp_path: Path):
    post = on_a_network(tmp_path)
    post.write("a/ckpt_1.pt", "one")  # a proof that needs no quiet time where files are local
    post.look()
    assert post.states() == {"a/ckpt_1.pt": State.PENDING}
    post.look(after=QUIET_SECONDS - 0.1)
    assert post.states() == {"a/ckpt_1.pt": State.PENDING}, "the store's own two seconds are too few"
    assert post.lookout.may_change_by_waiting(post.now), "a single pass waits for it"
    post.look(after=0.2)
    assert post.states() == {"a/ckpt_1.pt": State.COMPLETE}


def test_a_store_that_is_mounted_later_is_on_a_network_from_the_next_full_look(tmp_path: Path):
    post = Post(tmp_path)
    table = [("/", "ext4")]
    post.lookout = Lookout(post.settings, post.ledger, post.examine, table=lambda: table)
    assert post.lookout.mounts.network == {}
    table.append((str(tmp_path), "nfs"))
    post.look(full=False)
    assert post.lookout.mounts.network == {}
    post.look()
    assert post.lookout.mounts.network == {"runs": "nfs"}


@pytest.mark.parametrize("days", [-1, 1])
def test_a_jump_of_the_wall_clock_neither_shortens_nor_lengthens_the_quiet_time(tmp_path: Path, days: int):
    post = Post(tmp_path)
    post.needs_quiet = True
    post.write("a/ckpt_1.pt", "one")
    wall = START.replace(day=START.day + 10)
    post.lookout.look(1000.0, wall, budget=1e9)
    for now, state in ((1001.9, State.PENDING), (1002.0, State.COMPLETE)):
        post.lookout.look(now, wall.replace(day=wall.day + days), budget=1e9)
        assert post.states() == {"a/ckpt_1.pt": state}


def test_a_wall_clock_that_goes_back_changes_no_birth_and_no_order(tmp_path: Path):
    post = Post(tmp_path)
    wall = START.replace(day=START.day + 10)
    post.write("a/ckpt_1.pt", "one")
    post.record(post.lookout.look(1000.0, wall, budget=1e9)[0])
    post.write("a/ckpt_2.pt", "two")
    post.record(post.lookout.look(1010.0, wall.replace(day=wall.day - 1), budget=1e9)[0])
    first, second = sorted(post.ledger.past(("runs", "a")).history.values(), key=lambda known: known.step)
    assert (first.first_seen, second.first_seen) == (wall, wall.replace(day=wall.day - 1)), "as they were shown then"
    assert first.ordinal < second.ordinal, "and the order of birth is not read from them"
