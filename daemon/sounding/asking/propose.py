"""A look at a directory of checkpoints: which path patterns describe it, and the `sounding.toml` that says so.

Only names are read. Numbers in names become parts (`ckpt_100.pt` → `ckpt_{step}.pt`), the directories above name the
run, and what remains is what all paths have in common.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sounding.errors import SoundingError

_DEPTH = 5  # directories below the one given that are looked into
_ENTRIES = 50_000  # names that are looked at; enough to see a pattern
_PATTERNS = 4  # patterns proposed at most, the most frequent first

_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".safetensors")
_WEIGHTS = re.compile(r"(pytorch_model|model|adapter_model)(-\d+-of-\d+)?\.(bin|safetensors)(\.index\.json)?")
_MOVING = re.compile(r"(last|latest|best|final|newest)([-_.].*)?")  # names that point at another checkpoint
_BESIDE = ("config.yaml", "config.yml", "config.json", "args.json", "hparams.yaml", "params.json", ".hydra/config.yaml")
_NUMBER = re.compile(r"(?<![0-9.])\d+(?![0-9]*\.[0-9])")
_WORD = re.compile(r"([A-Za-z]+)[-_=.]?$")
_MEANINGS = {
    "step": ("step", "steps", "globalstep", "iter", "iters", "iteration", "it"),
    "epoch": ("epoch", "epochs", "ep", "e"),
    "updates": ("update", "updates"),
    "tokens": ("token", "tokens", "tok"),
}


@dataclass(frozen=True, slots=True)
class Guess:
    """A pattern, how many paths it describes, and one of them."""

    pattern: str
    count: int
    example: str


@dataclass(frozen=True, slots=True)
class Proposal:
    """What a directory looks like: the store, its patterns, the template of run names where one is needed."""

    store: Path
    guesses: tuple[Guess, ...]
    run_template: str | None = None
    attributes: tuple[str, ...] = ()
    moving: tuple[str, ...] = ()  # `last.ckpt` and its like, left out because they repeat another checkpoint


def propose(directory: Path) -> Proposal:
    """Look at a directory. Raises SoundingError when it is none."""
    if not directory.is_dir():
        raise SoundingError(f"{directory}: not a directory; name the one that training jobs write checkpoints to.")
    store = directory.absolute()
    found = sorted(_candidates(store))
    store, found = _descended(store, found)
    numbered = [path for path in found if _NUMBER.search(path.split("/")[-1])]
    homes = {Path(path).parent for path in numbered}
    moving = [path for path in found if _is_moving(path) and Path(path).parent in homes]
    kept = [path for path in found if path not in set(moving)]
    guesses, template = _guesses(kept)
    return Proposal(store, guesses, template, _beside(store, kept, guesses), tuple(moving))


def document(proposal: Proposal, base: Path, *, recipe: str | None = None) -> str:
    """The text of a `sounding.toml` that lies in `base`, with what else can be set as comments."""
    path = proposal.store
    shown = os.path.relpath(path, base) if path.is_relative_to(base) or base in path.parents else str(path)
    patterns = [guess.pattern for guess in proposal.guesses] or ["{run}/ckpt_{step}.pt"]
    lines = [
        "# What sounding watches, and where it keeps what it measures. Paths are relative to this file.",
        "",
        "[results]",
        'path = ".sounding"                      # one directory, readable by any process while the daemon writes',
        "",
        "[[stores]]",
        f"path = {_quoted(shown)}",
        *_seen(proposal),
        f"pattern = {_quoted(patterns[0]) if len(patterns) == 1 else '[' + ', '.join(map(_quoted, patterns)) + ']'}",
    ]
    if proposal.run_template:
        lines.append(f"run = {_quoted(proposal.run_template)}")
    lines.append(
        f"recipe = {_quoted(recipe)}"
        if recipe
        else '# recipe = "recipe.py"                # architecture, probe data and loss; without it: weights only'
    )
    listed = ", ".join(map(_quoted, (*proposal.attributes, "checkpoint:args")))
    comment = "" if proposal.attributes else "# "
    lines += [
        f"{comment}attributes = [{listed}]   # where learning rate, seed, width … of a run are found",
        "",
        "# [plugins.loss]                       # `sounding plugins` lists them all with their options",
        '# at = "every 1000"                    # or "log2", "first,last", "all"',
        "",
        "# [daemon]",
        '# device = "cpu"                       # "auto" takes a GPU where there is one',
        "# workers = 1",
        "",
    ]
    return "\n".join(lines)


def _seen(proposal: Proposal) -> Iterator[str]:
    if not proposal.guesses:
        yield "# No file here looks like a checkpoint yet; this pattern is an example to change."
    for guess in proposal.guesses:
        yield f"# {guess.pattern}: {guess.count} found, such as {guess.example}"
    if proposal.moving:
        yield f"# left out, because it repeats another checkpoint: {proposal.moving[0]}"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _candidates(store: Path) -> Iterator[str]:
    """Relative paths of everything that looks like a checkpoint: files by suffix, directories by what they hold."""
    waiting = [""]
    looked_at = 0
    while waiting and looked_at < _ENTRIES:
        prefix = waiting.pop()
        entries = _listing(store / prefix)
        looked_at += len(entries)
        if prefix and any(_WEIGHTS.fullmatch(entry.name) for entry in entries):
            yield prefix.rstrip("/")
            continue
        yield from (prefix + entry.name for entry in entries if entry.name.endswith(_SUFFIXES) and entry.is_file())
        if prefix.count("/") < _DEPTH:
            waiting += [f"{prefix}{entry.name}/" for entry in entries if entry.is_dir(follow_symlinks=False)]


def _listing(directory: Path) -> list[os.DirEntry[str]]:
    """Entries by name, hidden ones left out; none where it cannot be read or is gone: that cannot be proposed."""
    try:
        with os.scandir(directory) as entries:
            return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    except OSError:
        return []


def _descended(store: Path, found: list[str]) -> tuple[Path, list[str]]:
    """The project's directory was given and all checkpoints lie in one room of it, such as `runs`: take that room."""
    firsts = {path.split("/")[0] for path in found}
    deep = min((path.count("/") for path in found), default=0)
    if len(firsts) != 1 or deep < 2 or len({path.split("/")[1] for path in found}) < 2:
        return store, found
    (first,) = firsts
    return store / first, [path.split("/", 1)[1] for path in found]


