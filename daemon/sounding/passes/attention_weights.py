"""Which weights make queries and keys, as names and shapes tell: head by head, with the norms around them."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping

import torch

from sounding.passes.attention import Attention, AttentionShape, Rows, vector_of
from sounding.passes.weights import Weights

_PAIRS = (
    ("q_proj", "k_proj"), ("query_proj", "key_proj"), ("query_layer", "key_layer"), ("query", "key"),
    ("q_lin", "k_lin"), ("linear_q", "linear_k"), ("to_q", "to_k"), ("wq", "wk"), ("Wq", "Wk"), ("W_q", "W_k"),
    ("q", "k"),
)  # fmt: skip
_STACKED = ("in_proj_weight", "qkv.weight", "c_attn.weight", "Wqkv.weight", "qkv_proj.weight", "to_qkv.weight")
_INTERLEAVED = ("query_key_value.weight",)  # by head: its query, its key, its value
_CROSS = re.compile(r"cross|encdec|encoder_attn|multihead_attn", re.IGNORECASE)
_BEFORE = (
    "input_layernorm", "ln_1", "ln1", "norm1", "norm_1", "attention_norm", "attn_norm", "norm_attn", "attn_ln",
    "layernorm_before", "layer_norm1", "pre_attention_layernorm", "pre_attention_norm", "input_norm",
)  # fmt: skip
_UNSCALED = re.compile(r"(^|\.)SelfAttention\.$")  # T5 leaves 1/√d_head to its initialisation
_HEADS = ("n_head", "num_attention_heads", "num_heads", "n_heads", "nhead", "heads", "num_attn_heads")
_KEY_HEADS = ("num_key_value_heads", "n_kv_head", "n_kv_heads", "num_kv_heads", "n_head_kv", "num_query_groups")


def attentions(weights: Weights, shape: AttentionShape) -> Iterator[Attention]:
    """Every attention layer that names tell of, in the order of the weights."""
    for name in weights.parameters():
        place = _place(name, weights)
        if place is None:
            continue
        prefix, key = place
        if _CROSS.search(prefix):
            yield Attention(prefix.rstrip("."), problem="queries and keys are made of different inputs")
            continue
        found = _read(weights, prefix, name, key, shape)
        if isinstance(found, str):
            yield Attention(prefix.rstrip("."), problem=found)
            continue
        gain, shift = _norm_before(weights, prefix, found[0], shape)
        scale = shape.scale or (1.0 if _UNSCALED.search(prefix) else 1 / math.sqrt(found[0].width))
        rows = {"query": found[0], "key": found[1]}
        yield Attention(prefix.rstrip("."), found[0].heads, scale, gain, shift, "", rows)


def heads_told_by(attributes: Mapping[str, int | float | str]) -> tuple[int, int]:
    """Numbers of heads and of key heads among a run's attributes; 0 for what is not there."""
    found: list[int] = []
    for names in (_HEADS, _KEY_HEADS):
        values = [value for key, value in attributes.items() if re.split(r"[./]", key)[-1] in names]
        whole = {int(value) for value in values if isinstance(value, int | float) and value >= 1 and value % 1 == 0}
        found.append(whole.pop() if len(whole) == 1 else 0)
    return found[0], found[1]


def _place(name: str, weights: Weights) -> tuple[str, str] | None:
    """The prefix of the attention whose queries this weight makes, and the weight of its keys ("" for the same)."""
    if len(weights.shape(name)) != 2:
        return None
    for ending in (*_STACKED, *_INTERLEAVED):
        if name == ending or name.endswith(f".{ending}"):
            return name.removesuffix(ending), ""
    for query, key in _PAIRS:
        ending = f"{query}.weight"
        other = name.removesuffix(ending) + f"{key}.weight"
        if (name == ending or name.endswith(f".{ending}")) and other in weights and len(weights.shape(other)) == 2:
            return name.removesuffix(ending), other
    return None


