"""What a process remembers of one checkpoint for the next, as a pair's second checkpoint often was the last job's."""

from typing import Any

_ALL: list[dict[Any, Any]] = []


def remembered() -> dict[Any, Any]:
    """An empty memory; whoever fills it bounds it, and keys it by all that what is kept depends on."""
    memory: dict[Any, Any] = {}
    _ALL.append(memory)
    return memory


def forget() -> None:
    """Empty every memory: what is asked for next is computed, as in a new process."""
    for memory in _ALL:
        memory.clear()
