"""What plugin authors test with: the pytest fixture `sounding_plugin`, there wherever sounding is installed."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from sounding.contract import Pass, Plugin
from sounding.records import Finding

if TYPE_CHECKING:
    from torch import nn

    from sounding.probe import Probe


class Trial(Protocol):
    """Runs a plugin as the worker would.

    Afterwards `forwards` and `backwards` say what the job cost: examples that went through the network, those of the
    traversal included. A plugin's page can state them, and a test hold them to it. `reason` says why the plugin was
    skipped as a whole, as where a pass raises Unavailable; it is empty where the plugin was not.
    """

    forwards: int
    backwards: int
    reason: str

    def __call__(
        self,
        plugin: Plugin[Any],
        *,
        model: "nn.Module | None" = None,
        probe: "Probe | None" = None,
        checkpoint: Mapping[str, Any] | None = None,
        previous: Mapping[str, Any] | None = None,
        functions: Mapping[str, Any] | None = None,
        attributes: Mapping[str, int | float | str] | None = None,
        also: Iterable[Pass[Any, Any]] = (),
        history: Mapping[Any, Any] | None = None,
        logs: Mapping[str, Any] | None = None,
        checkpoints: Sequence[Mapping[str, Any]] = (),
        **options: object,
    ) -> list[Finding]:
        """Measure a checkpoint made of these; return the plugin's findings.

        `checkpoint` is what a trainer would give torch.save, by default `{"model": model.state_dict()}`; `previous`
        is the second checkpoint of a pair. `functions` are further functions of a recipe (`loss`, `forward`, or an
        `architecture` instead of `model`), `also` are passes of the author's own, `options` the plugin's options.

        A plugin over a run is given its past instead: `history` maps a metric ("loss.loss"), or (metric, part,
        split), to (steps, values) or a `Course`; `logs` maps a key to (updates, values); `checkpoints` are what a
        trainer saved at steps 0, 1, 2 … in turn.

        Fails the test when the plugin fails, when a second run's readings differ, when weights or the model were
        changed, or when tensors of the checkpoint, modes, `.grad` or hooks were left behind.
        """
        ...


@pytest.fixture
def sounding_plugin(tmp_path: Path) -> Trial:
    """Run a plugin on a model, a probe or a state dict, twice, and return what it found."""
    from sounding.trial import PluginTrial  # imports torch, which no other test session should pay for

    return PluginTrial(tmp_path)
