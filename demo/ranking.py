"""Samples ranked by the balance score that the scheduler gave them last."""

from collections.abc import Sequence
from typing import Final

import numpy as np

from demo.results import RunResult

DECILES: Final = 10


def share(flags: Sequence[bool]) -> float:
    """Part of the flags that are set, in [0, 1]; 0 of none."""
    return sum(flags) / len(flags) if flags else 0.0


def ranking(scores: Sequence[float | None]) -> list[int]:
    """Numbers of the scored samples, least balanced first; ties by number."""
    scored = [number for number, score in enumerate(scores) if score is not None]
    return sorted(scored, key=lambda number: (scores[number], number))


def least_and_most(scores: Sequence[float | None], count: int) -> tuple[list[int], list[int]]:
    """The `count` least balanced samples, the least first, and the most balanced, the most first."""
    ranked = ranking(scores)
    return ranked[:count], ranked[::-1][:count]


def wrong_share_by_decile(result: RunResult) -> list[float]:
    """Share of wrong labels in each tenth of the ranking, least balanced first."""
    parts = np.array_split(np.array(ranking(result.scores), dtype=np.int64), DECILES)
    return [share([result.wrong_label[number] for number in part]) for part in parts]
