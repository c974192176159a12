"""Pacing: how large a share of the ranking is admitted at an epoch (paper, section 3.3)."""

import math
from typing import Final

RANKED_SHARE: Final = 0.9  # of the samples must be measured before a ranking of them means anything


def admitted_share(epoch: int, *, initial_share: float, growth_epochs: float) -> float:
    """λ(t) = min(1, √((1 − λ0²)/T_grow · t + λ0²)) with t = epoch + 1, as the released code counts.

    epoch: ≥ 0; initial_share: λ0 in (0, 1]; growth_epochs: T_grow > 0. Returns a share in (0, 1].
    """
    growth = (1 - initial_share**2) / growth_epochs * (epoch + 1)
    return min(1.0, math.sqrt(growth + initial_share**2))
