"""The command line in this process, for whoever does not ask how a process starts and ends."""

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result


def invoke(cwd: Path, *arguments: str, stdin: str | None = None) -> Result:
    """Run one command as in a terminal of 100 columns whose directory is `cwd`."""
    from sounding_cli.app import app

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(cwd)
        patch.setenv("COLUMNS", "100")
        return CliRunner().invoke(app, list(arguments), input=stdin, prog_name="sounding")
