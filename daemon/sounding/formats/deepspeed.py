"""DeepSpeed's `global_stepN` directory: the module's state beside what each rank keeps of optimizer and weights.

With ZeRO, every rank holds a part of flat vectors into which all parameters were laid one after the other; with its
stage 3, the weights themselves lie there and nowhere else.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sounding.formats import torch_zip
from sounding.formats.flat_groups import Shapes, Vectors, laid_by_parameter, laid_by_rank, vectors_of
from sounding.formats.proof import Format, ImpossibleError, UnfinishedError, contained, first_bytes
from sounding.formats.sampling import Digest
from sounding.records import Opaque, Stored, TensorRef

_TAG = re.compile(r"(.*?)(\d+)")
_MODEL = re.compile(r"(?:zero_pp_rank_(\d+)_)?mp_rank_(\d+)_model_states\.pt")
_OPTIMIZER = re.compile(r"(?:bf16_|fp16_)?zero_pp_rank_(\d+)_mp_rank_(\d+)_optim_states\.pt")
_SPLIT = re.compile(r"(layer_\d+|expp_rank_\d+).*_states\.pt")
_NOT_KEPT = {"module", "optimizer", "param_shapes", "buffer_names", "frozen_param_shapes", "frozen_param_fragments",
             "shared_params"}  # fmt: skip
_LATEST_BYTES = 4096


@dataclass(frozen=True, slots=True)
class _Files:
    models: tuple[Path, ...]  # by rank; a single one below stage 3
    optimizers: tuple[Path, ...]  # by rank; none without ZeRO


def _claims(path: Path) -> bool:
    if not path.is_dir():
        return False
    return any(path.glob("*_model_states.pt")) or any(path.glob("*zero_pp_rank_*_optim_states.pt"))


def check(path: Path) -> str:
    """Prove the files of all ranks present and whole, every parameter in them, and the save itself finished."""
    files = _files(path)
    _contents(files)
    _require_latest(path)
    ranks = max(1, len(files.optimizers))
    return f"DeepSpeed checkpoint of {ranks} rank{'s' if ranks != 1 else ''}, whole"


def fingerprint(path: Path) -> str:
    """Digest of the fingerprints of all files."""
    digest = Digest()
    files = _files(path)
    for file in (*files.models, *files.optimizers):
        digest.add(file.name)
        digest.add(torch_zip.fingerprint(file))
    return digest.hex()


def read(path: Path) -> object:
    """The weights under "model", full-precision copies under "master", and what else the first rank kept."""
    return _contents(_files(path))


def _contents(files: _Files) -> dict[str, object]:
    models = [_mapping(torch_zip.read_named(file), file) for file in files.models]
    tree = {key: value for key, value in models[0].items() if key not in _NOT_KEPT}
    weights = dict(_named(models[0].get("module")))
    if not files.optimizers:
        if models[0].get("param_shapes") is not None:
            raise UnfinishedError("no file of optimizer states yet, which ZeRO writes after the model's")
        return {"model": weights, "optimizer": models[0].get("optimizer"), **tree}
    shards = [
        _mapping(_mapping(torch_zip.read_named(file), file).get("optimizer_state_dict"), file)
        for file in files.optimizers
    ]
    stage, ranks = _number(shards[0].get("zero_stage")), shards[0].get("partition_count")
    wanted = max(ranks, default=0) if isinstance(ranks, (list, tuple)) else ranks
    if len(shards) != wanted or (stage == 3 and len(models) != wanted):
        raise UnfinishedError(f"{min(len(shards), len(models) if stage == 3 else len(shards))} of {wanted} ranks")
    shapes = _shapes(models[0].get("param_shapes"))
    vectors = [vectors_of(shard.get("fp32_flat_groups" if stage == 3 else "single_partition_of_fp32_groups"))
               for shard in shards]  # fmt: skip
    paddings = _paddings(shards[0].get("param_alignment_paddings"))
    laid = _Laid(stage, shapes, paddings, vectors)
    master = laid.tensors(vectors)
    tree["optimizer"] = _optimizer(laid, shards)
    if stage == 3:
        return {"model": _shared(_buffers(models[0]) | _frozen(models) | master, models[0]), **tree}
    masters = _shared(_buffers(models[0]) | _frozen(models[:1]) | master, models[0])
    same = all(ref.dtype == masters[name].dtype for name, ref in weights.items() if name in masters)
    return {"model": weights, **({} if same else {"master": masters}), **tree}


@dataclass(frozen=True, slots=True)
class _Laid:
    """How the parameters lie in the ranks' vectors, of weights and of whatever the optimizer keeps like them."""

    stage: int
    shapes: tuple[Shapes, ...]  # by group
    paddings: Sequence[Sequence[int]]
    vectors: Sequence[Vectors]  # by rank

    def tensors(self, vectors: Sequence[Vectors]) -> dict[str, Stored]:
        if self.stage == 3:
            return laid_by_rank(vectors, self.shapes)
        return laid_by_parameter(vectors, self.shapes, self.paddings)

    def like(self, found: Sequence[Sequence[object]]) -> dict[str, Stored] | None:
        """The same of other vectors of the ranks, cut to the length of the weights'; None if they are not alike."""
        cut: list[Vectors] = []
        for refs, own in zip(found, self.vectors, strict=True):
            matched = [_first(ref, vector) for ref, vector in zip(refs, own, strict=False)]
            kept = tuple(ref for ref in matched if ref is not None)
            if not len(refs) == len(own) == len(kept):
                return None
            cut.append(kept)
        return self.tensors(cut)


