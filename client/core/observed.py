"""The kinds of series that an interval is asked of: what their statistic is, how they are resampled, and how each value pulls at it.

All stand in time order. `value` is the statistic, `resampled` the statistic of each row of picked places, `run` that of a stretch,
`times` one number for each place (to tell autocorrelation by), `pull` the influence of each place on the log of the statistic.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from client.core.stats import Floats, quantile_influence, quantile_rows

Index = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Series:
    """A statistic of the values of one series in time order; `p` None is the mean. inf is a censored value."""

    values: Floats
    p: float | None

    def __len__(self) -> int:
        return len(self.values)

    def value(self) -> float:
        if self.p is None:
            return float(self.values.mean())
        return float(quantile_rows(self.values[np.newaxis], self.p, bool(np.isinf(self.values).any()))[0])

    def resampled(self, index: Index) -> Floats:
        picked = self.values[index]
        censored = bool(np.isinf(self.values).any())
        return picked.mean(axis=1) if self.p is None else quantile_rows(picked, self.p, censored)

    def run(self, begin: int, end: int) -> float:
        """Without Harrell-Davis, as the whole of so long a series is: smoothed stretches would vary less than it does."""
        values = self.values[begin:end]
        return float(values.mean() if self.p is None else quantile_rows(values[np.newaxis], self.p, True)[0])

    def times(self) -> Floats:
        return self.values

    def pull(self) -> Floats:
        """Influence of each value on the log of the statistic; a censored one counts as the largest that was seen."""
        values = seen(self.values)
        if self.p is None:
            return np.asarray(values / values.mean() - 1, np.float64)
        return quantile_influence(values, self.p) / self.value()

    def without_each(self) -> Floats:
        """Jackknife means: the mean without each value in turn."""
        n = len(self.values)
        return np.asarray((self.values.sum() - self.values) / (n - 1), np.float64)


@dataclass(frozen=True, slots=True)
class Clusters:
    """The same over values that come in clusters (gaps of one answer): whole clusters are resampled, values are pooled."""

    values: Floats
    owner: npt.NDArray[np.int32]
    size: int
    p: float | None
    in_order: bool = False
    """Clusters follow one another: a run of them is a slice."""

    def __len__(self) -> int:
        return self.size

    def value(self) -> float:
        return Series(self.values, self.p).value()

    def resampled(self, index: Index) -> Floats:
        counts = np.stack([np.bincount(row, minlength=self.size) for row in index])
        if self.p is None:
            sums = np.bincount(self.owner, self.values, self.size)
            sizes = np.bincount(self.owner, minlength=self.size)
            return np.asarray((counts @ sums) / np.maximum(counts @ sizes, 1), np.float64)
        order = np.argsort(self.values, kind="stable")
        ordered = self.values[order]
        reached = np.cumsum(counts[:, self.owner[order]], axis=1)
        wanted = self.p * reached[:, -1:]
        return np.asarray(ordered[np.argmax(reached >= wanted, axis=1)], np.float64)

    def run(self, begin: int, end: int) -> float:
        if self.in_order:
            first, last = np.searchsorted(self.owner, (begin, end))
            return Series(self.values, self.p).run(int(first), int(last))
        inside = (self.owner >= begin) & (self.owner < end)
        values = self.values[inside]
        return Series(values, self.p).run(0, len(values))

    def width(self) -> int:
        return len(self.values)

    def times(self) -> Floats:
        """Mean of each cluster."""
        sizes = np.bincount(self.owner, minlength=self.size)
        return np.asarray(np.bincount(self.owner, self.values, self.size) / np.maximum(sizes, 1), np.float64)

    def pull(self) -> Floats:
        values = seen(self.times())
        return np.asarray(values / values.mean() - 1, np.float64)


@dataclass(frozen=True, slots=True)
class Shares:
    """Sum of one quantity over sum of another, request by request: what was finished over the time it took."""

    above: Floats
    below: Floats

    def __len__(self) -> int:
        return len(self.above)

    def value(self) -> float:
        return float(self.above.sum() / self.below.sum())

    def resampled(self, index: Index) -> Floats:
        return np.asarray(self.above[index].sum(axis=1) / self.below[index].sum(axis=1), np.float64)

    def run(self, begin: int, end: int) -> float:
        return Shares(self.above[begin:end], self.below[begin:end]).value()

    def times(self) -> Floats:
        return self.below

    def pull(self) -> Floats:
        return np.asarray(self.above / self.above.mean() - self.below / self.below.mean(), np.float64)


def seen(values: Floats) -> Floats:
    """With censored values at the largest that was seen."""
    finite = values[np.isfinite(values)]
    return np.minimum(values, finite.max()) if len(finite) < len(values) else values


AnySeries = Series | Clusters | Shares
