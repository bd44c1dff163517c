"""How large logits can become, from the weights alone: those of attention, head by head, and those that are put out."""

import re
from collections.abc import Iterator
from dataclasses import replace

import torch

from sounding import Finding, Metric, Reading, Run, Skip, plugin
from sounding.logit_bounds import largest_product, product_bound, rotated_bound, row_bounds
from sounding.passes import Attention, AttentionShape, SpectralNorms, Weights, attentions, heads_told_by, layers_of

_QK = "derived: largest singular value of the product of queries' and keys' weights, from the Gram matrices of a head"
_HEADS = "definition; rows of the classifier or unembedding"
_TOKENS = re.compile(r"(^|\.)(wte|embed_tokens|tok_embeddings|tok_emb|word_embeddings|embed_in)\.weight$")
_FINAL = re.compile(r"^([^\d]*\.)?(ln_f|norm_f|final_layer_?norm|final_norm|ln_final|norm)\.weight$")
_ROWS = 1024  # of the unembedding at once


@plugin(
    version=2,
    metrics=[
        Metric("attention_logit_gain", "logit/input²", "largest attention logit of inputs of norm 1", _QK),
        Metric("attention_logit_bound", "logit", "largest attention logit that normalised inputs can have, without "
               "rotary position embeddings", _QK),
        Metric("attention_logit_bound_rotated", "logit", "the same whatever rotations positions bring",
               "derived: product of the longest query and the longest key"),
        Metric("output_spectral_norm", "weight", "largest singular value of the unembedding", _HEADS),
        Metric("output_row_norm_max", "weight", "largest norm of a class's row of the unembedding", _HEADS),
        Metric("output_row_norm_mean", "weight", "mean norm of the rows", _HEADS),
        Metric("output_logit_bound", "logit", "largest output logit that normalised features can have",
               "derived: Cauchy-Schwarz, attained"),
    ],
)  # fmt: skip
def logit_scale(
    weights: Weights,
    spectral_norms: SpectralNorms,
    run: Run,
    *,
    heads: int = 0,
    key_heads: int = 0,
    scale: float = 0.0,
    norms: tuple[str, ...] = (),
    norm_offset: float = 0.0,
    per_head: bool = True,
    unembedding: str = "",
) -> Iterator[Finding]:
    """Bounds of attention logits and output logits; needs neither model code nor data.

    `heads` and `key_heads` are taken from the run's attributes unless given, `scale` of the logits is 1/√(width of a
    head). `norms` names the modules of a block that norm what its attention is given, where usual names do not tell;
    `norm_offset` is what norms add to their stored gain, 1 for Gemma's. `unembedding` names the last weight.
    """
    told = heads_told_by(run.attributes)
    shape = AttentionShape(heads or told[0], key_heads or told[1], scale, norms, norm_offset)
    depths = layers_of({name: weights.shape(name) for name in weights}, ordered=weights.ordered)
    blocks = {layer.name: layer.depth for layer in depths.values()}
    greatest: dict[str, float] = {}
    found = list(attentions(weights, shape))
    for attention in found:
        block = next((name for name in blocks if attention.name.startswith(f"{name}.")), "")
        for each in _of_attention(attention, per_head):
            yield replace(each, depth=blocks.get(block)) if isinstance(each, Reading) else each
            if isinstance(each, Reading) and each.value is not None and not greatest.get(each.metric, -1) >= each.value:
                greatest[each.metric] = each.value
    for metric, value in greatest.items():
        yield Reading(metric, value, kind="attention")
    if not found:
        yield Skip("no weight is named as queries' and keys' are", part="attention_logit_bound")
    yield from _of_outputs(weights, spectral_norms, unembedding, norm_offset)


def _of_attention(attention: Attention, per_head: bool) -> Iterator[Finding]:
    if attention.problem:
        yield Skip(attention.problem, part=attention.name)
        return
    values: dict[str, list[float]] = {}
    for number in range(attention.heads):
        query, key = attention.head(number)
        if query.gain is None and key.gain is None:
            gain = attention.scale * largest_product(query.matrix, key.matrix)
            values.setdefault("attention_logit_gain", []).append(gain)
        forms = attention.form(query), attention.form(key)
        if forms[0] is not None and forms[1] is not None:
            plain, turned = product_bound(forms[0], forms[1]), rotated_bound(forms[0], forms[1])
            values.setdefault("attention_logit_bound", []).append(attention.scale * plain)
            values.setdefault("attention_logit_bound_rotated", []).append(attention.scale * turned)
    if "attention_logit_bound" not in values:
        yield Skip("no norm before it was found, so that its inputs have no bound (`norms`)", part=attention.name)
    for metric, each in values.items():
        yield Reading(metric, max(each), part=attention.name, kind="attention")
        if per_head:
            yield from (
                Reading(metric, one, part=attention.name, kind="attention", index=at) for at, one in enumerate(each)
            )


def _of_outputs(weights: Weights, spectral_norms: SpectralNorms, named: str, offset: float) -> Iterator[Finding]:
    name = _unembedding(weights, named)
    if not name:
        yield Skip("no weight is known to make the outputs (`unembedding`)", part="output_spectral_norm")
        return
    tensor, bias = weights[name].detach(), name.removesuffix("weight") + "bias"
    gain, shift = _final_norm(weights, tensor.shape[1], offset)
    norms: list[torch.Tensor] = []
    bounds: list[torch.Tensor] = []
    for start in range(0, tensor.shape[0], _ROWS):
        rows = tensor[start : start + _ROWS].double()
        norms.append(rows.norm(dim=1))
        if gain is not None and shift is not None:
            fixed = weights[bias].detach()[start : start + _ROWS] if bias in weights else None
            bounds.append(row_bounds(rows, fixed, gain, shift))
    top = spectral_norms[weights.tied.get(name, name)]
    converged = top.residual <= spectral_norms.tolerance
    yield Reading("output_spectral_norm", top.sigma, part=name, kind="head", low=top.sigma,
                  high=top.high if converged else None, quality="ok" if converged else "unconverged")  # fmt: skip
    yield Reading("output_row_norm_max", float(torch.cat(norms).max()), part=name, kind="head")
    yield Reading("output_row_norm_mean", float(torch.cat(norms).mean()), part=name, kind="head")
    if bounds:
        yield Reading("output_logit_bound", float(torch.cat(bounds).max()), part=name, kind="head")
    else:
        yield Skip("no norm before it was found, so that its inputs have no bound", part=name)


def _unembedding(weights: Weights, named: str) -> str:
    """The last matrix called a head, else the embedding of tokens (tied), else the last matrix where order is known."""
    matrices = [name for name in weights if len(weights.shape(name)) == 2]
    if named:
        return named if named in matrices else ""
    layers = layers_of({name: weights.shape(name) for name in matrices})
    parameters = weights.parameters()
    heads = [name for name in matrices if layers[name].kind == "head" and layers[name].depth is None]
    tokens = [name for name in matrices if _TOKENS.search(name)]
    last = [name for name in matrices if name in parameters] if weights.ordered else []
    return next((each[-1] for each in (heads, tokens, last) if each), "")


def _final_norm(weights: Weights, width: int, offset: float) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Gain and shift of the one norm outside all blocks, if its names tell of one."""
    found = [name for name in weights if _FINAL.match(name) and weights.shape(name) == (width,)]
    if len(found) != 1 or found[0].removesuffix("weight") + "running_var" in weights:
        return None, None
    gain = weights[found[0]].detach().double() + offset
    bias = found[0].removesuffix("weight") + "bias"
    return gain, weights[bias].detach().double() if bias in weights else torch.zeros_like(gain)