def _is_moving(path: str) -> bool:
    return _MOVING.fullmatch(path.split("/")[-1]) is not None


def _guesses(paths: Sequence[str]) -> tuple[tuple[Guess, ...], str | None]:
    """Patterns by how many paths they describe; and the template of run names when two directories name a run."""
    constant = _constant_directories(paths)
    groups: dict[str, list[str]] = {}
    templates: Counter[str | None] = Counter()
    for path in paths:
        *directories, name = path.split("/")
        above, template = _generalised(directories, constant)
        groups.setdefault("/".join((*above, _numbers_named(name))), []).append(path)
        templates[template] += 1
    ranked = sorted(groups.items(), key=lambda group: (-len(group[1]), group[0]))[:_PATTERNS]
    guesses = tuple(Guess(pattern, len(examples), examples[-1]) for pattern, examples in ranked)
    return guesses, templates.most_common(1)[0][0] if templates else None


def _constant_directories(paths: Sequence[str]) -> set[tuple[int, int, str]]:
    """Directories that all paths of one depth share: (depth, position, name); `checkpoints` in `{run}/checkpoints/`."""
    by_place: dict[tuple[int, int], set[str]] = {}
    for path in paths:
        directories = path.split("/")[:-1]
        for position, name in enumerate(directories):
            by_place.setdefault((len(directories), position), set()).add(name)
    return {
        (depth, position, next(iter(names)))
        for (depth, position), names in by_place.items()
        if len(names) == 1 and depth > 1 and position > 0
    }


def _generalised(directories: Sequence[str], constant: set[tuple[int, int, str]]) -> tuple[list[str], str | None]:
    depth = len(directories)
    free = [position for position in range(depth) if (depth, position, directories[position]) not in constant]
    if len(free) < 2:
        return [("{run}" if position in free else directories[position]) for position in range(depth)], None
    names = {position: f"level{place + 1}" for place, position in enumerate(free)}
    above = [f"{{{names[position]}}}" if position in names else directories[position] for position in range(depth)]
    return above, "/".join(f"{{{name}}}" for name in names.values())


def _numbers_named(name: str) -> str:
    """The name with its numbers as parts, each named by the word before it; a number nobody names is the step."""
    stem, suffix = _split_suffix(name)
    used: set[str] = set()
    text, end = "", 0
    for number in _NUMBER.finditer(stem):
        meaning = _meaning(stem[: number.start()]) or "step"
        if meaning in used:
            continue
        used.add(meaning)
        text += stem[end : number.start()] + f"{{{meaning}}}"
        end = number.end()
    return text + stem[end:] + suffix


def _split_suffix(name: str) -> tuple[str, str]:
    suffix = next((suffix for suffix in _SUFFIXES if name.endswith(suffix)), "")
    return name.removesuffix(suffix), suffix


def _meaning(before: str) -> str | None:
    word = _WORD.search(before)
    if word is None:
        return None
    return next((name for name, words in _MEANINGS.items() if word[1].lower() in words), None)


def _beside(store: Path, paths: Sequence[str], guesses: Sequence[Guess]) -> tuple[str, ...]:
    """Files that describe a run, found in the directory of the runs."""
    if not guesses or not guesses[0].pattern.startswith("{run}/"):
        return ()
    runs = sorted({path.split("/")[0] for path in paths})
    return tuple(f"{{run}}/{name}" for name in _BESIDE if any((store / run / name).is_file() for run in runs))
