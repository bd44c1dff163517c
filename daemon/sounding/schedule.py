"""When a plugin measures: `at = "every 5000"`, `"log2"`, `"first,last"` or `"all"`, always on `step`."""

from dataclasses import dataclass

from sounding.errors import SoundingError

_EXPECTED = 'expected "all", "every N", "log2", "first", "last" or several of them with commas, such as "first,last"'


@dataclass(frozen=True, slots=True)
class Schedule:
    """A set of steps, so that runs align and late checkpoints shift nothing."""

    text: str
    every: tuple[int, ...] = ()
    everything: bool = False
    log2: bool = False
    first: bool = False
    last: bool = False

    def wants(self, step: int, first: int, last: int | None) -> bool:
        """Whether `step` is measured in a run from `first` to `last`; `last` is None while the run still grows."""
        return (
            self.everything
            or any(step % every == 0 for every in self.every)
            or (self.log2 and step & (step - 1) == 0)
            or (self.first and step == first)
            or (self.last and step == last)
        )


def parse_schedule(text: str) -> Schedule:
    """Parse a schedule. Raises SoundingError naming the part that is not understood."""
    every: list[int] = []
    words = [word.strip() for word in text.split(",")]
    for word in words:
        if word.startswith("every "):
            number = word.removeprefix("every ").strip().replace("_", "")
            if not number.isdecimal() or int(number) == 0:
                raise SoundingError(f"at = {text!r}: {word!r} is not understood; {_EXPECTED}.")
            every.append(int(number))
        elif word not in ("all", "log2", "first", "last"):
            raise SoundingError(f"at = {text!r}: {word!r} is not understood; {_EXPECTED}.")
    return Schedule(text, tuple(every), "all" in words, "log2" in words, "first" in words, "last" in words)
