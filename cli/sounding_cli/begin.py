"""`init` and `check`: from a directory of checkpoints to a configuration that works."""

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from sounding.errors import SoundingError
from sounding_cli.place import place_of
from sounding_cli.screen import Json, console, print_json, say

_MARKS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "error": ("✗", "red")}


def init(
    ctx: typer.Context,
    directory: Annotated[Path, typer.Argument(help="The directory that training jobs write checkpoints to.")],
    force: Annotated[bool, typer.Option("--force", help="Overwrite a configuration that is there.")] = False,
) -> None:
    """Look at a directory of checkpoints and write a commented sounding.toml here."""
    from sounding.asking.propose import document, propose
    from sounding.locate import CONFIG_NAME

    target = (place_of(ctx).named or Path(CONFIG_NAME)).absolute()
    if target.exists() and not force:
        raise SoundingError(f"{target}: exists already; --force overwrites it, --config FILE writes elsewhere.")
    proposal = propose(directory)
    if target.parent.resolve().is_relative_to(proposal.store.resolve()):
        raise SoundingError(
            f"{target}: lies inside {proposal.store}, and nothing is ever written into a directory that is watched; "
            f"run the command from the directory above it."
        )
    recipe = "recipe.py" if (target.parent / "recipe.py").is_file() else None
    target.write_text(document(proposal, target.parent, recipe=recipe), encoding="utf-8")
    say(f"wrote {target}")
    for guess in proposal.guesses:
        say(f"  {guess.pattern}  {guess.count} found, such as {guess.example}")
    if not proposal.guesses:
        say("  no file there looks like a checkpoint yet: adjust `pattern` in it before you start")
    say("", "Next: `sounding check` tries it out, `sounding watch` starts to measure.")


def check(ctx: typer.Context, as_json: Json = False) -> None:
    """Try out the configuration, the plugins and the recipe; say what is wrong and what to write."""
    from sounding.asking.check import check as examine

    problems = examine(place_of(ctx).settings())
    errors = sum(problem.severity == "error" for problem in problems)
    if as_json:
        keys = ("where", "what", "advice", "severity")
        print_json([{key: getattr(problem, key) for key in keys} for problem in problems])
    else:
        out = console()
        for problem in problems:
            mark, style = _MARKS[problem.severity]
            out.print(Text.assemble((mark, style), " ", (problem.where, "bold"), "  ", problem.what), soft_wrap=True)
            if problem.advice:
                out.print(Text(f"    {problem.advice}", style="dim"), soft_wrap=True)
        say("", _verdict(errors, sum(problem.severity == "warning" for problem in problems)))
    if errors:
        raise typer.Exit(1)


def _verdict(errors: int, warnings: int) -> str:
    if errors:
        return f"{errors} to mend before measuring; the rest works all the same."
    return "Ready: `sounding watch` starts." if not warnings else "Ready, with less than it could be."
