"""Groups of samples, such as classes, domains or sources: which a sample belongs to, and how often each is to come."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from bss_service.core.arrays import Float64, UInt16

MAX_GROUPS: Final = 2**16


@dataclass(frozen=True, slots=True, eq=False)
class Groups:
    """The group of each of n samples, 2 bytes each, and what the groups are called."""

    numbers: UInt16  # (n,) less than the number of names
    names: tuple[str, ...]  # (k,)

    def rows(self, which: Any) -> "Groups":
        """Those of some samples, by a slice or by indices."""
        return Groups(self.numbers[which], self.names)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Groups):
            return NotImplemented
        return self.names == other.names and np.array_equal(self.numbers, other.numbers)

    def total_logs(self, weights_log: Float64) -> Float64:
        """Logarithm of the sum of each group's weights, (k,), −inf of one without any. weights_log: (n,)."""
        most = np.full(len(self.names), -np.inf)
        np.maximum.at(most, self.numbers, weights_log)
        base = np.where(np.isneginf(most), 0.0, most)
        sums = np.bincount(self.numbers, np.exp(weights_log - base[self.numbers]), len(self.names))
        with np.errstate(divide="ignore"):
            totals: Float64 = np.log(sums) + base
        return totals

    def shares(self, weights_log: Float64, balance: float, mixture: Mapping[str, float]) -> Float64:
        """How often each group is to come, (k,) ≥ 0 of sum 1, for samples with these weights (n,), logarithms.

        Those that `mixture` names get the share that it says; of the others, and of what is left for them, a group gets
        a share in proportion to W^(1 − balance), W being the sum of its samples' weights: temperature sampling,
        p ∝ q^α with α = 1 − balance (Conneau et al. 2020, "Unsupervised cross-lingual representation learning at
        scale", section 3; Xue et al. 2021, "mT5", section 3.1). A group of which no sample can come gets none,
        and the rest its part. Where nothing is left that could come, the shares are as without groups.
        """
        totals = self.total_logs(_possible(weights_log))
        there = ~np.isneginf(totals)
        named = np.zeros(len(totals), dtype=np.bool_)
        shares = np.zeros(len(totals))
        for name, share in mixture.items():
            number = self.names.index(name)
            named[number] = True
            shares[number] = share
        left = max(0.0, 1.0 - shares.sum())
        shares[~there] = 0.0
        others = there & ~named
        if others.any():
            shares[others] = left * _softmax((1.0 - balance) * totals[others])
        return shares / shares.sum() if shares.sum() > 0 else _softmax(totals)

    def mixed(self, weights_log: Float64, balance: float, mixture: Mapping[str, float]) -> Float64:
        """The weights (n,), logarithms, with which the groups come as often as `shares` says.

        Within a group they are to one another as before.
        """
        weights_log = _possible(weights_log)
        totals = self.total_logs(weights_log)
        with np.errstate(divide="ignore"):
            wanted = np.log(self.shares(weights_log, balance, mixture))
        factors = np.where(np.isneginf(totals), 0.0, wanted - np.where(np.isneginf(totals), 0.0, totals))
        mixed: Float64 = weights_log + factors[self.numbers]
        return mixed


def _possible(weights_log: Float64) -> Float64:
    """Weights of which not every one is 0: uniform instead."""
    return np.zeros(len(weights_log)) if np.isneginf(weights_log).all() else weights_log


def _softmax(logs: Float64) -> Float64:
    weights = np.exp(logs - logs.max())
    shares: Float64 = weights / weights.sum()
    return shares
