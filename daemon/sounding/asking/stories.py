"""What `why` answers with: one thing that was to be measured, and what became of every plugin on it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TaskStory:
    """What became of one plugin: done, skipped, owed, waiting, failed or not wanted."""

    plugin: str
    state: str
    reason: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """A checkpoint, or what might become one, or a run as a whole (its `verdict` is "run"), and its stories."""

    checkpoint_id: str
    store: str
    run: str
    step: int | None
    path: str
    verdict: str
    reason: str
    tasks: tuple[TaskStory, ...]
