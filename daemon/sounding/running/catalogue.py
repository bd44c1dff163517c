"""What plugins there are, learnt from a child: the parent never imports torch, nor a plugin."""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from sounding.config import Settings
from sounding.errors import SoundingError
from sounding.records import (
    Catalogue,
    MetricSheet,
    OptionSheet,
    PassSheet,
    PluginSheet,
    Refusal,
)
from sounding.running.dispatch import Child, Died, Limits, call_and_wait

CACHE = Path("cache") / "plugins.json"
_DESCRIBE = "sounding.measuring.describing:describe"
_LIMITS = Limits(deadline_seconds=60.0, memory_bytes=4 << 30)
_MOST_DEADLY = 20  # modules set aside before discovery is given up


def describe(child: Child, settings: Settings | None) -> Catalogue:
    """Ask a child to discover all plugins and to check what the configuration sets for them."""
    if settings is None:
        return describe_with(child, {}, {})
    return describe_with(child, {name: table.options for name, table in settings.plugins.items()}, settings.passes)


def describe_with(
    child: Child, plugins: Mapping[str, Mapping[str, Any]], passes: Mapping[str, Mapping[str, Any]]
) -> Catalogue:
    """Discover all plugins with these options of plugins and passes.

    A plugin whose import kills or hangs the child is refused, and all others are described without it. Raises
    SoundingError when discovery itself fails.
    """
    with tempfile.NamedTemporaryFile("r", prefix="sounding-importing-") as diary:
        for _ in range(_MOST_DEADLY):
            try:
                found: Catalogue = call_and_wait(child, _DESCRIBE, (plugins, passes, diary.name), _LIMITS)
            except Died as death:
                importing = Path(diary.name).read_text(encoding="utf-8")
                if not importing or importing in child.without:
                    raise SoundingError(f"plugins cannot be discovered: {death}") from death
                child.without = (*child.without, importing)
                child.stop()
                continue
            return replace(found, without=child.without)
    raise SoundingError(f"plugins cannot be discovered: importing kills the process: {', '.join(child.without)}.")


def catalogue(settings: Settings | None = None) -> Catalogue:
    """Discover plugins now, in a child of this process's own.

    Raises SoundingError when discovery itself fails.
    """
    child = Child("discovery")
    try:
        return describe(child, settings)
    finally:
        child.stop()


def remember(found: Catalogue, results: Path) -> None:
    """Keep the sheets beside the results, for readers that need no plugin."""
    target = results / CACHE
    temporary = target.with_suffix(".half")
    text = {"plugins": [asdict(sheet) for sheet in found.plugins.values()]}
    text["refusals"] = [asdict(refusal) for refusal in found.refusals]
    temporary.write_text(json.dumps(text, default=str), encoding="utf-8")
    temporary.replace(target)


def recall(results: Path) -> Catalogue | None:
    """The sheets of the daemon's last start; None when there are none, or none that this version can read."""
    try:
        text = json.loads((results / CACHE).read_text(encoding="utf-8"))
        sheets = [_sheet(fields) for fields in text["plugins"]]
        refusals = tuple(Refusal(**fields) for fields in text["refusals"])
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError) as error:
        raise SoundingError(f"{results / CACHE} cannot be read ({error}); delete it, it is only a cache.") from error
    return Catalogue({sheet.name: sheet for sheet in sheets}, refusals)


def _sheet(fields: dict[str, Any]) -> PluginSheet:
    fields["metrics"] = tuple(MetricSheet(**metric) for metric in fields["metrics"])
    fields["options"] = tuple(OptionSheet(**option) for option in fields["options"])
    fields["passes"] = tuple(PassSheet(**used) for used in fields["passes"])
    return PluginSheet(**fields)
