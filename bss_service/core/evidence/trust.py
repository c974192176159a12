"""Which samples a plan leaves out by their evidence, and which losses of the others do not count."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bss_service.core.action import Action
from bss_service.core.arrays import Bool, Float64
from bss_service.core.evidence.posterior import Evidence


@dataclass(frozen=True, slots=True)
class Trust:
    """Of n samples."""

    kept: Bool  # (n,) at least one
    masked: Bool | None = None  # (n, U + 1) losses that do not count, by head, the joint one last; None: none at all


def trust(action: Action, evidence: Evidence | None, samples: int, uniforms: Callable[[], Float64]) -> Trust:
    """What an action makes of evidence.

    uniforms: (n,) random numbers in (0, 1), which decide where only a part is to be left out.

    A sample without evidence is believed. Where no sample would be kept, evidence tells none from another: all are.
    """
    everything = Trust(np.ones(samples, dtype=np.bool_))
    if evidence is None or not action.belief:
        return everything
    chosen = uniforms() < action.left_out
    wrong = evidence.wrong_modality > 1 - action.belief  # of NaN False, as below
    disbelieved = evidence.right < action.belief
    if action.wrong_pairs == "leave_out":
        disbelieved |= wrong.any(axis=1)
    kept = ~(disbelieved & chosen)
    if not kept.any():
        return everything
    if action.wrong_pairs != "mask" or not (masked := wrong & (chosen & kept)[:, None]).any():
        return Trust(kept)
    return Trust(kept, np.column_stack([masked, masked.any(axis=1)]))
