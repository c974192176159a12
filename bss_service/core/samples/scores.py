"""Balance scores and their moving average (BSS paper, section 3.2), and how much of a ranking is admitted (3.3)."""

import math
from typing import Final

import numpy as np

from bss_service.core.arrays import Float32, Float64, Floats

RANKED_SHARE: Final = 0.9  # of the samples must be measured before a ranking of them means anything


def minmax(values: Floats) -> Float64:
    """Scale to [0, 1]; NaN marks a sample without a value and stays NaN; constant input gives 0, not 0/0.

    values: (k,). Raises ValueError on an infinite value, which no scale can hold.
    """
    exact: Float64 = values.astype(np.float64)
    if np.isinf(exact).any():
        raise ValueError(f"values must be finite, got {exact[np.isinf(exact)][0]}")
    known = exact[~np.isnan(exact)]
    if known.size == 0:
        return exact
    low, high = float(known.min()), float(known.max())
    # Halving first keeps the span finite even for values at both ends of the float range.
    span = high / 2 - low / 2
    return (exact / 2 - low / 2) / (span if span > 0 else 1.0)


def balance_score(similarity: Floats, loss: Floats) -> Float64:
    """s = minmax(similarity) − minmax(loss), (k,) in [−1, 1]; higher is more balanced."""
    return minmax(similarity) - minmax(loss)


def moving_average(previous: Floats, current: Floats, rate: float) -> Float32:
    """(1 − rate)·previous + rate·current, of one shape; where one of them is not known (NaN), the other."""
    mixed = np.where(np.isnan(previous), current, (1 - rate) * previous + rate * current)
    return np.where(np.isnan(current), previous, mixed).astype(np.float32)


def admitted_share(epoch: int, *, initial_share: float, growth_epochs: float) -> float:
    """λ(t) = min(1, √((1 − λ0²)/T_grow · t + λ0²)) with t = epoch + 1, as the released code counts.

    epoch: ≥ 0; initial_share: λ0 in (0, 1]; growth_epochs: T_grow > 0. Returns a share in (0, 1].
    """
    growth = (1 - initial_share**2) / growth_epochs * (epoch + 1)
    return min(1.0, math.sqrt(growth + initial_share**2))
