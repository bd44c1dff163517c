"""A directory in which Accelerate or the Trainer keeps a network that is sharded by FSDP.

The network and each optimizer lie in torch's distributed format, in directories of their own inside it.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from sounding.formats import distributed
from sounding.formats.proof import Format, ImpossibleError, UnfinishedError
from sounding.formats.sampling import Digest
from sounding.formats.weights_directory import notes_beside, states_beside

_NETWORK = re.compile(r"pytorch_model_fsdp_(\d+)")
_OPTIMIZER = re.compile(r"optimizer_(\d+)")
_Found = TypeVar("_Found")


def _claims(path: Path) -> bool:
    return path.is_dir() and any(path.glob("pytorch_model_fsdp_[0-9]*/"))


def check(path: Path) -> str:
    """Prove every directory inside whole, and what lies beside them."""
    networks = _parts(path, _NETWORK, distributed.check)
    _parts(path, _OPTIMIZER, distributed.check)
    states_beside(path)
    return "; ".join(f"{name}: {said}" for name, said in networks.items())


def fingerprint(path: Path) -> str:
    """Digest of the fingerprints of all networks."""
    digest = Digest()
    for name, each in _parts(path, _NETWORK, distributed.fingerprint).items():
        digest.add(f"{name} {each}")
    return digest.hex()


def read(path: Path) -> dict[str, object]:
    """The networks under "model", "model_1" …, the optimizers likewise, and what lies beside them."""
    tree: dict[str, object] = {}
    for kind, key in ((_NETWORK, "model"), (_OPTIMIZER, "optimizer")):
        for place, (name, held) in enumerate(_parts(path, kind, distributed.read).items()):
            if not isinstance(held, Mapping) or key not in held:
                raise ImpossibleError(f"{name} holds no entry `{key}`")
            tree[f"{key}_{place}" if place else key] = held[key]
    return tree | notes_beside(path) | states_beside(path)


def _parts(path: Path, kind: re.Pattern[str], ask: Callable[[Path], _Found]) -> dict[str, _Found]:
    """What each directory of a kind answers, by its name, in the order of their numbers."""
    matches = [match for entry in path.iterdir() if (match := kind.fullmatch(entry.name)) and entry.is_dir()]
    found: dict[str, _Found] = {}
    for match in sorted(matches, key=lambda match: int(match[1])):
        try:
            found[match[0]] = ask(path / match[0])
        except UnfinishedError as unfinished:
            raise UnfinishedError(f"{match[0]}: {unfinished}") from unfinished
        except ImpossibleError as impossible:
            raise ImpossibleError(f"{match[0]}: {impossible}") from impossible
    return found


FORMAT = Format("FSDP directory", _claims, check, fingerprint, read, needs_quiet=True, own_names=True)
