"""Finding `sounding.toml` and the results directory, cheaply: readers need no more of the configuration than that."""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path

from sounding.errors import SoundingError

CONFIG_NAME = "sounding.toml"
DEFAULT_RESULTS = ".sounding"


def find_config(explicit: str | Path | None = None, start: Path | None = None) -> Path:
    """The configuration in force: the one named, else `SOUNDING_CONFIG`, else `sounding.toml` here or above.

    Raises SoundingError when there is none.
    """
    named = explicit or os.environ.get("SOUNDING_CONFIG")
    if named:
        path = Path(named).expanduser().absolute()
        if not path.is_file():
            raise SoundingError(f"{path}: no such configuration file; `sounding init` writes one.")
        return path
    here = (start or Path.cwd()).absolute()
    for directory in (here, *here.parents):
        if (directory / CONFIG_NAME).is_file():
            return directory / CONFIG_NAME
    raise SoundingError(
        f"no {CONFIG_NAME} in {here} or above it; `sounding init DIRECTORY` looks at a directory of checkpoints and "
        f"writes one, --config names one elsewhere."
    )


def read_toml(path: Path) -> dict[str, object]:
    """Parse the file. Raises SoundingError naming the file and the line."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SoundingError(f"{path}: cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SoundingError(f"{path}: not valid TOML: {error}.") from error


def results_path(config: Path) -> Path:
    """The results directory that a configuration names, absolute; relative paths start at the configuration."""
    results = read_toml(config).get("results", {})
    path = results.get("path", DEFAULT_RESULTS) if isinstance(results, Mapping) else None
    if not isinstance(path, str):
        raise SoundingError(f'{config}: results.path: expected a text, for example path = "{DEFAULT_RESULTS}".')
    return from_config(config, path)


def from_config(config: Path, path: str) -> Path:
    """A path that a configuration names, absolute and without `..`; relative paths start at the configuration.

    The daemon and every reader must come to the same answer, so links are not resolved.
    """
    return Path(os.path.normpath((config.parent / Path(path).expanduser()).absolute()))