def _read(weights: Weights, prefix: str, name: str, key: str, shape: AttentionShape) -> tuple[Rows, Rows] | str:
    rows, columns = weights.shape(name)
    norms = [_norm_after(weights, prefix, letter) for letter in ("q", "k")]
    told = {weights.shape(f"{norm}.weight")[0] for norm in norms if norm}
    if key:
        query_rows, key_rows = rows, weights.shape(key)[0]
        heads = shape.heads or _heads_of(told, query_rows)
        if not heads or query_rows % heads or key_rows % (query_rows // heads):
            return _unknown(heads, f"{query_rows} and {key_rows} rows")
        width = query_rows // heads
        return (
            _rows_of(weights, name, norms[0], shape, (0, width, width, heads)),
            _rows_of(weights, key, norms[1], shape, (0, width, width, key_rows // width)),
        )
    transposed = columns == 3 * rows
    rows = columns if transposed else rows
    if name.endswith(_INTERLEAVED):
        heads = shape.heads
        if not heads or rows % (3 * heads) or rows != 3 * weights.shape(name)[1]:
            return _unknown(heads, f"{rows} rows, by head")
        width = rows // (3 * heads)
        pieces = [(0, width, 3 * width, heads), (width, width, 3 * width, heads)]
    else:
        stacked = _stacked(rows, shape.heads or _heads_of(told, rows // 3), shape.key_heads)
        if isinstance(stacked, str):
            return stacked
        pieces = stacked
    both = [_rows_of(weights, name, norm, shape, piece, transposed) for norm, piece in zip(norms, pieces, strict=True)]
    return both[0], both[1]


def _stacked(rows: int, heads: int, key_heads: int) -> list[tuple[int, int, int, int]] | str:
    """Start, width, stride and number of the heads of queries and of keys, in rows of queries, keys and values."""
    keys = key_heads or heads
    if not heads or rows % (heads + 2 * keys) or heads % keys:
        return _unknown(heads, f"{rows} rows")
    width = rows // (heads + 2 * keys)
    return [(0, width, width, heads), (heads * width, width, width, keys)]


def _rows_of(
    weights: Weights,
    name: str,
    norm: str,
    shape: AttentionShape,
    piece: tuple[int, int, int, int],
    transposed: bool = False,
) -> Rows:
    start, width, stride, heads = piece
    bias = name.removesuffix("weight") + "bias"
    return Rows(
        weights, name, bias if bias in weights else "", transposed, start, width, stride, heads, norm, shape.offset
    )


def _heads_of(told: set[int], rows: int) -> int:
    """The number of heads, where a norm over one head tells its width."""
    widths = {width for width in told if width < rows and rows % width == 0}
    return rows // widths.pop() if len(widths) == 1 else 0


def _norm_after(weights: Weights, prefix: str, letter: str) -> str:
    names = (f"{letter}_norm", f"{letter}_layernorm", f"{letter}_ln", f"{'query' if letter == 'q' else 'key'}_norm")
    return next((f"{prefix}{each}" for each in names if _is_vector(weights, f"{prefix}{each}.weight")), "")


def _norm_before(
    weights: Weights, prefix: str, rows: Rows, shape: AttentionShape
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Gain and shift of the norm that makes the attention's input, if names tell of one."""
    size = weights.shape(rows.name)[0 if rows.transposed else 1]
    for parent in _parents(prefix):
        if not shape.norms and f"{parent}linear1.weight" in weights:
            return None, None  # torch's own layers have norms of one name before or after, and do not tell which
        named = (*shape.norms,) if shape.norms else (*_BEFORE, *(("layer_norm",) if _UNSCALED.search(prefix) else ()))
        for module in named:
            if _is_vector(weights, f"{parent}{module}.weight", size):
                gain = vector_of(weights, f"{parent}{module}.weight") + shape.offset
                bias = f"{parent}{module}.bias"
                return gain, vector_of(weights, bias) if bias in weights else torch.zeros_like(gain)
    return None, None


def _parents(prefix: str) -> Iterable[str]:
    """The modules around an attention, up to the block that is one of several."""
    parts = prefix.rstrip(".").split(".")
    while parts and not parts[-1].isdigit():
        parts.pop()
        yield "".join(f"{part}." for part in parts)


def _is_vector(weights: Weights, name: str, size: int = 0) -> bool:
    if name not in weights or f"{name.removesuffix('weight')}running_var" in weights:
        return False  # BatchNorm normalises channels over examples: one example's may be as large as they like
    return len(weights.shape(name)) == 1 and size in (0, weights.shape(name)[0])


def _unknown(heads: int, what: str) -> str:
    if not heads:
        return f"the number of heads is not known ({what}); set `heads`, or give the run an attribute `n_head`"
    return f"{what} cannot be divided among {heads} heads; set `heads` and `key_heads`"