def _first(ref: object, like: TensorRef) -> TensorRef | None:
    """As many elements of a vector as another one has."""
    if not isinstance(ref, TensorRef) or len(ref.shape) != 1 or ref.shape < like.shape or ref.stride != (1,):
        return None
    return replace(ref, shape=like.shape)


def _optimizer(laid: _Laid, shards: Sequence[Mapping[str, object]]) -> object:
    """The optimizer's state by parameter; what is kept in another way than the weights is left out."""
    key = "optimizer_state_dict" if laid.stage == 3 else "base_optimizer_state"
    kept = [shard.get(key) for shard in shards]
    first = kept[0]
    if not isinstance(first, Mapping) or not isinstance(first.get("state"), Mapping):
        return None
    names = [list(group) for group in laid.shapes]
    state: dict[str, dict[str, object]] = {name: {} for group in names for name in group}
    places = list(first["state"])
    for quantity in dict.fromkeys(name for place in places for name in first["state"][place]):
        value = first["state"][places[0]].get(quantity)
        if isinstance(value, TensorRef) and len(value.shape) == 1:
            found = laid.like([[_state(rank, place).get(quantity) for place in places] for rank in kept])
            for name, tensor in (found or {}).items():
                state[name][quantity] = tensor
        else:
            for entry in state.values():
                entry[quantity] = value
    groups = first.get("param_groups")
    listed = [dict(group) for group in groups] if isinstance(groups, list) else []
    if len(listed) != len(names):  # stage 3 cuts groups further, and then says nothing of which is which
        names = [[name for group in names for name in group]]
    return {"state": state, "param_groups": [{**g, "params": n} for g, n in zip(listed, names, strict=False)]}


def _state(kept: object, place: object) -> Mapping[str, object]:
    states = kept.get("state") if isinstance(kept, Mapping) else None
    state = states.get(place) if isinstance(states, Mapping) else None
    return state if isinstance(state, Mapping) else {}


