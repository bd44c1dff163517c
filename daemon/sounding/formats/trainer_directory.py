"""The `checkpoint-N` directory of Hugging Face's Trainer: weights, optimizer, scheduler and the trainer's own state."""

import re
from pathlib import Path

from sounding.formats import adapter_directory, fsdp_directory, torch_zip, weights_directory
from sounding.formats.json_file import read_json
from sounding.formats.proof import Format, ImpossibleError, UnfinishedError
from sounding.formats.sampling import Digest
from sounding.records import State

_NAME = re.compile(r"checkpoint-(\d+)")
_STATE = "trainer_state.json"
_ARGUMENTS = "training_args.bin"


def _claims(path: Path) -> bool:
    return _NAME.fullmatch(path.name) is not None and path.is_dir()


def check(path: Path) -> str:
    """Prove weights, optimizer and scheduler whole, and the trainer's state of the same step."""
    said = _weights(path).check(path)
    if not (path / _STATE).exists():
        raise UnfinishedError(f"{said}, but no {_STATE} yet, which the Trainer writes after the weights")
    step = _global_step(path)
    if _named_step(path) != step:
        raise ImpossibleError(f"{_STATE} says step {step}, the directory says {_named_step(path)}")
    return f"{said}; {_STATE} of step {step}"


def fingerprint(path: Path) -> str:
    """Digest of the weight files and the step."""
    digest = Digest()
    digest.add(_weights(path).fingerprint(path))
    digest.add(_global_step(path))
    return digest.hex()


def read(path: Path) -> dict[str, object]:
    """The network under "model" beside "optimizer", "scheduler", "trainer_state", "config" and "training_args"."""
    check(path)
    tree = _tree(path)
    arguments = path / _ARGUMENTS
    if arguments.exists() and torch_zip.FORMAT.prove(arguments).state is State.COMPLETE:
        tree["training_args"] = torch_zip.read(arguments)
    return tree


def _weights(path: Path) -> Format:
    kinds = (adapter_directory.FORMAT, fsdp_directory.FORMAT)
    return next((kind for kind in kinds if kind.claims(path)), weights_directory.FORMAT)


def _tree(path: Path) -> dict[str, object]:
    tree = _weights(path).read(path)
    assert isinstance(tree, dict)
    return tree


def _named_step(path: Path) -> int:
    match = _NAME.fullmatch(path.name)
    if match is None:
        raise ImpossibleError(f"{path.name} is not named checkpoint-N")
    return int(match[1])


def _global_step(path: Path) -> int:
    step = read_json(path / _STATE).get("global_step")
    if type(step) is not int:
        raise ImpossibleError(f"{_STATE} has no whole number global_step")
    return step


FORMAT = Format("trainer directory", _claims, check, fingerprint, read, needs_quiet=True, own_names=True)
