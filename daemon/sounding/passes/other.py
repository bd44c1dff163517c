"""The second checkpoint of a pair, as a plugin sees it."""

from collections.abc import Mapping
from typing import Any


class Other:
    """The plugin's own passes, computed for the second checkpoint, e.g. `other.weights`.

    Only what the plugin itself names as a need is there, and the roots `checkpoint`, `run` and `opened`.
    """

    def __init__(self, passes: Mapping[str, Any]) -> None:
        self._passes = passes

    def __getattr__(self, name: str) -> Any:
        passes: Mapping[str, Any] = self.__dict__.get("_passes", {})
        if name not in passes:
            raise AttributeError(
                f"`other` has no `{name}`; it offers what the plugin needs by name: {', '.join(sorted(passes))}"
            )
        return passes[name]
