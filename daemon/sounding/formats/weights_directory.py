"""A directory of weights as Hugging Face libraries save them: one file, or shards with an index.

Accelerate and the Trainer put the states of optimizer and scheduler beside them; Accelerate numbers further networks,
optimizers and objects of the user's own.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sounding.formats import safetensors, torch_zip
from sounding.formats.json_file import read_json
from sounding.formats.proof import Format, ImpossibleError, UnfinishedError, contained
from sounding.formats.sampling import Digest
from sounding.records import State

_INDICES = ("model.safetensors.index.json", "*.safetensors.index.json", "pytorch_model.bin.index.json")
_SINGLES = ("model.safetensors", "pytorch_model.bin", "diffusion_pytorch_model.safetensors", "pytorch_model_fsdp.bin")
_OF_A_RANK = re.compile(r"pytorch_model_fsdp(?:_\d+)?_rank\d+\.bin")
_STATE = re.compile(r"((?:optimizer|scheduler)(?:_\d+)?)\.(?:bin|pt)|(custom_checkpoint_\d+)\.pkl")
_FURTHER = re.compile(r"(?:pytorch_)?(model_\d+)\.(?:safetensors|bin)")
_SHARD = re.compile(r".+-(\d{5})-of-(\d{5})\.(safetensors|bin)")


@dataclass(frozen=True, slots=True)
class Weights:
    """The weight files of a directory, and which file an index promises each tensor in."""

    files: tuple[Path, ...]
    promised: Mapping[str, str] = field(default_factory=dict)
    further: Mapping[str, Path] = field(default_factory=dict)  # of other networks saved beside, by their names

    @property
    def all(self) -> tuple[Path, ...]:
        """The files of all networks."""
        return (*self.files, *self.further.values())


def check(path: Path) -> str:
    """Prove every weight file whole, and all that the index promises present."""
    weights = find_weights(path)
    held: dict[str, set[str]] = {}
    whole = 0
    unfinished: list[str] = []
    for file in weights.all:
        proof = _format_of(file).prove(file)
        if proof.state is State.BROKEN:
            raise ImpossibleError(f"{file.name}: {proof.reason}")
        if proof.state is State.COMPLETE:
            whole += 1
            held[file.name] = set(_tensors(file))
        else:
            unfinished.append(f"{file.name}: {proof.reason}")
    if unfinished:
        kind = "files" if weights.further else "shards"
        of = f"{whole} of {len(weights.all)} {kind}; " if len(weights.all) > 1 else ""
        raise UnfinishedError(f"{of}{unfinished[0]}")
    for tensor, name in weights.promised.items():
        if tensor not in held[Path(name).name]:
            raise UnfinishedError(f"the index promises tensor {tensor[:80]} in {name}, which does not hold it (yet)")
    states_beside(path)
    return f"{whole} weight file{'s' if whole != 1 else ''}, whole"


def fingerprint(path: Path) -> str:
    """Digest of the fingerprints of all weight files."""
    digest = Digest()
    for file in find_weights(path).all:
        digest.add(file.name)
        digest.add(_format_of(file).fingerprint(file))
    return digest.hex()


def read(path: Path) -> dict[str, object]:
    """The network under "model"; what lies beside it under "optimizer", "scheduler", "config" and "trainer_state"."""
    check(path)
    weights = find_weights(path)
    model: dict[str, object] = {}
    for file in weights.files:
        model.update(_tensors(file))
    further = {name: _tensors(file) for name, file in weights.further.items()}
    return {"model": model, **further} | notes_beside(path) | states_beside(path)


def notes_beside(path: Path) -> dict[str, object]:
    """The network's configuration and the Trainer's state, where the directory has them."""
    names = ("config", "trainer_state")
    return {name: read_json(path / f"{name}.json") for name in names if (path / f"{name}.json").is_file()}


def states_beside(path: Path) -> dict[str, object]:
    """What the files of optimizers, schedulers and the user's own objects hold; all are proven whole."""
    matches = [match for name in sorted(os.listdir(path)) if (match := _STATE.fullmatch(name))]
    return {match[1] or match[2]: torch_zip.read_named(path / match[0]) for match in matches}


def find_weights(directory: Path) -> Weights:
    """The weight files that the directory has, or promises.

    Raises UnfinishedError when there are none yet, ImpossibleError for layouts that are not read or not safe.
    """
    names = sorted(entry.name for entry in directory.iterdir())
    indices = [index for pattern in _INDICES for index in _matching(names, pattern)]
    if indices:
        return _indexed(directory, indices[0])
    singles = [name for name in _SINGLES if name in names]
    if singles:
        further = [match for name in names if (match := _FURTHER.fullmatch(name))]
        return Weights(
            (contained(directory, singles[0]),), {}, {match[1]: contained(directory, match[0]) for match in further}
        )
    return _unindexed(directory, names)


def _unindexed(directory: Path, names: list[str]) -> Weights:
    others = _matching(names, "*.safetensors")
    shards = [match for name in names if (match := _SHARD.fullmatch(name))]
    if len(others) == 1 and not shards:
        return Weights((contained(directory, others[0]),))
    if shards:
        raise UnfinishedError(f"{len(shards)} of {int(shards[0][2])} shards, no index yet")
    of_ranks = [name for name in names if _OF_A_RANK.fullmatch(name)]
    if of_ranks:
        raise ImpossibleError(
            f"{of_ranks[0]}: shards that every rank saved for itself do not say how they fit together"
        )
    raise UnfinishedError(f"no weights yet: expected {', '.join(_SINGLES[:2])} or shards with an index")


def _indexed(directory: Path, index: str) -> Weights:
    weight_map = read_json(contained(directory, index)).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ImpossibleError(f"{index} has no weight_map")
    if not all(isinstance(name, str) for name in weight_map.values()):
        raise ImpossibleError(f"{index} names a shard by something that is not text")
    shards = tuple(contained(directory, name) for name in sorted(set(weight_map.values())))
    present = sum(shard.exists() for shard in shards)
    if present < len(shards):
        raise UnfinishedError(f"{present} of {len(shards)} shards")
    return Weights(shards, weight_map)


def _matching(names: list[str], pattern: str) -> list[str]:
    expression = re.compile(re.escape(pattern).replace(r"\*", ".*"))
    return [name for name in names if expression.fullmatch(name)]


def _format_of(file: Path) -> Format:
    return safetensors.FORMAT if file.suffix == ".safetensors" else torch_zip.FORMAT


def _tensors(file: Path) -> dict[str, object]:
    tree = _format_of(file).read(file)
    if not isinstance(tree, dict):
        raise ImpossibleError(f"{file.name} holds no dictionary of tensors")
    return {str(name): value for name, value in tree.items() if name != "__metadata__"}


FORMAT = Format("weights directory", Path.is_dir, check, fingerprint, read, needs_quiet=True, own_names=True)
