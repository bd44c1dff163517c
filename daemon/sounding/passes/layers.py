"""Where a weight stands in its network, as far as its name tells."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

_KINDS = (
    ("norm", re.compile(r"norm|(^|[._])(ln|bn|gn)(_|\d|\.|$)|rms")),
    ("embedding", re.compile(r"embed|(^|\.)(wte|wpe|tok_emb|pos_emb)(\.|$)|position")),
    ("attention", re.compile(r"attn|attention|(^|[._])(q|k|v|qkv|query|key|value|o)(_proj)?(\.|$)")),
    ("head", re.compile(r"(^|\.)(lm_head|head|classifier|fc_out|output|score)(\.|$)")),
    ("mlp", re.compile(r"mlp|ffn|feed_forward|experts|(^|\.)(fc\d?|c_fc|up_proj|down_proj|gate_proj)(\.|$)")),
)


@dataclass(frozen=True)
class Layer:
    """`name` is the block (or lone module) a weight belongs to; `depth` counts blocks from the input, None outside."""

    name: str
    depth: int | None
    kind: str  # norm, embedding, attention, head, mlp, bias, conv, matrix or vector


def layers_of(shapes: Mapping[str, tuple[int, ...]], *, ordered: bool = True) -> dict[str, Layer]:
    """The layer of every weight.

    A block is the part of the name up to the first number that stands alone ("h.3" of
    "h.3.attn.c_attn.weight", "layer1.0" of "layer1.0.conv1.weight"). Blocks are counted in the order of the names, or,
    where that is lost (`ordered` False), in that of their numbers.
    """
    blocks = {name: _block(name) for name in shapes}
    found = dict.fromkeys(block for block in blocks.values() if block)
    listed: Iterable[str] = found if ordered else sorted(found, key=_natural)
    depths = {block: depth for depth, block in enumerate(listed)}
    return {
        name: Layer(blocks[name] or name.rpartition(".")[0] or name, depths.get(blocks[name]), _kind(name, shape))
        for name, shape in shapes.items()
    }


def _block(name: str) -> str:
    """The name up to its first number that stands alone between dots; "" without one."""
    parts = name.split(".")
    place = next((at for at, part in enumerate(parts[:-1]) if part.isdigit()), None)
    return "" if place is None else ".".join(parts[: place + 1])


def _kind(name: str, shape: tuple[int, ...]) -> str:
    named = next((kind for kind, pattern in _KINDS if pattern.search(name.lower())), "")
    if name.endswith("bias") and named != "norm":
        return "bias"
    return named or ("conv" if len(shape) > 2 else "matrix" if len(shape) == 2 else "vector")


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name) if part]
