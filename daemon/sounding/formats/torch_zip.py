"""The zip that torch.save writes (.pt, .pth, .ckpt, .bin): a pickle of the structure, and the bytes of each storage.

TorchScript archives are the same but for the code they add, which is never looked at.
"""

import zlib
from pathlib import Path
from typing import BinaryIO

from sounding.formats import lightning
from sounding.formats.archive import Member, members_of, members_within
from sounding.formats.pickle_stub import MOST_PICKLE_BYTES, read_pickle
from sounding.formats.proof import Format, ImpossibleError, UnfinishedError, first_bytes, megabytes, opened
from sounding.formats.sampling import Digest

_SERIAL = ".data/serialization_id"  # torch derives it from the other members, differently from version to version
SUFFIXES = (".pt", ".pth", ".ckpt", ".bin")


def _claims(path: Path) -> bool:
    return not path.is_dir() and (path.suffix in SUFFIXES or first_bytes(path, 4) == b"PK\x03\x04")


def check(path: Path) -> str:
    """Prove the archive whole and its structure readable."""
    with opened(path) as file:
        members = members_of(file, path)
        data = _structure(file, members)
    read_pickle(data, str(path), members)
    kind = "TorchScript archive" if "constants.pkl" in members else "torch zip"
    return f"{kind} of {len(members)} members, whole"


def fingerprint(path: Path) -> str:
    """Digest of directory, structure and samples of every storage; of Lightning's files, of what they hold."""
    digest = Digest()
    with opened(path) as file:
        members = members_of(file, path)
        structure = _structure(file, members)
        if lightning.is_lightning(structure):
            lightning.add_content(digest, file, read_pickle(structure, str(path), members), members)
            return digest.hex()
        for name, member in sorted(members.items()):
            if name == _SERIAL:
                continue
            for part in (name, member.size, member.crc):
                digest.add(part)
        digest.add(structure)
        storages = sorted((member.start, member.size) for name, member in members.items() if name.startswith("data/"))
        digest.add_samples(file, storages)
    return digest.hex()


def read(path: Path) -> object:
    """The saved object, with TensorRefs in place of tensors."""
    with opened(path) as file:
        members = members_of(file, path)
        data = _structure(file, members)
    return read_pickle(data, str(path), members)


def read_named(path: Path) -> object:
    """The same for one file of a checkpoint that has several: what is wrong with it is said with its name."""
    try:
        return read(path)
    except UnfinishedError as unfinished:
        raise UnfinishedError(f"{path.name}: {unfinished}") from unfinished
    except ImpossibleError as impossible:
        raise ImpossibleError(f"{path.name}: {impossible}") from impossible


def read_within(file: BinaryIO, path: Path, start: int, size: int) -> object:
    """The object saved in a part of a file, `size` bytes from `start`, after proving that part whole."""
    members = members_within(file, path, start, size)
    return read_pickle(_structure(file, members), str(path), members)


def _structure(file: BinaryIO, members: dict[str, Member]) -> bytes:
    """The bytes of data.pkl, after proving that they are what was written."""
    member = members.get("data.pkl")
    if member is None:
        raise ImpossibleError("a zip without data.pkl: not written by torch.save")
    if member.size > MOST_PICKLE_BYTES:
        raise ImpossibleError(f"its data.pkl has {megabytes(member.size)}, more than is read")
    _require_byte_order(file, members.get("byteorder"))
    file.seek(member.start)
    data = file.read(member.size)
    # torch can be told not to compute checksums and then writes 0.
    if member.crc and zlib.crc32(data) != member.crc:
        raise ImpossibleError("the checksum of data.pkl is wrong: damaged, or written out of order")
    return data


def _require_byte_order(file: BinaryIO, member: Member | None) -> None:
    if member is None:
        return
    file.seek(member.start)
    order = file.read(min(member.size, 16))
    if order != b"little":
        raise ImpossibleError(f"its byte order is {order!r}; only little-endian checkpoints are read")


FORMAT = Format("torch zip", _claims, check, fingerprint, read, needs_quiet=False)
