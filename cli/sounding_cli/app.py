"""The `sounding` command: finds the command asked for, imports that one alone, and runs it.

A command is a function of the same name as the command, in the module that COMMANDS gives; it is imported when it is
called, so that `status` does not pay for what `watch` needs.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from sounding_cli.guard import guarded
from sounding_cli.place import Place

COMMANDS = {
    "init": "begin",
    "check": "begin",
    "scan": "watching",
    "watch": "watching",
    "start": "background",
    "stop": "background",
    "logs": "background",
    "status": "state",
    "why": "state",
    "redo": "state",
    "runs": "listings",
    "checkpoints": "listings",
    "metrics": "catalogue",
    "plugins": "catalogue",
    "show": "show",
    "query": "sql",
    "analyse": "analysing",
    "demo": "demo",
}


class LazyGroup(TyperGroup):
    """A group whose commands are imported when they are named."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = dict.fromkeys(COMMANDS)  # type: ignore[assignment]  # names alone, for suggestions

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse, with the options of the group accepted behind the command as well."""
        return super().parse_args(ctx, hoisted(args))

    def list_commands(self, ctx: Any) -> list[str]:
        """All commands, in the order of a user's day."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of this name, imported now; None when there is none."""
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"sounding_cli.{COMMANDS[cmd_name]}")
        single = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        debug = bool(ctx.params.get("debug"))
        single.command(cmd_name)(guarded(getattr(module, cmd_name), debug=debug))
        return typer.main.get_command(single)


def hoisted(args: Sequence[str]) -> list[str]:
    """The arguments with `--config FILE` and `--debug` moved to the front, where the group looks for them."""
    front: list[str] = []
    rest: list[str] = []
    waiting = iter(args)
    for arg in waiting:
        if arg == "--":
            rest += [arg, *waiting]
        elif arg == "--config":
            front += [arg, *([value] if (value := next(waiting, None)) is not None else [])]
        elif arg == "--debug" or arg.startswith("--config="):
            front.append(arg)
        else:
            rest.append(arg)
    return front + rest


app = typer.Typer(
    cls=LazyGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from sounding import __version__

        typer.echo(f"sounding {__version__}")
        raise typer.Exit


@app.callback()
def sounding(
    ctx: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="FILE",
            envvar="SOUNDING_CONFIG",
            help="The configuration; without it, sounding.toml here or in a directory above.",
        ),
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and leave.")
    ] = False,
) -> None:
    """Measure the checkpoints of training jobs while they train, and ask what happened."""
    ctx.obj = Place(config)


def main() -> None:
    """Run the command that the arguments name; exits 0 when all went well, 1 on a failure, 2 on wrong usage."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without Unicode shows `?`, and no traceback
    app(prog_name="sounding")
