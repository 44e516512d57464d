"""Figures of agreement between two curves over the cycle."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

MOST_LAG = 15  # % of the cycle that is searched for the best lag of angles, forces and moments


class Agreement(NamedTuple):
    """How a curve agrees with a norm.

    ============ ===================================================================================
    r            Pearson's correlation
    rmse         root mean square difference
    rmse_shape   the same without the mean difference
    offset       mean difference, curve minus norm
    within_1sd   share of the cycle inside mean +- 1 SD; nan where no SD is published
    within_2sd   the same for 2 SD
    cosine       sum(x y) / sqrt(sum(x^2) sum(y^2)); 1 also for two constants
    vaf          variance accounted for, 1 - sum((x - y)^2) / sum(y^2)
    lag          % of the cycle by which the curve comes later than the norm, where r is largest
    r_lag        r at that lag
    ============ ===================================================================================
    """

    r: float
    rmse: float
    rmse_shape: float
    offset: float
    within_1sd: float
    within_2sd: float
    cosine: float
    vaf: float
    lag: int
    r_lag: float


def pearson(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson's correlation; nan where one of them is constant."""
    x, y = x - x.mean(), y - y.mean()
    size = float(np.sqrt((x**2).sum() * (y**2).sum()))
    return float((x * y).sum() / size) if size > 1e-12 else float("nan")


def best_lag(x: np.ndarray, y: np.ndarray, most: int) -> tuple[int, float]:
    """Lag at which a periodic curve correlates best with another, and that correlation.

    Args:
        x: (P,) samples of one period, the end not repeated.
        y: (P,) the same of the other curve.
        most: samples searched to either side.

    Returns:
        Samples by which ``x`` is later than ``y``, the smallest of equals, and r; (0, nan) where one is constant.
    """
    lags = sorted(range(-most, most + 1), key=abs)
    values = np.array([pearson(np.roll(x, -lag), y) for lag in lags])
    if not np.isfinite(values).all():
        return 0, float("nan")
    best = int(np.argmax(values > values.max() - 1e-12))
    return lags[best], float(values[best])


def agreement(x: np.ndarray, mean: np.ndarray, sd: np.ndarray | None) -> Agreement:
    """Compare a curve (101,) with a norm (101,) and its standard deviation (101,)."""
    away = x - mean
    lag, r_lag = best_lag(x[:-1], mean[:-1], MOST_LAG)
    size = float(np.sqrt((x**2).sum() * (mean**2).sum()))
    inside = [float((np.abs(away) <= k * sd + 1e-12).mean()) if sd is not None else float("nan") for k in (1, 2)]
    return Agreement(
        r=pearson(x, mean),
        rmse=float(np.sqrt((away**2).mean())),
        rmse_shape=float(np.sqrt(((away - away.mean()) ** 2).mean())),
        offset=float(away.mean()),
        within_1sd=inside[0],
        within_2sd=inside[1],
        cosine=float((x * mean).sum() / size) if size > 1e-12 else float("nan"),
        vaf=float(1.0 - (away**2).sum() / (mean**2).sum()),
        lag=lag,
        r_lag=r_lag,
    )
