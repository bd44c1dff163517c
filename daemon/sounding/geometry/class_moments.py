"""Means and scatter of features by class, from one pass over them: shifted per class, summed in float64.

With a shift r_c for every class, z = h - r_y, the sums n_c, S_c = Σz, q_c = Σ‖z‖² and T = Σzzᵀ give the class means
r_c + S_c/n_c and the scatter within classes, Σ_W = (T - Σ S_cS_cᵀ/n_c)/N. Any shift is right; one near the mean keeps
the digits, so that a scatter of 1e-9 of the distance between classes is still right to 1e-6.
"""

import torch

from sounding.geometry.class_sums import ClassSums, class_sums
from sounding.geometry.moments import ClassMoments
from sounding.geometry.nearest import Share, nearest
from sounding.geometry.scatter import BLOCK, RowScatter

BUFFER = 16 << 20  # bytes of rows that are kept as they are; as long as all fit, T is never made


class ClassMomentsState:
    """Takes in features with labels, batch by batch; the batches' sizes make no difference to the digits.

    Holds 12·C·d + 8·d² bytes and `buffer` bytes of rows, whatever N is.
    """

    def __init__(self, buffer: int = BUFFER) -> None:
        self._buffer = buffer
        self._waiting: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]] = []
        self._rows_waiting = 0
        self._sums: ClassSums | None = None

    def update(self, features: torch.Tensor, labels: torch.Tensor, decisions: torch.Tensor | None = None) -> None:
        """Take in `features` [n, d] of classes `labels` [n], and what a classifier decides for them, as labels."""
        if not len(features):
            return
        exact = features.dtype in (torch.float32, torch.float64)
        kept = features.detach().to(features.dtype if exact else torch.float32, copy=True)
        chosen = None if decisions is None else decisions.detach().to(torch.int64, copy=True)
        self._waiting.append((kept, labels.detach().to(torch.int64, copy=True), chosen))
        self._rows_waiting += len(kept)
        while self._rows_waiting > self._room():
            self._fold(self._room())

    def merge(self, other: "ClassMomentsState") -> None:
        """Take in what another one took in; that one is not to be used afterwards."""
        if other._sums is not None:
            self._fold(self._rows_waiting)
            if self._sums is None:
                self._sums = other._sums
            else:
                self._sums.merge(other._sums)
        for features, labels, decisions in other._waiting:
            self.update(features, labels, decisions)

    def result(self) -> ClassMoments | None:
        """What was taken in so far; None before anything was."""
        if self._sums is not None:
            self._fold(self._rows_waiting)
            return self._sums.result()
        if not self._waiting:
            return None
        rows, labels, decisions = self._joined()
        return _of_rows(rows, labels, decisions)

    @property
    def nbytes(self) -> int:
        """Bytes of all that is held."""
        rows = sum(each.nbytes for waiting in self._waiting for each in waiting if each is not None)
        return rows + (0 if self._sums is None else self._sums.nbytes)

    def _room(self) -> int:
        features = self._waiting[0][0]
        fitting = max(1, self._buffer // (features.shape[1] * features.element_size() + 16))
        return fitting if self._sums is None else min(fitting, BLOCK)

    def _joined(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        if len(self._waiting) == 1:
            return self._waiting[0]
        rows, labels, decisions = zip(*self._waiting, strict=True)
        known = [each for each in decisions if each is not None]
        return torch.cat(rows), torch.cat(labels), torch.cat(known) if len(known) == len(decisions) else None

    def _fold(self, count: int) -> None:
        """Add the first `count` waiting rows to the sums: cut by count, not by batch."""
        if not count:
            return
        rows, labels, decisions = self._joined()
        rest = None if decisions is None else decisions[count:]
        self._waiting = [(rows[count:], labels[count:], rest)] if len(rows) > count else []
        self._rows_waiting = len(rows) - count
        if self._sums is None:
            self._sums = ClassSums(rows.shape[1], rows.dtype, rows.device)
        self._sums.add(rows[:count], labels[:count], None if decisions is None else decisions[:count])


def _of_rows(rows: torch.Tensor, labels: torch.Tensor, decisions: torch.Tensor | None) -> ClassMoments:
    """Moments of rows that are all there: exact means first, deviations from them after."""
    classes, places, counts = torch.unique(labels, return_inverse=True, return_counts=True)
    counted = counts.double()
    wide = rows.to(torch.float64, copy=True)  # deviations are made in place
    means = class_sums(wide, places, len(classes)) / counted[:, None]
    wide -= means[places]
    variances = class_sums(torch.linalg.vecdot(wide, wide), places, len(classes)) / counted
    share = None
    if decisions is not None:
        differing = int((classes[nearest(rows, means)] != decisions).sum())
        share = Share(*(differing / len(rows),) * 3)
    return ClassMoments(classes, counted, means, variances, RowScatter(rows, places, means), share)
