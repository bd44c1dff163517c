"""The zip layout that torch.save writes: members stored side by side without compression, directory at the end."""

import struct
import zipfile
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

from sounding.formats.proof import ImpossibleError, UnfinishedError, megabytes, refuse_holes, size_of
from sounding.formats.window import window

_END = b"PK\x05\x06"
_END_BYTES = 22
_END64 = b"PK\x06\x06"
_LOCATOR64_BYTES = 20
_NARROW_MOST = 0xFFFFFFFF  # "see the 64-bit record"
_LOCAL = b"PK\x03\x04"
_LOCAL_BYTES = 30
_CODE = "code/"  # TorchScript's sources
_MOST_DIRECTORY_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class Member:
    """A stored file of the archive: `start` is where its bytes begin in the archive."""

    name: str  # without the archive's root folder
    start: int
    size: int
    crc: int


def members_of(file: BinaryIO, path: Path) -> dict[str, Member]:
    """The members by name, after proving that all of them lie whole inside the file.

    Raises UnfinishedError while the directory at the end is missing, ImpossibleError when it contradicts the file.
    """
    size = size_of(file)
    _require_signature(file, path, size)
    _require_directory(file, size)
    refuse_holes(file, path.name)
    return _members(file, size)


def members_within(file: BinaryIO, path: Path, start: int, size: int) -> dict[str, Member]:
    """The same for an archive that is a part of the file, `size` bytes from `start`; members count from the file's."""
    with window(file, start, size) as part:
        _require_signature(part, path, size)
        _require_directory(part, size)
        members = _members(part, size)
    return {name: replace(member, start=start + member.start) for name, member in members.items()}


def _members(file: BinaryIO, size: int) -> dict[str, Member]:
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error, EOFError) as error:
        raise ImpossibleError(f"the zip's central directory cannot be read: {error}") from error
    found: dict[str, Member] = {}
    root = _root_of(entries)
    for entry in entries:
        member = _member(file, entry, root, size)
        if member.name in found:
            raise ImpossibleError(f"the zip has two members named {member.name}")
        found[member.name] = member
    _refuse_overlap(list(found.values()))
    return found


def _require_signature(file: BinaryIO, path: Path, size: int) -> None:
    file.seek(0)
    head = file.read(64)
    if size == 0:
        raise UnfinishedError("empty file")
    if not head.strip(b"\0"):
        raise UnfinishedError("begins with zeros: space reserved, nothing written yet")
    if not head.startswith(_LOCAL[: len(head)]):
        what = "a bare pickle" if head.startswith(b"\x80") else "neither a zip nor any other known format"
        raise ImpossibleError(f"{path.name} is {what}; write it with torch.save's default (zip) format")


def _require_directory(file: BinaryIO, size: int) -> None:
    missing = UnfinishedError(f"no central directory at the end yet: {megabytes(size)} so far")
    if size < _END_BYTES:
        raise missing
    file.seek(size - _END_BYTES)
    end = file.read(_END_BYTES)
    if len(end) < _END_BYTES or not end.startswith(_END) or end[-2:] != b"\0\0":
        raise missing
    length, start = struct.unpack("<II", end[12:20])
    end_of_directory = size - _END_BYTES
    wide = _wide_directory(file, size)
    if wide is not None:
        # Both ends must agree where the narrow one can say it: a tail of zeros leaves only the wide one intact.
        if length not in (wide[0], _NARROW_MOST) or start not in (wide[1], _NARROW_MOST):
            raise missing
        length, start, end_of_directory = wide
    if length > _MOST_DIRECTORY_BYTES:
        raise ImpossibleError(f"the zip's central directory claims {megabytes(length)}, more than any checkpoint needs")
    # A zip inside a tensor ends like a zip as well; only the outer one has its directory where it says.
    if start + length != end_of_directory:
        raise UnfinishedError(f"the zip's central directory is not where its end says: {megabytes(size)} so far")


def _wide_directory(file: BinaryIO, size: int) -> tuple[int, int, int] | None:
    """Length, start and end of the directory from the 64-bit record, which torch always writes; None without one."""
    if size < _END_BYTES + _LOCATOR64_BYTES + 56:
        return None
    file.seek(size - _END_BYTES - _LOCATOR64_BYTES)
    locator = file.read(_LOCATOR64_BYTES)
    if not locator.startswith(b"PK\x06\x07"):
        return None
    (position,) = struct.unpack("<Q", locator[8:16])
    if position + 56 != size - _END_BYTES - _LOCATOR64_BYTES:
        raise UnfinishedError(f"the zip's 64-bit directory end is not where its locator says: {megabytes(size)} so far")
    file.seek(position)
    record = file.read(56)
    if len(record) < 56 or not record.startswith(_END64):
        raise ImpossibleError("the zip's 64-bit directory end is damaged")
    length, start = struct.unpack("<QQ", record[40:56])
    return length, start, position


def _root_of(entries: list[zipfile.ZipInfo]) -> str:
    """The folder that torch puts all members in, "" when there is not exactly one."""
    roots = {entry.filename.partition("/")[0] for entry in entries if "/" in entry.filename}
    everywhere = all("/" in entry.filename for entry in entries)
    return f"{roots.pop()}/" if len(roots) == 1 and everywhere else ""


def _member(file: BinaryIO, entry: zipfile.ZipInfo, root: str, size: int) -> Member:
    name = entry.filename.removeprefix(root)
    if name.startswith(_CODE):
        return Member(name, 0, 0, 0)  # packed, and never unpacked
    if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
        raise ImpossibleError(f"the zip's member {name} is compressed; torch stores its members as they are")
    if entry.flag_bits & 1:
        raise ImpossibleError(f"the zip's member {name} is encrypted")
    file.seek(entry.header_offset)
    header = file.read(_LOCAL_BYTES)
    if len(header) < _LOCAL_BYTES or not header.startswith(_LOCAL):
        raise ImpossibleError(f"the zip's member {name} does not begin where the directory says")
    name_bytes, extra_bytes = struct.unpack("<HH", header[26:30])
    start = entry.header_offset + _LOCAL_BYTES + name_bytes + extra_bytes
    if start + entry.file_size > size:
        raise ImpossibleError(f"the zip's member {name} reaches beyond the end of the file")
    return Member(name, start, entry.file_size, entry.CRC)


def _refuse_overlap(members: list[Member]) -> None:
    members.sort(key=lambda member: (member.start, member.size))
    for first, second in pairwise(members):
        if first.start + first.size > second.start:
            raise ImpossibleError(f"the zip's members {first.name} and {second.name} overlap")
