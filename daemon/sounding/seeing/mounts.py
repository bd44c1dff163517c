"""Where stores lie: on a file system of this machine, or on one that other machines write to unseen.

A network file system sends no events of what other hosts do, answers `stat` from a cache of some seconds, and can take
a file away from whoever reads it.
"""

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import psutil

from sounding.config import Store
from sounding.records import Examination

Table: TypeAlias = Callable[[], Iterable[tuple[str, str]]]  # mount points with the kinds of their file systems

QUIET_SECONDS = 5.0  # at least; NFS answers from its cache for 3 s after a file has changed, by default
_NETWORK = re.compile(
    r"nfs\d?|cifs|smb\d?|smbfs|afpfs|afs|9p|virtiofs|vboxsf|prl_fs|lustre|gpfs|beegfs|ceph|glusterfs|orangefs|pvfs2|panfs|"
    r"wekafs|quobyte|ocfs2|gfs2|davfs\d?|webdav|coda|ncpfs|macfuse|osxfuse|fuse\.(?!fuse-overlayfs$).+"
)
SETTING = "network = true"  # in the place of a kind, where the operator says so


def mounted() -> list[tuple[str, str]]:
    """Every mount point with the kind of its file system, later ones over earlier ones."""
    return [(each.mountpoint, each.fstype) for each in psutil.disk_partitions(all=True)]


@dataclass
class Mounts:
    """Tells stores on network file systems."""

    stores: tuple[Store, ...]
    table: Table = mounted
    network: Mapping[str, str] = field(init=False)  # kind of the file system, of stores on networks alone, by name
    quiet: Mapping[str, float] = field(init=False)  # seconds without a change, by store

    def __post_init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Ask again: a store may be mounted while it is watched."""
        table = list(self.table()) if any(store.network == "auto" for store in self.stores) else []
        kinds = {store.name: _kind(store, table) for store in self.stores}
        self.network = {name: kind for name, kind in kinds.items() if kind}
        self.quiet = {
            store.name: max(store.quiet_seconds, QUIET_SECONDS if kinds[store.name] else 0.0) for store in self.stores
        }

    def cautious(self, store: str, examination: Examination) -> Examination:
        """The examination, which on a network file system never excludes a writer at work."""
        return replace(examination, needs_quiet=True) if store in self.network else examination


def _kind(store: Store, table: Iterable[tuple[str, str]]) -> str:
    if store.network != "auto":
        return SETTING if store.network else ""
    kind = kind_of(os.path.realpath(store.path), table)
    return kind if _NETWORK.fullmatch(kind) else ""


def kind_of(path: str, table: Iterable[tuple[str, str]]) -> str:
    """The kind of the file system that holds a path; empty where the table does not tell."""
    best, kind = -1, ""
    for point, found in table:
        holds = path == point or path.startswith(f"{point.rstrip('/')}/")
        if holds and len(point) >= best:  # of two on one point, the later one hides the earlier
            best, kind = len(point), found
    return kind
