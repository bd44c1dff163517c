"""Where a command works: the configuration named on the command line, and what hangs on it."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from sounding.errors import SoundingError
from sounding.locate import find_config, results_path

if TYPE_CHECKING:
    from sounding.config import Settings


@dataclass(frozen=True, slots=True)
class Place:
    """The configuration named by `--config`, if any; kept in the command's context."""

    named: Path | None

    @property
    def config(self) -> Path:
        """The configuration in force. Raises SoundingError when there is none."""
        return find_config(self.named)

    @property
    def results(self) -> Path:
        """The results directory, found without reading the rest of the configuration."""
        return results_path(self.config)

    def settings(self) -> "Settings":
        """The whole configuration, checked."""
        from sounding.config import load_config

        return load_config(self.config)

    def settings_if_any(self) -> "Settings | None":
        """The whole configuration, or None when none was named and none lies here."""
        if self.named is None:
            try:
                self.config  # noqa: B018  only whether it exists
            except SoundingError:
                return None
        return self.settings()


def place_of(ctx: typer.Context) -> Place:
    """The place that the global options named."""
    assert isinstance(ctx.obj, Place)
    return ctx.obj
