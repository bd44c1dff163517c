"""Which class centre is nearest, how surely, and how often a classifier decides otherwise."""

import math
from dataclasses import dataclass

import torch

_BINS = 2048  # of a histogram of gaps, on a logarithmic scale
_OCTAVES = 64
_LOWEST = 2.0**-48  # of the largest norm of a centre: gaps below lie in the first bin
_ROWS = 2048


@dataclass(frozen=True)
class Share:
    """A share of the examples in [0, 1]: the best estimate, and bounds that are certain; equal where it is exact."""

    value: float
    low: float
    high: float


def nearest(rows: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
    """The place of the nearest of `centres` [C, d] for each of `rows` [n, d].

    Compared in the rows' own precision; where rounding could decide, again in float64.
    """
    if len(centres) == 1:
        return torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
    middle = centres.mean(0)
    exact = centres - middle
    found = []
    for block in torch.split(rows, _ROWS):
        near, doubtful = _nearest_block(block - middle.to(block.dtype), exact.to(block.dtype))
        if doubtful.numel():
            again = block[doubtful].double() - middle
            near[doubtful] = (exact.square().sum(1) / 2 - again @ exact.T).argmin(1)
        found.append(near)
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.int64, device=rows.device)


def _nearest_block(rows: torch.Tensor, centres: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    halves = centres.square().sum(1) / 2
    best, places = torch.addmm(halves, rows, centres.T, alpha=-1).topk(2, largest=False)
    slack = _rounding(rows) * (rows.norm(dim=1) + centres.norm(dim=1).max()) ** 2
    return places[:, 0].clone(), torch.nonzero(best[:, 1] - best[:, 0] <= slack).flatten()


def _rounding(rows: torch.Tensor) -> float:
    """A bound on the relative error of a squared distance, for errors that add up at random."""
    return 8 * torch.finfo(rows.dtype).eps * max(1.0, math.sqrt(rows.shape[1]) / 4)


class Provisional:
    """Decisions compared with the nearest of provisional centres, while the final ones are not known yet.

    Row h is sure to be nearest to a if it is nearer to a's provisional centre than to all others' by more than twice
    the farthest that any centre moves until the end. Only a histogram of these gaps is kept.
    """

    def __init__(self) -> None:
        self._gaps: torch.Tensor | None = None  # [2, bins], first row: agreeing
        self._scale = 0.0
        self._unsure = 0  # met before all classes were known
        self._unsure_differing = 0
        self._classes = 0
        self._count = 0

    def add(self, rows: torch.Tensor, decisions: torch.Tensor, centres: torch.Tensor, labels: torch.Tensor) -> None:
        """Compare `decisions` [n], labels, with the nearest of `centres` [C, d], whose labels are `labels` [C]."""
        if len(centres) < 2:
            self._unsure += len(rows)
            self._unsure_differing += int((decisions != labels[0]).sum())
            self._count += len(rows)
            return
        if len(centres) != self._classes:
            self._forget(len(centres), centres)
        assert self._gaps is not None
        middle = centres.mean(0)
        centred = centres - middle
        for block, chosen in zip(torch.split(rows, _ROWS), torch.split(decisions, _ROWS), strict=True):
            places, gaps = _gaps(block - middle, centred)
            agrees = labels[places] == chosen
            for row, mask in enumerate((agrees, ~agrees)):
                self._gaps[row] += torch.bincount(self._bin(gaps[mask]), minlength=_BINS)
        self._count += len(rows)

    def share(self, drift: float) -> Share:
        """The share of decisions that differ, where no centre has moved by more than `drift` in the end."""
        if self._gaps is None:
            return Share(self._unsure_differing / max(1, self._count), 0.0, 1.0)
        edges = self._scale * _LOWEST * 2.0 ** (torch.arange(_BINS, dtype=torch.float64) * _OCTAVES / _BINS)
        edges[0] = 0.0
        gaps = self._gaps.cpu()
        sure = gaps[:, edges > 2 * drift].sum(1)
        differing = int(gaps[1].sum()) + self._unsure_differing
        count = max(1, self._count)
        return Share(differing / count, int(sure[1]) / count, 1 - int(sure[0]) / count)

    def _forget(self, classes: int, centres: torch.Tensor) -> None:
        """A new class: nobody knows which of the rows so far would have been nearest to it."""
        if self._gaps is not None:
            self._unsure += int(self._gaps.sum())
            self._unsure_differing += int(self._gaps[1].sum())
        self._gaps = torch.zeros(2, _BINS, dtype=torch.int64, device=centres.device)
        self._scale = float(centres.norm(dim=1).max()) or 1.0
        self._classes = classes

    def _bin(self, gaps: torch.Tensor) -> torch.Tensor:
        """The bin whose lower edge is the greatest that does not exceed the gap."""
        relative = gaps.double().clamp_min(self._scale * _LOWEST) / (self._scale * _LOWEST)
        return (relative.log2() * (_BINS / _OCTAVES)).floor().long().clamp(0, _BINS - 1)


def _gaps(rows: torch.Tensor, centres: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The nearest centre of every row, and a lower bound on how much farther the next one is."""
    halves = centres.square().sum(1) / 2
    lengths = rows.square().sum(1)
    best, places = torch.addmm(halves, rows, centres.T, alpha=-1).topk(2, largest=False)
    slack = _rounding(rows) * (lengths.sqrt() + centres.norm(dim=1).max()) ** 2
    first = (lengths + 2 * best[:, 0] + slack).clamp_min(0).sqrt()
    second = (lengths + 2 * best[:, 1] - slack).clamp_min(0).sqrt()
    return places[:, 0], (second - first).clamp_min(0)
