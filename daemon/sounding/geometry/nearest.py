"""Which class centre is nearest, how surely, and how often a classifier decides otherwise."""

import math
from dataclasses import dataclass

import torch

_BINS = 2048  # of a histogram of gaps, on a logarithmic scale
_OCTAVES = 64
_LOWEST = 2.0**-48  # of the largest norm of a centre: gaps below lie in the first bin
_ROWS = 2048
MANY = 4096  # classes, whose distances to one another are a table too large


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
    middle = centres.mean(0)
    found = []
    for block in torch.split(rows, _ROWS):
        deviations = block - middle.to(block.dtype)
        lengths = torch.linalg.vector_norm(deviations, dim=1)
        found.append(
            nearest_of(deviations, lengths, torch.zeros_like(lengths, dtype=torch.int64), centres, middle[None])
        )
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.int64, device=rows.device)


def nearest_of(
    deviations: torch.Tensor,
    lengths: torch.Tensor,
    places: torch.Tensor,
    centres: torch.Tensor,
    starts: torch.Tensor | None = None,
) -> torch.Tensor:
    """The same for rows that are `starts[places] + deviations`, with the norms of `deviations` [n, d] at hand.

    They start from the centres themselves unless told otherwise.
    """
    table = _Table(centres, centres if starts is None else starts)
    found = []
    for block, of_block, long in zip(
        *(torch.split(each, _ROWS) for each in (deviations, places, lengths)), strict=True
    ):
        near, gaps = _two_best(table.scores(block, of_block))
        doubtful = torch.nonzero(gaps <= table.rounding(block, long)).flatten()
        if doubtful.numel():
            near[doubtful] = table.scores(block[doubtful].double(), of_block[doubtful]).argmin(1)
        found.append(near)
    return torch.cat(found) if len(found) != 1 else found[0]


class _Table:
    """Halves of squared distances to all centres, up to a term of the row: D[start, c]/2 - z·(μ_c - μ_G)."""

    def __init__(self, centres: torch.Tensor, starts: torch.Tensor) -> None:
        middle = centres.mean(0)
        self._centred = centres - middle
        from_there = starts - middle
        squares = self._centred.square().sum(1)
        # D/2 less what only the start determines, which moves no comparison
        self._halves = squares / 2 - from_there @ self._centred.T
        self._reach = float(squares.max().sqrt() + torch.linalg.vector_norm(from_there, dim=1).max())

    def scores(self, deviations: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        kind = deviations.dtype
        return torch.addmm(
            self._halves.to(kind).index_select(0, places), deviations, self._centred.to(kind).T, alpha=-1
        )

    def rounding(self, deviations: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """What two scores of a row may be off by together, for errors that add up at random."""
        eps = torch.finfo(deviations.dtype).eps * max(1.0, math.sqrt(deviations.shape[1]) / 4)
        return (lengths + self._reach).square_().mul_(8 * eps)


def _two_best(scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The place of the least score in each row, and how much greater the next one is (infinite where there is none)."""
    best, places = scores.min(1)
    scores.scatter_(1, places[:, None], math.inf)
    return places, scores.amin(1) - best


class Provisional:
    """Decisions compared with the nearest of provisional centres, while the final ones are not known yet.

    Row h is sure to be nearest to a if it is nearer to a's provisional centre than to all others' by more than twice
    the farthest that any centre moves until the end. Only a histogram of these gaps is kept.
    """

    def __init__(self) -> None:
        self._gaps: torch.Tensor | None = None  # [2, bins], first row: agreeing
        self._table: _Table | None = None
        self._middle = torch.zeros(0)
        self._scale = 0.0
        self._unsure_differing = 0  # met before all classes were known
        self._classes = 0
        self._count = 0

    def add(self, rows: torch.Tensor, decisions: torch.Tensor, centres: torch.Tensor, labels: torch.Tensor) -> None:
        """Compare `decisions` [n] about `rows` [n, d] with the nearest of `centres` [C, d], whose labels are `labels`.

        As long as there is no new class the centres have to be the same.
        """
        if len(centres) != self._classes:
            self._begin(centres.double())
        table, counts = self._table, self._gaps
        assert table is not None
        assert counts is not None
        deviations = rows - self._middle.to(rows.dtype)
        lengths = torch.linalg.vector_norm(deviations, dim=1)
        scores = table.scores(deviations, torch.zeros_like(labels[:1]).expand(len(rows)))
        least = scores.amin(1)
        near, margins = _two_best(scores)
        squares, slack = lengths.square() + 2 * least, table.rounding(deviations, lengths)
        gaps = (squares + 2 * margins - slack).clamp_min(0).sqrt() - (squares + slack).clamp_min(0).sqrt()
        agrees = labels[near] == decisions
        for row, mask in enumerate((agrees, ~agrees)):
            counts[row] += torch.bincount(self._bin(gaps[mask]), minlength=_BINS)
        self._count += len(rows)

    def share(self, drift: float) -> Share:
        """The share of decisions that differ, where no centre has moved by more than `drift` in the end."""
        assert self._gaps is not None, "rows came first"
        edges = self._scale * _LOWEST * 2.0 ** (torch.arange(_BINS, dtype=torch.float64) * _OCTAVES / _BINS)
        edges[0] = 0.0
        gaps = self._gaps.cpu()
        sure = gaps[:, edges > 2 * drift].sum(1)
        differing = int(gaps[1].sum()) + self._unsure_differing
        return Share(differing / self._count, int(sure[1]) / self._count, 1 - int(sure[0]) / self._count)

    def _begin(self, centres: torch.Tensor) -> None:
        """A new class: nobody knows which of the rows so far would have been nearest to it."""
        if self._gaps is not None:
            self._unsure_differing += int(self._gaps[1].sum())
        self._gaps = torch.zeros(2, _BINS, dtype=torch.int64, device=centres.device)
        self._scale = float(torch.linalg.vector_norm(centres, dim=1).max()) or 1.0
        self._middle = centres.mean(0)
        self._table = _Table(centres, self._middle[None])
        self._classes = len(centres)

    def _bin(self, gaps: torch.Tensor) -> torch.Tensor:
        """The bin whose lower edge is the greatest that does not exceed the gap."""
        relative = gaps.double().clamp_min(self._scale * _LOWEST) / (self._scale * _LOWEST)
        return (relative.log2() * (_BINS / _OCTAVES)).floor().long().clamp(0, _BINS - 1)
