"""Running sums by class of rows that are no longer there."""

import torch

from sounding.geometry.moments import ClassMoments
from sounding.geometry.nearest import Provisional
from sounding.geometry.scatter import BLOCK, SummedScatter, add_upper

_CACHED = 1 << 17  # elements


class ClassSums:
    """The running sums of rows that are no longer there."""

    def __init__(self, width: int, dtype: torch.dtype, device: torch.device) -> None:
        self.labels = torch.zeros(0, dtype=torch.int64, device=device)
        self.shifts = torch.zeros(0, width, dtype=dtype, device=device)
        self.counts = torch.zeros(0, dtype=torch.float64, device=device)
        self.sums = torch.zeros(0, width, dtype=torch.float64, device=device)
        self.squares = torch.zeros(0, dtype=torch.float64, device=device)
        self.outer = torch.zeros(width, width, dtype=torch.float64, device=device)  # its upper half
        self.provisional = Provisional()
        self.decided = True  # every row came with a decision

    @property
    def nbytes(self) -> int:
        """Bytes of the sums, 12·C·d + 8·d² and a few by class (for float32 features)."""
        return sum(each.nbytes for each in (self.labels, self.shifts, self.counts, self.sums, self.squares, self.outer))

    def add(self, rows: torch.Tensor, labels: torch.Tensor, decisions: torch.Tensor | None) -> None:
        """Take in rows [n, d] with their labels, and decisions about them to be compared."""
        places = self._places(rows, labels)
        self.decided = self.decided and decisions is not None
        for start in range(0, len(rows), BLOCK):
            part = slice(start, start + BLOCK)
            shifted = self.shifts.index_select(0, places[part])
            torch.sub(rows[part], shifted, out=shifted)
            lengths = torch.linalg.vector_norm(shifted, dim=1)
            self.counts += torch.bincount(places[part], minlength=len(self.counts))
            self.squares.index_add_(0, places[part], lengths.double().square())
            _add_by_class(self.sums, shifted, places[part])
            add_upper(self.outer, shifted)
            if decisions is not None and self.decided:
                chosen = decisions[part]
                self.provisional.add(rows[part], chosen, self.shifts, self.labels)

    def merge(self, other: "ClassSums") -> None:
        """Add other sums, whose shifts differ: z = z' + Δ with Δ = r' - r."""
        self._admit(other.labels, other.shifts)
        places = torch.searchsorted(self.labels, other.labels)
        moved = other.shifts.double() - self.shifts[places].double()
        cross = other.sums.T @ moved
        whole = cross + cross.T + (moved.T * other.counts) @ moved
        self.outer += other.outer + whole.triu()
        drift = 2 * torch.linalg.vecdot(other.sums, moved) + other.counts * torch.linalg.vecdot(moved, moved)
        self.counts.index_add_(0, places, other.counts)
        self.squares.index_add_(0, places, other.squares + drift)
        self.sums.index_add_(0, places, other.sums + other.counts[:, None] * moved)
        self.decided = False  # two sets of provisional centres certify nothing together

    def result(self) -> ClassMoments:
        """Moments about the means, from those about the shifts."""
        offsets = self.sums / self.counts[:, None]
        variances = (self.squares / self.counts - torch.linalg.vecdot(offsets, offsets)).clamp_min(0)
        upper = self.outer.triu()
        scaled = self.sums / self.counts.sqrt()[:, None]
        noise = torch.finfo(self.shifts.dtype).eps / 4  # of products of blocks, measured: 1e-8 for float32
        within = SummedScatter(upper + upper.triu(1).T, scaled, int(self.counts.sum()), noise)
        means = self.shifts.double() + offsets
        share = None
        if self.decided:
            share = self.provisional.share(float(torch.linalg.vector_norm(offsets, dim=1).max()))
        return ClassMoments(self.labels, self.counts.clone(), means, variances, within, share)

    def _places(self, rows: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The place of every row's class; classes not met before get their mean over `rows` as shift."""
        met, places, counts = torch.unique(labels, return_inverse=True, return_counts=True)
        if not bool(torch.isin(met, self.labels).all()):
            means = summed_by_class(rows, places, len(met)) / counts[:, None]
            self._admit(met, means.to(rows.dtype))
        return torch.searchsorted(self.labels, met)[places]

    def _admit(self, labels: torch.Tensor, shifts: torch.Tensor) -> None:
        """Make room for classes not met before."""
        new = ~torch.isin(labels, self.labels)
        if not bool(new.any()):
            return
        self.labels, order = torch.cat([self.labels, labels[new]]).sort()
        self.shifts = torch.cat([self.shifts, shifts[new]])[order]
        for name in ("counts", "sums", "squares"):
            kept = getattr(self, name)
            setattr(self, name, torch.cat([kept, kept.new_zeros(int(new.sum()), *kept.shape[1:])])[order])


def summed_by_class(rows: torch.Tensor, places: torch.Tensor, classes: int) -> torch.Tensor:
    """The sum of `rows` [n, d] over every class, float64 [classes, d]."""
    sums = torch.zeros(classes, rows.shape[1], dtype=torch.float64, device=rows.device)
    _add_by_class(sums, rows, places)
    return sums


def _add_by_class(sums: torch.Tensor, rows: torch.Tensor, places: torch.Tensor) -> None:
    step = max(1, _CACHED // rows.shape[1])  # in float64 a few rows stay in the cache
    for some, of_some in zip(torch.split(rows, step), torch.split(places, step), strict=True):
        sums.index_add_(0, of_some, some.double())
