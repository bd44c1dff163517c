"""`demo`: a real training job in a process of its own, measured while it trains."""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from sounding.errors import SoundingError
from sounding.running.status import Status
from sounding_cli.heartbeat import work_text
from sounding_cli.readings import Wanted, readings
from sounding_cli.screen import console, say
from sounding_cli.series import collected
from sounding_cli.shown import heading, steps_table
from sounding_cli.watching import reporter

RUNS = {"lr0.1": "0.1", "lr0.01": "0.01"}  # name → learning rate
_SHOWN = ("loss.loss", "loss.accuracy", "weight_norm.total")
_IDLE = 2.0  # seconds after the end of training in which a last checkpoint may come into sight
_FILES = ("train.py", "recipe.py", "sounding.toml", "README.md")


def demo(
    directory: Annotated[
        Path | None, typer.Option("--directory", metavar="DIR", help="Work here; a new sounding-demo otherwise.")
    ] = None,
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="Epochs of each training run.")] = 20,
) -> None:
    """Train a small network on handwritten digits and measure it while it trains (about a minute)."""
    if importlib.util.find_spec("sklearn") is None:
        raise SoundingError("the demo trains on scikit-learn's digits: pip install 'sounding[demo]' brings it.")
    home = _prepared(directory)
    started = time.monotonic()
    say(f"In {home}: train.py trains two small convolutional networks on handwritten digits,", "")
    with _training(home, epochs) as job:
        status = _watch(home, job)
    if job.returncode:
        log = (home / "train.log").read_text(encoding="utf-8", errors="replace").splitlines()
        raise SoundingError("train.py failed; its last lines:\n" + "\n".join(log[-10:]))
    say(f"{work_text(status)} · {time.monotonic() - started:.0f} s", "")
    _report(home)


def quickstart() -> Path:
    """The directory of the files to copy: inside the installed package, or in the checkout it is installed from."""
    packaged = Path(__file__).with_name("quickstart")
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "examples" / "quickstart"


def _prepared(directory: Path | None) -> Path:
    """A directory with the quickstart's files in it, and nothing else."""
    home = directory.absolute() if directory else _unused(Path.cwd() / "sounding-demo")
    if home.exists() and any(home.iterdir()):
        raise SoundingError(f"{home}: is not empty; name a new directory with --directory.")
    home.mkdir(parents=True, exist_ok=True)
    for name in _FILES:
        shutil.copyfile(quickstart() / name, home / name)
    (home / "runs").mkdir()
    return home


def _unused(path: Path) -> Path:
    names = (path, *(path.with_name(f"{path.name}-{number}") for number in range(2, 1000)))
    return next(name for name in names if not name.exists())


@contextmanager
def _training(home: Path, epochs: int) -> Iterator[subprocess.Popen[bytes]]:
    """The training job: both runs, one after the other, in one shell of its own; ended with the demo."""
    one = "{python} train.py --name {name} --lr {lr} --epochs {epochs}"
    commands = [
        one.format(python=_quoted(sys.executable), name=name, lr=lr, epochs=epochs) for name, lr in RUNS.items()
    ]
    with (home / "train.log").open("wb") as log:
        job = subprocess.Popen(
            ["/bin/sh", "-c", " && ".join(commands)],
            cwd=home,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={"OMP_NUM_THREADS": "1", **os.environ},  # so small a network only waits for more threads
        )
        try:
            yield job
        finally:
            _end(job)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _end(job: subprocess.Popen[bytes]) -> None:
    """Wait for a job that is done, and end one that is not, with all its children."""
    if job.poll() is None:
        os.killpg(job.pid, signal.SIGTERM)
        job.wait()


def _watch(home: Path, job: subprocess.Popen[bytes]) -> Status:
    """Measure until training has ended and nothing is owed. Raises KeyboardInterrupt when told to stop before."""
    from sounding.config import load_config
    from sounding.running.service import watch

    ended_at: list[float] = []

    def more_to_come() -> bool:
        if job.poll() is not None and not ended_at:
            ended_at.append(time.monotonic())
        return not ended_at or time.monotonic() - ended_at[0] < _IDLE

    settings = load_config(home / "sounding.toml")
    with reporter("sounding watches runs/ while train.py writes checkpoints there") as report:
        status = watch(settings, until_idle=_IDLE, more_to_come=more_to_come, report=report)
    if job.poll() is None:
        raise KeyboardInterrupt
    return status


def _report(home: Path) -> None:
    """A table of readings of the first run, a plot, and what to try next."""
    from rich.text import Text

    from sounding.locate import results_path
    from sounding_cli.plot import plotted

    results = results_path(home / "sounding.toml")
    first, second = RUNS
    rows = readings(results, Wanted(first, _SHOWN))
    series = sorted(collected(rows), key=lambda one: _SHOWN.index(one.name))
    out = console()
    say(heading(rows), style="bold")
    out.print(steps_table(series))
    say("")
    losses = [one for one in series if one.name == _SHOWN[0]]
    out.print(Text.from_ansi(plotted(losses, min(out.width, 100), colour=out.is_terminal)))
    say("Try next:", f"  cd {_relative(home)}", f"  sounding show {second} loss --plot", "  sounding runs")
    say("  sounding query \"SELECT run, max(value) FROM readings WHERE metric = 'accuracy' GROUP BY run\"")


def _relative(home: Path) -> str:
    here = Path.cwd()
    return str(home.relative_to(here)) if home.is_relative_to(here) and home != here else str(home)
