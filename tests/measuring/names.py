"""What a child of a test finds."""

from collections.abc import Sequence

from sounding.measuring.collecting import Source, collect


def collected(sources: Sequence[Source], without: Sequence[str], diary: str) -> tuple[list, list, str]:
    """Names of what was found and of what was refused, and why the first of those was."""
    found, refused = collect(sources, without, diary)
    return [each.item.name for each in found], [each.name for each in refused], refused[0].reason
