"""Means and scatter of features by class, from one pass over them: shifted per class, summed in float64.

With a shift r_c for every class, z = h - r_y, the sums n_c, S_c = Σz, q_c = Σ‖z‖² and T = Σzzᵀ give the class means
r_c + S_c/n_c and the scatter within classes, Σ_W = (T - Σ S_cS_cᵀ/n_c)/N. Any shift is right; one near the mean keeps
the digits, so that a scatter of 1e-9 of the distance between classes is still right to 1e-6.
"""

import torch

from sounding.geometry.class_sums import ClassSums, summed_by_class
from sounding.geometry.moments import ClassMoments
from sounding.geometry.nearest import MANY, Share, nearest, nearest_of
from sounding.geometry.scatter import BLOCK, RowScatter

BUFFER = 16 << 20  # bytes of rows that are kept as they are; as long as all fit, T is never made


class ClassMomentsState:
    """Takes in features with labels, batch by batch; the batches' sizes make no difference to the digits.

    Holds 12·C·d + 8·d² bytes and `buffer` bytes of rows, whatever N is.
    """

    def __init__(self, buffer: int = BUFFER) -> None:
        self._most = buffer
        self._rows: _Waiting | None = None
        self._sums: ClassSums | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of all that is held."""
        return sum(each.nbytes for each in (self._rows, self._sums) if each is not None)

    def update(self, features: torch.Tensor, labels: torch.Tensor, decisions: torch.Tensor | None = None) -> None:
        """Take in `features` [n, d] of classes `labels` [n], and what a classifier decides for them, as labels."""
        if self._rows is None:
            self._rows = _Waiting(features, self._most)
        start, count = 0, features.shape[0]
        if count <= self._rows.room:
            self._rows.put(features, labels, decisions)
            return
        while start < count:
            room = self._rows.room
            part = slice(start, start + room)
            self._rows.put(features[part], labels[part], None if decisions is None else decisions[part])
            start += room
            if start < count:  # cut by count, not by batch; folded only once there is more
                self._fold()

    def merge(self, other: "ClassMomentsState") -> None:
        """Take in what another one took in; that one is not to be used afterwards."""
        if other._sums is not None:
            self._fold()
            if self._sums is None:
                self._sums = other._sums
            else:
                self._sums.merge(other._sums)
        if other._rows is not None:
            self.update(*other._rows.taken())

    def result(self) -> ClassMoments | None:
        """What was taken in so far; None before anything was."""
        if self._sums is not None:
            self._fold()
            return self._sums.result()
        return None if self._rows is None or not self._rows.count else _of_rows(*self._rows.taken())

    def _fold(self) -> None:
        """Add the waiting rows to the sums."""
        if self._rows is None or not self._rows.count:
            return
        rows, labels, decisions = self._rows.taken()
        if self._sums is None:
            self._sums = ClassSums(rows.shape[1], rows.dtype, rows.device)
        self._sums.add(rows, labels, decisions)
        self._rows.clear()


class _Waiting:
    """Rows that were not yet summed; as many as fit into some bytes, and after the first time a block of them."""

    def __init__(self, like: torch.Tensor, most: int) -> None:
        dtype = like.dtype if like.dtype in (torch.float32, torch.float64) else torch.float32
        self._room = max(1, most // (like.shape[1] * dtype.itemsize + 16))
        self._rows = torch.empty(self._room, like.shape[1], dtype=dtype, device=like.device)
        self._labels = torch.empty(self._room, dtype=torch.int64, device=like.device)
        self._decisions = torch.empty_like(self._labels)
        self._decided = True
        self.count = 0

    @property
    def nbytes(self) -> int:
        return self._rows.nbytes + self._labels.nbytes + self._decisions.nbytes

    @property
    def room(self) -> int:
        return self._room - self.count

    def put(self, rows: torch.Tensor, labels: torch.Tensor, decisions: torch.Tensor | None) -> None:
        end = self.count + rows.shape[0]
        part = slice(self.count, end)
        self._rows[part] = rows.detach()
        self._labels[part] = labels
        if decisions is None:
            self._decided = False
        else:
            self._decisions[part] = decisions
        self.count = end

    def taken(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        part = slice(0, self.count)
        return self._rows[part], self._labels[part], self._decisions[part] if self._decided else None

    def clear(self) -> None:
        self._room = min(self._room, BLOCK)
        self.count = 0


def _of_rows(rows: torch.Tensor, labels: torch.Tensor, decisions: torch.Tensor | None) -> ClassMoments:
    """Moments of rows that are all there: means first, deviations from them after."""
    classes, places, counts = torch.unique(labels, return_inverse=True, return_counts=True)
    counted = counts.double()
    means = summed_by_class(rows, places, len(classes)) / counted[:, None]
    deviations = means.to(rows.dtype).index_select(0, places)
    torch.sub(rows, deviations, out=deviations)
    lengths = torch.linalg.vector_norm(deviations, dim=1)
    variances = torch.zeros_like(counted).index_add_(0, places, lengths.double().square()) / counted
    share = None
    if decisions is not None:
        few = len(classes) <= MANY
        near = nearest_of(deviations, lengths, places, means) if few else nearest(rows, means)
        differing = int((classes[near] != decisions).sum())
        share = Share(*(differing / len(rows),) * 3)
    return ClassMoments(classes, counted, means, variances, RowScatter(deviations, places), share)
