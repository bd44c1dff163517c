"""A script that a document shows, run in a process that has imported torch already and is used for nothing else."""

import os
import sys
import warnings


def run(text: str, place: str, directory: str) -> None:
    """Run it as `python` would in that directory."""
    os.chdir(directory)
    sys.path.insert(0, directory)
    warnings.simplefilter("error", SyntaxWarning)
    exec(compile(text, place, "exec"), {"__name__": "__main__"})
