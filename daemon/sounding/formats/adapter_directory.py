"""A directory of a low-rank adapter, as PEFT saves it: read as the change that it makes to its base model's weights.

The two factors of a change mean nothing alone: any invertible matrix between them gives the same change.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path

from sounding.formats import safetensors, torch_zip
from sounding.formats.json_file import read_json
from sounding.formats.proof import Format, ImpossibleError, UnfinishedError, contained
from sounding.formats.sampling import Digest
from sounding.formats.weights_directory import states_beside
from sounding.records import Product, Stored, TensorRef

_CONFIG = "adapter_config.json"
_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
_PREFIX = "base_model.model."
_FACTOR = re.compile(r"(.+)\.lora_(embedding_)?([AB])(?:\.weight)?")


def _claims(path: Path) -> bool:
    return path.is_dir() and any((path / name).exists() for name in (_CONFIG, *_WEIGHTS))


def check(path: Path) -> str:
    """Prove the weights whole and every change made of two factors that fit."""
    states_beside(path)
    changes = sum(isinstance(ref, Product) for ref in _network(path).values())
    return f"adapter of {changes} weight change{'s' if changes != 1 else ''}, whole"


def fingerprint(path: Path) -> str:
    """Digest of the configuration's scales and of the weight file."""
    digest = Digest()
    file = _weights(path)
    digest.add(repr(sorted((name, ref.scale) for name, ref in _network(path).items() if isinstance(ref, Product))))
    digest.add(safetensors.fingerprint(file) if file.suffix == ".safetensors" else torch_zip.fingerprint(file))
    return digest.hex()


def read(path: Path) -> dict[str, object]:
    """The changes under "model", by the base model's names; the adapter's configuration under "config"."""
    tree: dict[str, object] = {"model": _network(path), "config": _config(path)}
    if (path / "trainer_state.json").is_file():
        tree["trainer_state"] = read_json(path / "trainer_state.json")
    return tree | states_beside(path)


def _network(path: Path) -> dict[str, Stored]:
    config, tensors = _config(path), _tensors(_weights(path))
    factors: dict[str, dict[str, TensorRef]] = {}
    network: dict[str, Stored] = {}
    for name, ref in tensors.items():
        match = _FACTOR.fullmatch(name)
        if match is not None:
            module = match[1].removeprefix(_PREFIX)
            factors.setdefault(module, {})[(match[2] or "") + match[3]] = ref
        elif "lora_" in name or "hada_" in name or "lokr_" in name:
            raise ImpossibleError(f"{name[:80]}: only plain low-rank factors are read, without magnitudes or biases")
        else:
            network[name.removeprefix(_PREFIX).replace(".modules_to_save.", ".")] = ref  # trained and saved whole
    for module, found in factors.items():
        network[f"{module}.weight"] = _change(module, found, config)
    return network


def _change(module: str, factors: Mapping[str, TensorRef], config: Mapping[str, object]) -> Product:
    embedding = "embedding_A" in factors or "embedding_B" in factors
    kinds = ("embedding_A", "embedding_B") if embedding else ("A", "B")
    if set(factors) != set(kinds):
        raise ImpossibleError(
            f"{module[:80]} has the factors {', '.join(sorted(factors))}, expected {' and '.join(kinds)}"
        )
    inner, outer = factors[kinds[0]], factors[kinds[1]]
    if len(inner.shape) != 2 or len(outer.shape) != 2 or inner.shape[0] != outer.shape[1]:
        raise ImpossibleError(
            f"{module[:80]}: factors of shapes {list(outer.shape)} and {list(inner.shape)} make no matrix; "
            "of adapters of convolutions, the change is not read"
        )
    turned = embedding or config.get("fan_in_fan_out") is True
    shape = (inner.shape[1], outer.shape[0]) if turned else (outer.shape[0], inner.shape[1])
    return Product(outer.dtype, shape, outer, inner, _scale(module, inner.shape[0], config), turned)


def _scale(module: str, rank: int, config: Mapping[str, object]) -> float:
    alpha = _of_module(module, config.get("alpha_pattern"), config.get("lora_alpha"))
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or rank == 0:
        raise ImpossibleError(f"{_CONFIG} gives {module[:80]} no lora_alpha")
    return alpha / math.sqrt(rank) if config.get("use_rslora") is True else alpha / rank


def _of_module(module: str, patterns: object, default: object) -> object:
    """A setting that may differ by module: the first pattern that a module's name ends with."""
    for pattern, value in patterns.items() if isinstance(patterns, Mapping) else ():
        if module == pattern or module.endswith(f".{pattern}"):
            return value
        if re.search(r"[\\^$*+?()\[\]|]", str(pattern)):
            raise ImpossibleError(f"{_CONFIG} chooses alpha by the expression {str(pattern)[:60]!r}, which is not read")
    return default


def _config(path: Path) -> dict[str, object]:
    if not (path / _CONFIG).exists():
        raise UnfinishedError(f"no {_CONFIG} yet, which says how the factors are scaled")
    config = read_json(contained(path, _CONFIG))
    if config.get("peft_type") != "LORA":
        raise ImpossibleError(f"an adapter of type {str(config.get('peft_type'))[:40]}; only LORA is read")
    if config.get("use_dora") is True:
        raise ImpossibleError("an adapter with magnitudes (DoRA), whose change depends on the base model's weights")
    return config


def _weights(path: Path) -> Path:
    for name in _WEIGHTS:
        if (path / name).exists():
            return contained(path, name)
    raise UnfinishedError(f"no {_WEIGHTS[0]} yet")


def _tensors(file: Path) -> dict[str, TensorRef]:
    try:
        tree = safetensors.read(file) if file.suffix == ".safetensors" else torch_zip.read(file)
    except UnfinishedError as unfinished:
        raise UnfinishedError(f"{file.name}: {unfinished}") from unfinished
    except ImpossibleError as impossible:
        raise ImpossibleError(f"{file.name}: {impossible}") from impossible
    found = (
        {str(name): ref for name, ref in tree.items() if isinstance(ref, TensorRef)} if isinstance(tree, dict) else {}
    )
    if not found:
        raise ImpossibleError(f"{file.name} holds no tensors")
    return found


FORMAT = Format("adapter directory", _claims, check, fingerprint, read, needs_quiet=True, own_names=True)
