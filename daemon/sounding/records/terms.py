"""Words that records share: what a plugin is over, what it costs, how good a reading is."""

from typing import Literal, TypeAlias

Plain: TypeAlias = bool | int | float | str | None
Over: TypeAlias = Literal["checkpoint", "pair", "run", "group"]
Against: TypeAlias = Literal["previous", "first", "last", "same_step"]
Cost: TypeAlias = Literal["weights", "data", "gradient", "curvature", "offline"]
Quality: TypeAlias = Literal["ok", "unconverged", "unresolved"]
