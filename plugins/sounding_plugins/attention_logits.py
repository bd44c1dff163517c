"""How large attention logits are on the probe, layer by layer and head by head."""

from collections.abc import Iterator

import torch

from sounding import Finding, Metric, Reading, Skip, plugin
from sounding.passes import AttentionStatistics, layers_of

_SOURCE = "Dehghani et al. 2023, arXiv:2302.05442; Wortsman et al. 2023, arXiv:2309.14322"


@plugin(
    version=1,
    cost="data",
    metrics=[
        Metric("max_logit", "logit", "greatest scaled product of a query and a key that it may look at", _SOURCE),
        Metric("max_abs_logit", "logit", "largest such product in absolute value", _SOURCE),
    ],
)
def attention_logits(attention_statistics: AttentionStatistics, *, per_head: bool = True) -> Iterator[Finding]:
    """Extremes of the attention logits, before masks are added, on every split of the probe."""
    for split, layers in attention_statistics.splits.items():
        depths = layers_of({f"{name}.weight": () for name in layers})
        whole: dict[str, list[torch.Tensor]] = {}
        for name, found in layers.items():
            depth = depths[f"{name}.weight"].depth
            sizes = torch.maximum(found.highest, -found.lowest)
            for metric, values in (("max_logit", found.highest), ("max_abs_logit", sizes)):
                whole.setdefault(metric, []).append(values.max())
                yield Reading(metric, float(values.max()), part=name, split=split, kind="attention", depth=depth)
                for index, value in enumerate(values.tolist() if per_head else ()):
                    yield Reading(metric, value, part=name, split=split, kind="attention", depth=depth, index=index)
        for metric, greatest in whole.items():
            yield Reading(metric, float(torch.stack(greatest).max()), split=split, kind="attention")
    for name, reason in attention_statistics.missing.items():
        yield Skip(reason, part=name)
