"""All taps of one traversal: hooks placed once, what they saw of each batch, and their removal."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

import torch
from torch import nn

from sounding.batch import Tapped, tensors_in
from sounding.contract import Unavailable
from sounding.measuring.attending import AttentionListener
from sounding.measuring.hearing import HeadListener, ModuleListener
from sounding.measuring.listening import Heard, Listener
from sounding.measuring.pairs import LinearListener
from sounding.measuring.placing import blocks, matching
from sounding.passes.head import Head
from sounding.tap import Tap

HeadOrWhy: TypeAlias = Head | Exception | None  # None: nobody asked for it


class Tapping:
    """The union of what accumulators tap; each is given its own afterwards. Equal taps are one."""

    def __init__(self, module: nn.Module, taps: Iterable[Tap], head: HeadOrWhy = None) -> None:
        self._module = module
        self._head = head
        self._listeners: dict[Tap, Listener] = {}
        self._refused: dict[Tap, Exception] = {}
        self._found: dict[Tap, Tapped | Exception] = {}
        for tap in dict.fromkeys(taps):
            try:
                self._listeners[tap] = self._listener(tap)
            except Unavailable as reason:
                self._refused[tap] = self._head if tap.kind == "head" and isinstance(self._head, Exception) else reason

    @contextlib.contextmanager
    def placed(self) -> Iterator[None]:
        """Hooks are there inside, and gone afterwards."""
        with contextlib.ExitStack() as stack:
            for listener in self._listeners.values():
                for hook in listener.hooks():
                    stack.callback(hook.remove)
            yield

    @contextlib.contextmanager
    def listening(self, size: int, inputs: Any) -> Iterator[None]:
        """Take note of what the network does inside with a batch of `size` examples, and of nothing else."""
        self._found.clear()
        with contextlib.ExitStack() as stack:
            for listener in self._listeners.values():
                stack.enter_context(listener.listening(size, inputs))
            yield

    def edges(self) -> list[Any]:
        """Where the gradient of the batch's summed loss is wanted besides at the parameters."""
        return [edge for listener in self._listeners.values() for edge in listener.edges()]

    def take_in(self, heard: Heard) -> None:
        """The batch is done: put together what every tap saw."""
        slopes = None if heard.slopes is None else iter(heard.slopes)
        with torch.no_grad():
            for tap, listener in self._listeners.items():
                own = None if slopes is None else [next(slopes) for _ in listener.edges()]
                try:
                    self._found[tap] = listener.seen(heard._replace(slopes=own))
                except Unavailable as reason:
                    self._found[tap] = reason
                listener.forget()

    def of(self, tap: Tap) -> Tapped:
        """What this tap saw of the last batch. Raises what keeps it from seeing anything."""
        found = self._refused.get(tap) or self._found[tap]
        if isinstance(found, Tapped):
            return found
        if tap.required:
            raise found
        return Tapped({}, missing={tap.kind: str(found)})

    def held(self) -> int:
        """Bytes that what was seen of the last batch takes."""
        seen = [found for found in self._found.values() if isinstance(found, Tapped)]
        return sum(each.nbytes for each in tensors_in(seen))

    def _listener(self, tap: Tap) -> Listener:
        made: dict[str, Callable[[], Listener]] = {
            "head": lambda: HeadListener(tap, self._module, self._verified_head()),
            "module": lambda: ModuleListener(tap, matching(self._module, tap.pattern)),
            "blocks": lambda: ModuleListener(tap, blocks(self._module, self._name_of_head())),
            "linear": lambda: LinearListener(tap, matching(self._module, tap.pattern, nn.Linear)),
            "attention": lambda: AttentionListener(self._module),
        }
        return made[tap.kind]()

    def _verified_head(self) -> Head:
        if isinstance(self._head, Head):
            return self._head
        raise Unavailable("the network's head was not looked for")

    def _name_of_head(self) -> str | None:
        return self._head.name if isinstance(self._head, Head) else None
