"""The pass `checkpoints`: the run's checkpoints, each opened when its turn comes and closed after it."""

from collections.abc import Iterator, Sequence

from sounding.contract import shared_pass
from sounding.errors import SoundingError
from sounding.opening import Opened, open_checkpoint
from sounding.passes.past import Past
from sounding.passes.weights import Weights, network_weights, weights
from sounding.records import Checkpoint

_LINGERING = 1  # checkpoints that may stay open because a loop variable still holds a tensor of them


class Stop:
    """One checkpoint on the way through a run. What is taken from it must be let go before the next but one."""

    def __init__(self, checkpoint: Checkpoint, opened: Opened, network: str) -> None:
        self.checkpoint = checkpoint
        self.opened = opened
        self._network = network
        self._weights: Weights | None = None

    @property
    def weights(self) -> Weights:
        """The tensors of the measured network, as the pass `weights` gives them."""
        if self._weights is None:
            self._weights = network_weights(self.opened, self._network)
        return self._weights

    def forget(self) -> None:
        """Let go of the tensors handed out."""
        if self._weights is not None:
            self._weights.forget()


class Checkpoints:
    """The run's readable checkpoints in ascending order of step (`reversed`: the newest first).

    Going through them again opens them again.
    Only one is held open, and the one before it while a tensor of it is still in use: `clone()` what must last.
    """

    def __init__(self, checkpoints: Sequence[Checkpoint], network: str = "") -> None:
        self.known = tuple(checkpoints)  # what can be told without opening any
        self._network = network
        self._open: list[Opened] = []

    def __len__(self) -> int:
        return len(self.known)

    def __iter__(self) -> Iterator[Stop]:
        return self._through(self.known)

    def __reversed__(self) -> Iterator[Stop]:
        return self._through(self.known[::-1])

    def _through(self, known: Sequence[Checkpoint]) -> Iterator[Stop]:
        for checkpoint in known:
            opened = open_checkpoint(checkpoint.path)
            self._open.append(opened)
            stop = Stop(checkpoint, opened, self._network)
            try:
                yield stop
            finally:
                stop.forget()
                self._release(_LINGERING)

    def close(self) -> None:
        """Close what is still open. Raises SoundingError naming the tensors that are still in use."""
        self._release(0)

    def _release(self, most: int) -> None:
        lingering: list[tuple[Opened, SoundingError]] = []
        for opened in self._open:
            try:
                opened.close()
            except SoundingError as error:
                lingering.append((opened, error))
        self._open = [opened for opened, _ in lingering]
        if len(lingering) > most:
            raise lingering[0][1]


@shared_pass(version=weights.version)  # a stop's weights are what that pass gives
def checkpoints(past: Past, network: str) -> Checkpoints:
    """The run's checkpoints that can be read, to be gone through one after the other."""
    found = Checkpoints(past.checkpoints, network)
    past.closing.append(found.close)
    return found
