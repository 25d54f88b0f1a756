"""How much wider dependence makes the interval of a mean, when the dependence itself is known only from the same few values.

The series is a first-order autoregression, alone or beside white noise (a machine whose state lasts, requests that differ). Its parameters
are not estimated and then believed: the interval is averaged over all of them, each weighed by how well it explains the series. Likelihood:
Whittle 1953, with the expected periodogram of a finite series in place of the spectrum (Sykulski et al. 2019). Averaging over the
autocorrelation of errors with a flat prior: Zellner & Tiao 1964. Given the parameters, the mean is Student's t.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from client.core.stats import Floats, t_point

COEFFICIENTS = np.append(np.arange(-9, 10) / 10, 0.95)
SHARES = (1.0, 2 / 3, 1 / 3)
"""Of the autoregression, and of the variance that it has beside white noise. All are equally likely beforehand."""
LASTING = 0.8
"""Coefficient from which dependence is strong: a run of a hundred requests then holds a few stretches of one state of the machine."""
ROUNDING = 1e-12
"""What values of one size differ by, relative to their size, when they are equal but for the last bits of a double."""


@dataclass(frozen=True, slots=True)
class _Models:
    """One row for each pair of parameters. `at_zero`: n times the variance of the mean, for values of variance 1."""

    coefficient: Floats
    at_zero: Floats
    inverse: Floats
    log_determinant: Floats
    log_prior: Floats


@lru_cache(maxsize=32)
def _models(n: int) -> _Models:
    lag = np.arange(n)
    rows, priors, coefficients = [], [], []
    for coefficient in COEFFICIENTS:
        for share in SHARES if coefficient else (1.0,):
            covariance = share * coefficient**lag * (1 - lag / n)
            covariance[0] = 1.0
            rows.append(2 * np.fft.rfft(covariance).real - 1)
            priors.append(1 / len(SHARES) if coefficient else 1.0)
            coefficients.append(coefficient)
    expected = np.maximum(np.array(rows), 1e-9)
    each = np.ones(n // 2)
    if n % 2 == 0:
        each[-1] = 0.5  # the highest frequency of an even number of values has one degree of freedom, the others two
    return _Models(
        np.array(coefficients),
        expected[:, 0],
        each / expected[:, 1:],
        (np.log(expected[:, 1:]) * each).sum(axis=1),
        np.log(np.array(priors)),
    )


def widening(series: Floats, confidence: float) -> float:
    """Half-width of the interval of the mean over its half-width for independent values; 1 for fewer than 8 values or a constant."""
    n, found = len(series), _weighed(series)
    if found is None:
        return 1.0
    weights, spread = found
    return mixture_point(weights, spread, confidence, n - 1) / t_point(confidence, n - 1)


def strongly(series: Floats) -> float:
    """How likely it is that neighbours depend on one another with a coefficient of LASTING or more; 0 for fewer than 8 values or a constant."""
    found = _weighed(series)
    return 0.0 if found is None else float(found[0][_models(len(series)).coefficient >= LASTING].sum())


def _weighed(series: Floats) -> tuple[Floats, Floats] | None:
    """For each pair of parameters how likely it is, and the spread of the mean over that of independent values."""
    n = len(series)
    variance = float(series.var(ddof=1)) if n >= 8 else 0.0
    if variance <= (ROUNDING * float(np.abs(series).max(initial=0.0))) ** 2:
        return None
    models = _models(n)
    periodogram = np.abs(np.fft.rfft(series - series.mean()))[1:] ** 2 / n
    explained = models.inverse @ periodogram
    logs = models.log_prior - models.log_determinant - (n - 1) / 2 * np.log(explained)
    weights = np.exp(logs - logs.max())
    return weights / weights.sum(), np.sqrt(explained / ((n - 1) / 2) * models.at_zero / variance)


def mixture_point(weights: Floats, spread: Floats, confidence: float, freedom: int) -> float:
    """Two-sided point of a mixture of Student's t, each with its own spread, by bisection."""
    from scipy.special import stdtr

    level, low, high = (1 + confidence) / 2, 0.0, t_point(confidence, freedom) * float(spread.max())
    for _ in range(40):
        middle = (low + high) / 2
        if float(weights @ stdtr(freedom, middle / spread)) < level:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def followed_widening(
    pull: Floats, logs: Floats, widening_of: Callable[[Floats], float], follows: float | None = None
) -> float:
    """Of a statistic by its influence values: the mean of two readings, one from those, one from the logs as far as they are followed.

    `follows`: the share of the variance of the influence values that is linear in the logs; None: as seen.

    Influence values of a tail are mostly noise and hide a dependence that the logs show. What of them is linear in the logs carries the
    dependence of the logs (the first term of an expansion in Hermite polynomials). What only the influence values show, such as stalls that
    come in bursts, the logs hide. For a mean both readings are nearly one.
    """
    own, of_logs = widening_of(pull), widening_of(logs)
    if follows is None:
        a, b = pull - pull.mean(), logs - logs.mean()
        size = float(a @ a) * float(b @ b)
        follows = float(a @ b) ** 2 / size if size > 0 else 0.0
    return (own + math.sqrt(1 + follows * (of_logs**2 - 1))) / 2
