"""What goes wrong in a command becomes a message on standard error and an exit code; here and nowhere else."""

import os
import signal
import sys
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

import typer

from sounding.errors import SoundingError

P = ParamSpec("P")


def guarded(command: Callable[P, None], *, debug: bool) -> Callable[P, None]:
    """The command, ending with a message instead of a traceback unless `debug` is set."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
            sys.stdout.flush()
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except BrokenPipeError:
            _leave_quietly()
        except KeyboardInterrupt:
            _fail("interrupted", 128 + signal.SIGINT)
        except Exception as error:
            if debug:
                raise
            _fail(_message(error), 1)

    return run


def _message(error: Exception) -> str:
    if isinstance(error, SoundingError):
        return str(error)
    return f"unexpected {type(error).__name__}: {error}; the same command with --debug shows where"


def _fail(message: str, code: int) -> None:
    typer.echo(f"sounding: {message}", err=True)
    raise typer.Exit(code)


def _leave_quietly() -> None:
    """The reader of our output has gone, as `head` does: what is still buffered has nowhere to go."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise typer.Exit(128 + signal.SIGPIPE)
