"""How large the output logits are on the probe, and how far their log partition function is from 0."""

import math
from collections.abc import Iterator

from sounding import Finding, Metric, Reading, plugin
from sounding.passes import LogitStatistics

_Z = "Chowdhery et al. 2022 (PaLM), sec. 5: the z-loss is log² Z"


@plugin(
    version=2,
    cost="data",
    metrics=[
        Metric("log_z_mean", "nat", "mean over examples (tokens) of log Z, Z = sum of exp(logits)", _Z),
        Metric("log_z_squared_mean", "nat²", "mean of log² Z, the z-loss without its coefficient", _Z),
        Metric("log_z_max", "nat", "greatest log Z", _Z),
        Metric("max_logit", "logit", "greatest logit", "Wortsman et al. 2023, arXiv:2309.14322"),
        Metric("min_logit", "logit", "smallest logit", "Wortsman et al. 2023, arXiv:2309.14322"),
        Metric("max_abs_logit", "logit", "largest logit in absolute value", "definition"),
    ],
)
def output_logits(logit_statistics: LogitStatistics) -> Iterator[Finding]:
    """Log partition function and extremes of the output logits on every split of the probe."""
    for split, found in logit_statistics.items():
        for metric, each in (("log_z_mean", found.log_z), ("log_z_squared_mean", found.log_z_squared)):
            yield Reading(metric, each.value, split=split, stderr=each.error)
        yield Reading("log_z_max", found.log_z_max, split=split)
        yield Reading("max_logit", found.highest, split=split)
        yield Reading("min_logit", found.lowest, split=split)
        yield Reading("max_abs_logit", _magnitude(found.highest, found.lowest), split=split)


def _magnitude(highest: float, lowest: float) -> float:
    return math.nan if math.isnan(highest + lowest) else max(highest, -lowest)
