"""Bootstrap intervals over quadruplets (Efron, Annals of Statistics 1979; percentile method)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, slots=True)
class Figure:
    """A value measured on n quadruplets, with its 95 % interval: the 2.5th and 97.5th percentile over the resamples.

    A share of 0 or 1 has an interval of width 0, since no resample differs; what n outcomes without exception say is a
    rate below about 3/n.
    """

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Bootstrap:
    """Resamples of n quadruplets, the same ones for every figure, so that figures of one split are paired.

    `scipy.stats.bootstrap` draws anew for every statistic. Without resamples, intervals have width 0.
    """

    n: int
    resamples: int = 1000
    seed: int = 0

    @cached_property
    def weights(self) -> NDArray[np.float64]:
        """How often each resample holds each quadruplet, (resamples, n)."""
        rng = np.random.default_rng((self.seed, self.n))
        return rng.multinomial(self.n, np.full(self.n, 1 / self.n), size=self.resamples).astype(np.float64)

    def figure(self, value: float, resampled: NDArray[np.float64], n: int | None = None) -> Figure:
        """A figure from its value and its values on the resamples; resamples in which it is undefined are left out."""
        defined = resampled[np.isfinite(resampled)]
        low, high = np.percentile(defined, [2.5, 97.5]) if defined.size else (value, value)
        return Figure(float(value), float(low), float(high), self.n if n is None else n)

    def mean(self, values: ArrayLike, rows: NDArray[np.bool_] | None = None) -> Figure:
        """Mean of one value per quadruplet, (n,), over all of them or over those in `rows`, (n,) bool, not empty."""
        v = np.asarray(values, dtype=np.float64)
        if rows is None:
            return self.figure(float(v.mean()), self.weights @ v / self.n)
        weights = self.weights[:, rows]
        with np.errstate(invalid="ignore"):
            resampled = weights @ v[rows] / weights.sum(axis=1)
        return self.figure(float(v[rows].mean()), resampled, int(rows.sum()))

    def std(self, values: ArrayLike) -> Figure:
        """Standard deviation of one value per quadruplet, (n,)."""
        v = np.asarray(values, dtype=np.float64)
        centred = v - v.mean()  # so that the difference of squares does not cancel
        variance = self.weights @ centred**2 / self.n - (self.weights @ centred / self.n) ** 2
        return self.figure(float(v.std()), np.sqrt(np.maximum(variance, 0.0)))