def _files(path: Path) -> _Files:
    names = sorted(entry.name for entry in path.iterdir())
    split = [name for name in names if _SPLIT.fullmatch(name)]
    if split:
        raise ImpossibleError(f"{split[0]}: pipeline or expert parallel checkpoints of DeepSpeed are not read")
    models = [match for name in names if (match := _MODEL.fullmatch(name))]
    optimizers = [match for name in names if (match := _OPTIMIZER.fullmatch(name))]
    if any(int(match[2]) for match in (*models, *optimizers)):
        raise ImpossibleError("tensor parallel checkpoints of DeepSpeed are not read")
    if not models:
        raise UnfinishedError("no file of model states yet")
    if models[0][1] is not None and not optimizers:
        raise UnfinishedError("no file of optimizer states yet, where stage 3 keeps the weights")
    return _Files(_ranked(path, models), _ranked(path, optimizers))


def _ranked(path: Path, matches: Sequence[re.Match[str]]) -> tuple[Path, ...]:
    by_rank = {int(match[1] or 0): contained(path, match[0]) for match in matches}
    if sorted(by_rank) != list(range(len(matches))):
        raise UnfinishedError(f"ranks {', '.join(map(str, sorted(by_rank)))} are there, some before the last are not")
    return tuple(by_rank[rank] for rank in range(len(by_rank)))


def _require_latest(path: Path) -> None:
    """The pointer beside is written after all files; it proves nothing, yet one that is behind says: not finished."""
    said = first_bytes(path.parent / "latest", _LATEST_BYTES).decode("utf-8", "replace").strip()
    latest, own = _TAG.fullmatch(said), _TAG.fullmatch(path.name)
    if latest and own and latest[1] == own[1] and int(latest[2]) < int(own[2]):
        raise UnfinishedError(f"`latest` still names {said}: {path.name} is being written, or was left behind")


def _mapping(value: object, file: Path) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise ImpossibleError(f"{file.name} does not hold what DeepSpeed saves")
    return value


def _named(value: object) -> dict[str, Stored]:
    return (
        {str(name): ref for name, ref in value.items() if isinstance(ref, Stored)} if isinstance(value, Mapping) else {}
    )


def _number(value: object) -> int:
    """A stage; newer versions keep it as a member of an enumeration."""
    if isinstance(value, Opaque) and isinstance(value.state, Mapping):
        value = next(iter(value.state.get("args") or (None,)))
    if type(value) is not int:
        raise ImpossibleError("the optimizer's file does not say which stage of ZeRO it is of")
    return value


def _shapes(value: object) -> tuple[Shapes, ...]:
    groups = value if isinstance(value, list) else []
    if not groups or not all(isinstance(group, Mapping) for group in groups):
        raise ImpossibleError("the model's file does not say how the parameters are laid out")
    return tuple({str(name): tuple(shape) for name, shape in group.items()} for group in groups)


def _paddings(value: object) -> Sequence[Sequence[int]]:
    return value if isinstance(value, list) and all(isinstance(group, list) for group in value) else ()


def _buffers(model: Mapping[str, object]) -> dict[str, Stored]:
    names = model.get("buffer_names")
    module = _named(model.get("module"))
    return {name: module[name] for name in names if name in module} if isinstance(names, (list, set)) else {}


def _frozen(models: Sequence[Mapping[str, object]]) -> dict[str, Stored]:
    """Parameters that are not trained, which every rank keeps a part of."""
    shapes = models[0].get("frozen_param_shapes")
    if not isinstance(shapes, Mapping) or not shapes:
        return {}
    fragments = [_named(model.get("frozen_param_fragments")) for model in models]
    if len(models) == 1:
        return fragments[0]
    found: dict[str, Stored] = {}
    for name, shape in shapes.items():
        parts = [vectors_of([rank.get(str(name))]) for rank in fragments]
        found |= laid_by_rank(parts, ({str(name): tuple(shape)},))
    return found


def _shared(weights: dict[str, Stored], model: Mapping[str, object]) -> dict[str, Stored]:
    """The weights, and those that are one with another of them."""
    shared = model.get("shared_params")
    pairs = shared if isinstance(shared, Mapping) else {}
    return weights | {str(name): weights[of] for name, of in pairs.items() if of in weights}


FORMAT = Format("DeepSpeed directory", _claims, check, fingerprint, read, needs_quiet=True)
