"""A teacher that sees which samples are harmed, and says what it would do.

In a simulated run it is known which labels and pairs are wrong, and so is what a ranking would keep of the good samples
and leave in of the bad. What to do then needs no exploration. What remains to be learnt is to tell the harm from the
observation, without seeing it.
"""

from dataclasses import replace
from itertools import product
from typing import Final

import numpy as np

from bss_service.core.action import RANGES, Action, log_weights
from bss_service.core.arrays import Float32, Float64
from bss_service.core.samples.table import SampleTable
from envs.tasks import Lesson

# What a sample is worth to the student that trains on it, as found on synthetic tasks: docs/decisions/0011.
WRONG_LABEL: Final = -1.2
WRONG_PAIR: Final = -0.4
BEGIN, RAMP = 0.05, 0.4  # progress at which samples begin to be left out, and until all are that should be
LEAST_SHARE: Final = 0.2
LEAST_PROFIT: Final = 0.005  # for each sample, below which nothing is left out
EMA: Final = 0.5

# κ of similarity, loss and the weaker head.
RANKINGS: Final = (
    *product((0.0, 0.5, 1.0), (2.0,), (0.0,)),
    (0.25, 2.0, 0.5),
    (0.0, 2.0, -1.0),
    (1.0, 2.0, -2.0),
    (1.0, 1.0, 0.0),
    (1.0, 1.0, -2.0),
    (2.0, 1.0, 0.0),
    (2.0, 0.0, 0.0),
    (1.0, 0.0, -2.0),
    (0.0, 0.0, -2.0),
)
SHARE_WEIGHT: Final = 4.0  # errors of the share cost more than those of the ranking,
CLEAN_SHARE_WEIGHT: Final = 6.0  # and most where nothing is to be left out
IDLE_RANKING_WEIGHT: Final = 0.05  # of a ranking that nothing depends on


def advice(table: SampleTable, lesson: Lesson, progress: float) -> Action:
    """What to do next, given which samples are harmed; progress in [0, 1].

    Of all rankings and shares the one whose kept samples are worth the most together.
    """
    plain = Action(ema=EMA, coverage="subset", rank_by="weight")
    if not table.measured.any():
        return plain
    worth = np.where(lesson.clean, 1.0, np.where(lesson.wrong_label, WRONG_LABEL, WRONG_PAIR))
    scored = _refreshed(table)
    least = int(LEAST_SHARE * len(worth))
    best, most = plain, float(worth.sum()) + LEAST_PROFIT * len(worth)
    for similarity, loss, weak in RANKINGS:
        action = replace(plain, kappa_similarity=similarity, kappa_loss=loss, kappa_weak=weak)
        kept = _worth_of_the_first(worth, log_weights(action, scored))
        number = least + int(kept[least:].argmax())
        if kept[number] > most:
            most = float(kept[number])
            best = replace(action, share=(number + 1) / len(worth))
    left_out = (1 - best.share) * float(np.clip((progress - BEGIN) / RAMP, 0, 1))
    return replace(best, share=1 - left_out)


def importance(action: Action) -> Float32:
    """How much each component of an action matters to what is drawn, (A,): the weights of squared errors."""
    vector = action.to_vector()
    weights = np.ones_like(vector)
    left_out = 1 - action.share
    weights[:3] = max(IDLE_RANKING_WEIGHT, min(1.0, 4 * left_out))
    weights[list(RANGES).index("share")] = SHARE_WEIGHT if left_out > 0 else CLEAN_SHARE_WEIGHT
    return weights


def _worth_of_the_first(worth: Float64, scores: Float64) -> Float64:
    """What the k + 1 samples of the highest scores are worth together, (n,)."""
    summed: Float64 = np.cumsum(worth[np.argsort(-scores, kind="stable")])
    return summed


def _refreshed(table: SampleTable) -> SampleTable:
    """The table as the next plan will see it; the run's own is left as it is."""
    copied = table.copy()
    copied.refresh(EMA)
    return copied
