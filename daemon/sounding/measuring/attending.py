"""Listening to attention: queries and keys of every call, whichever module it happens in."""

import contextlib
import functools
import inspect
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from sounding.batch import AttentionCall, Tapped
from sounding.contract import Unavailable
from sounding.measuring.listening import Heard, misfit

_NONE_SEEN = (
    "no attention was seen: only torch's own functions are, scaled_dot_product_attention and nn.MultiheadAttention's"
)


class AttentionListener:
    """Every attention by the name of its module; further ones in the same module are called `name#2` and so on."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._size = 0
        self._on = False
        self._within: list[str] = []  # names of the modules that are running, the innermost last
        self.forget()

    def forget(self) -> None:
        """Let go of the batch."""
        self._values: dict[str, AttentionCall] = {}
        self._missing: dict[str, str] = {}
        self._calls: Counter[str] = Counter()

    def hooks(self) -> list[RemovableHandle]:
        """Around every module, to know where an attention happens."""
        hooks: list[RemovableHandle] = []
        for name, child in self._module.named_modules():
            hooks.append(child.register_forward_pre_hook(partial(self._entered, name)))
            hooks.append(child.register_forward_hook(self._left, always_call=True))
        return hooks

    @contextlib.contextmanager
    def listening(self, size: int, inputs: Any) -> Iterator[None]:
        """Take note of one batch."""
        self.forget()
        self._size, self._within, self._on = size, [], True
        try:
            with _Mode(self._attended):
                yield
        finally:
            self._on = False

    def edges(self) -> Sequence[Any]:
        """None."""
        return ()

    def seen(self, heard: Heard) -> Tapped:
        """Every attention. Raises Unavailable when there was none."""
        if not self._values:
            name, reason = next(iter(self._missing.items()), ("", ""))
            raise Unavailable(f"the attention in `{name}` cannot be tapped: {reason}" if reason else _NONE_SEEN)
        return Tapped(self._values, dict(self._calls), self._missing)

    def _entered(self, name: str, module: nn.Module, inputs: object) -> None:
        if self._on:
            self._within.append(name)

    def _left(self, module: nn.Module, inputs: object, output: object) -> None:
        if self._on and self._within:
            self._within.pop()

    def _attended(self, call: Callable[[], AttentionCall]) -> None:
        where = self._within[-1] if self._within else ""
        self._calls[where] += 1
        count = self._calls[where]
        name = where if count == 1 else f"{where}#{count}"
        try:
            with torch.no_grad():
                found = call()
            reason = misfit(found.query, self._size)
        except Unavailable as error:
            self._missing[name] = str(error)
            return
        if reason is None:
            self._values[name] = found
        else:
            self._missing[name] = reason


class _Mode(TorchFunctionMode):
    """Shows every attention to `attended`, and computes it as ever."""

    def __init__(self, attended: Callable[[Callable[[], AttentionCall]], None]) -> None:
        super().__init__()
        self._attended = attended

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        if func is functional.scaled_dot_product_attention:
            self._attended(partial(_scaled, *args, **named))
        elif func is functional.multi_head_attention_forward:
            self._attended(partial(_multi_head, args, named))
        return func(*args, **named)


def _scaled(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> AttentionCall:
    query, key = query.detach(), key.detach()
    if query.ndim == 3:
        query, key = query.unsqueeze(1), key.unsqueeze(1)
    if query.ndim != 4:
        raise Unavailable(f"its queries are of shape {tuple(query.shape)}, expected [n, heads, positions, d]")
    if query.shape[1] != key.shape[1]:
        key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else float(scale)
    return AttentionCall(query, key, scale, is_causal, attn_mask)


def _multi_head(args: Sequence[Any], named: Mapping[str, Any]) -> AttentionCall:
    """The same of `nn.MultiheadAttention`, whose projections are done once more: it keeps them to itself."""
    bound = _signature().bind(*args, **named)
    bound.apply_defaults()
    given = bound.arguments
    if given["query"].ndim != 3 or given["bias_k"] is not None or given["add_zero_attn"]:
        raise Unavailable("it has keys of its own besides those of the sequence, or no batch")
    if given["use_separate_proj_weight"]:
        weights = (given["q_proj_weight"], given["k_proj_weight"])
    else:
        weights = given["in_proj_weight"].chunk(3)[:2]
    biases = (None, None) if given["in_proj_bias"] is None else given["in_proj_bias"].chunk(3)[:2]
    query, key = (
        _by_head(functional.linear(each, weight, bias).detach(), given["num_heads"])
        for each, weight, bias in zip((given["query"], given["key"]), weights, biases, strict=True)
    )
    mask = _joined(_of_heads(given["attn_mask"], query), _of_keys(given["key_padding_mask"]))
    causal = bool(given["is_causal"]) and given["attn_mask"] is None
    return AttentionCall(query, key, 1 / math.sqrt(query.shape[-1]), causal, mask)


def _by_head(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """[positions, n, heads · d] → [n, heads, positions, d]."""
    return tensor.reshape(*tensor.shape[:-1], heads, -1).permute(1, 2, 0, 3)


def _of_heads(mask: torch.Tensor | None, query: torch.Tensor) -> torch.Tensor | None:
    if mask is None or mask.ndim == 2:
        return mask
    return mask.reshape(query.shape[0], query.shape[1], *mask.shape[1:])


def _of_keys(mask: torch.Tensor | None) -> torch.Tensor | None:
    return None if mask is None else mask[:, None, None, :]


def _joined(one: torch.Tensor | None, other: torch.Tensor | None) -> torch.Tensor | None:
    """Both masks of `nn.MultiheadAttention`, where true means *not* to be looked at, as one in the usual sense."""
    given = [each for each in (one, other) if each is not None]
    if not given:
        return None
    if all(each.dtype == torch.bool for each in given):
        return ~functools.reduce(torch.logical_or, given)
    added = [_added(each) if each.dtype == torch.bool else each for each in given]
    return functools.reduce(torch.add, added)


def _added(mask: torch.Tensor) -> torch.Tensor:
    return torch.zeros(mask.shape, device=mask.device).masked_fill(mask, -math.inf)


@functools.cache
def _signature() -> inspect.Signature:
    return inspect.signature(functional.multi_head_attention_forward)
