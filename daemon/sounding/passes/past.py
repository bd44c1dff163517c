"""What is known of a run so far, as plugins over a run see it: lines of readings, logs, and checkpoints to open."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sounding.keeping.past import Course, Line
from sounding.keeping.series import Series
from sounding.keyed import Keyed
from sounding.records import Checkpoint


class History(Keyed[Line, Course]):
    """The current readings of all plugins over checkpoints and pairs of one network of the run, by line.

    A reading of a pair stands at the step of its later checkpoint.
    """

    def course(self, metric: str, part: str = "", split: str = "") -> Course | None:
        """The course of a metric, named "plugin.metric"; None where nothing was read."""
        return self.get(Line(metric, part, split))


class Logs(Keyed[str, Series]):
    """The run's training log, by the key it was written under; of a run begun again, the newest chain of attempts."""

    def first(self, keys: tuple[str, ...]) -> tuple[str, Series] | None:
        """The first of these keys that the log has, with its series; None where it has none of them."""
        return next(((key, self[key]) for key in keys if key in self), None)


@dataclass(frozen=True)
class Past:
    """Everything a plugin over a run may ask of it; each is read when it is asked for."""

    read_history: Callable[[], History]
    read_logs: Callable[[], Logs]
    checkpoints: tuple[Checkpoint, ...]  # that could be read when the work was planned, ascending
    closing: list[Callable[[], None]] = field(default_factory=list)  # what the engine calls when the work is over


def given_past(
    history: Mapping[str | tuple[str, str, str] | Line, Course | tuple[Sequence[float], Sequence[float]]],
    logs: Mapping[str, Series | tuple[Sequence[float], Sequence[float]]],
    checkpoints: tuple[Checkpoint, ...] = (),
) -> Past:
    """A past made of values at hand, for tests: lines as `Course` or (steps, values), series as (updates, values)."""
    courses = {_line(name): each if isinstance(each, Course) else _course(*each) for name, each in history.items()}
    series = {
        key: each if isinstance(each, Series) else Series(_floats(each[0]), _floats(each[1]))
        for key, each in logs.items()
    }
    return Past(lambda: History(courses), lambda: Logs(series), checkpoints)


def _line(name: str | tuple[str, str, str] | Line) -> Line:
    if isinstance(name, Line):
        return name
    return Line(name) if isinstance(name, str) else Line(*name)


def _course(steps: Sequence[float], values: Sequence[float]) -> Course:
    return Course(np.asarray(steps, dtype=np.int64), _floats(steps), _floats(values))


def _floats(values: Sequence[float]) -> NDArray[np.float64]:
    return np.asarray(values, dtype=np.float64)
