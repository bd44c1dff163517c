"""What a person asks of the daemon: small files in `requests/`, each turned into outcomes and then removed."""

import json
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from sounding.errors import SoundingError
from sounding.records import Outcome

DIRECTORY = "requests"


@dataclass(frozen=True, slots=True)
class Redo:
    """Measure again whatever matches every field that is set."""

    plugin: str | None = None
    run: str | None = None
    step: int | None = None
    checkpoint: str | None = None  # a prefix of its id

    def matches(self, outcome: Outcome) -> bool:
        """Whether an outcome is among those asked for again."""
        subject = outcome.subject
        return (
            self.plugin in (None, outcome.key.plugin)
            and self.run in (None, subject.run)
            and self.step in (None, subject.step)
            and subject.checkpoint_id.startswith(self.checkpoint or "")
        )


def request_redo(
    results: Path,
    *,
    plugin: str | None = None,
    run: str | None = None,
    step: int | None = None,
    checkpoint: str | None = None,
) -> Path:
    """Leave a request for the daemon, which sees it at its next turn, or at its next start.

    Raises SoundingError when nothing is named: redoing everything must be said as such, plugin by plugin.
    """
    redo = Redo(plugin, run, step, checkpoint)
    if redo == Redo():
        raise SoundingError("redo: name a plugin, a run, a step or a checkpoint; nothing was asked for.")
    if not results.is_dir():
        raise SoundingError(f"redo: there are no results at {results} yet; `sounding watch` makes them.")
    directory = results / DIRECTORY
    directory.mkdir(exist_ok=True)
    name = uuid.uuid4().hex
    temporary = directory / f".{name}"
    temporary.write_text(json.dumps(asdict(redo)), encoding="utf-8")
    return temporary.replace(directory / f"{name}.json")


def read_requests(results: Path) -> Iterator[tuple[Path, Redo | str]]:
    """Every request waiting, oldest first, or what is wrong with it."""
    paths = [path for path in (results / DIRECTORY).glob("*.json") if path.is_file()]
    for path in sorted(paths, key=lambda path: path.stat().st_mtime_ns):
        try:
            yield path, Redo(**json.loads(path.read_text(encoding="utf-8")))
        except OSError as error:  # another user's, perhaps; it must not keep the daemon from its work
            yield path, f"{path} cannot be read: {error.strerror or error}"
        except (ValueError, TypeError) as error:
            yield path, f"{path.name} is not a request: {error}"
