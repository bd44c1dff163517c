"""Examines a sighting from its bytes: is it whole, what is it, how far had training come. Runs in a killable child."""

from collections.abc import Sequence
from pathlib import Path

from sounding.formats import format_of
from sounding.formats.proof import Format, ImpossibleError, Proof, UnfinishedError, opened
from sounding.records import Examination, Progress, Sighting, Stamp, State, Verdict
from sounding.seeing.attributes import find_attributes
from sounding.seeing.contents import contents_of
from sounding.seeing.progress import with_path
from sounding.stamps import stamp_of

_CHANGED = "changed while it was examined"
_MOST_LEFT = 20  # tensors of a network that are named


def examine(sighting: Sighting, sources: Sequence[str] = (), root: str = "") -> Examination:
    """The verdict on a sighting and, when complete, what the checkpoint tells of itself and its run.

    `root` is the store's path, under which `sources` ("{run}/config.yaml", "checkpoint:args") name files.
    """
    try:
        return _examined(sighting, sources, root)
    except FileNotFoundError:
        return _verdict(State.PENDING, "gone")
    except OSError as error:
        return _verdict(State.PENDING, f"cannot be read: {error.strerror or error}")


def _examined(sighting: Sighting, sources: Sequence[str], root: str) -> Examination:
    path = Path(sighting.path)
    before = stamp_of(path)
    if before != sighting.stamp:
        return _verdict(State.PENDING, "changed since it was listed")
    if not (path.is_file() or path.is_dir()):
        return _verdict(State.BROKEN, "neither a regular file nor a directory")
    kind = format_of(path)
    if kind is None:
        return _unclaimed(path)
    proof = kind.prove(path)
    if proof.state is not State.COMPLETE:
        return _verdict(proof.state, proof.reason)
    try:
        found = _inside(sighting, kind, proof, sources, root)
    except (UnfinishedError, FileNotFoundError) as error:
        return _verdict(State.PENDING, f"{_CHANGED}: {error}")
    except ImpossibleError as error:
        return _verdict(State.BROKEN, str(error))
    return found if _stamp(path) == before else _verdict(State.PENDING, _CHANGED)


def _unclaimed(path: Path) -> Examination:
    """The verdict on what no format claims. Raises OSError where that is because its first bytes cannot be read."""
    if path.is_file():
        with opened(path):
            pass
    return _verdict(State.BROKEN, "no known format: expected a torch zip, safetensors or a directory of weights")


def _inside(sighting: Sighting, kind: Format, proof: Proof, sources: Sequence[str], root: str) -> Examination:
    path = Path(sighting.path)
    fingerprint = kind.fingerprint(path)
    tree = kind.read(path)
    contents = contents_of(tree, own_names=kind.own_names)
    if not contents.networks:
        return _verdict(State.BROKEN, "no tensors of a network inside", kind.name)
    progress = with_path(contents.progress, sighting.step, sighting.parts)
    if progress.step is None:
        return _verdict(State.BROKEN, "no step in the path and none inside; name it in the pattern", kind.name)
    attributes, problems = find_attributes(sighting, sources, root, tree)
    return Examination(
        verdict=Verdict(State.COMPLETE, proof.reason),
        needs_quiet=proof.needs_quiet,
        format=kind.name,
        fingerprint=fingerprint,
        progress=progress,
        attributes=attributes,
        models=tuple(contents.networks),
        unwrapped=contents.wrappers,
        left_out=tuple(
            f"{name}: {why}"
            for entries in contents.left_out.values()
            for name, why in list(entries.items())[:_MOST_LEFT]
        ),
        problems=problems,
        asked=tuple(sources),
    )


def _stamp(path: Path) -> Stamp | None:
    try:
        return stamp_of(path)
    except OSError:
        return None


def _verdict(state: State, reason: str, name: str = "") -> Examination:
    return Examination(Verdict(state, reason), format=name, progress=Progress())
