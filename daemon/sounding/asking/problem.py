"""What a trial of the configuration comes to, line by line."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that was tried: where, what came of it, and what to do about it."""

    severity: Literal["ok", "warning", "error"]
    where: str
    what: str
    advice: str = ""
