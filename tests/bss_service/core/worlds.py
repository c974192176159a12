"""Sample tables for the tests of the mathematics."""

import numpy as np
from hypothesis import strategies as st

from bss_service.core.action import CHOICES, RANGES, Action
from bss_service.core.calendar import Calendar
from bss_service.core.table import SampleTable


def scored(similarity: list[float], loss: list[float], probabilities: list[list[float]] | None = None) -> SampleTable:
    """A table of two modalities in which every sample was measured at step 0 and scored."""
    table = SampleTable.empty(len(similarity), 2)
    table.measure(
        np.arange(len(table)),
        np.zeros(len(table), dtype=np.int64),
        np.array(similarity, np.float32),
        np.array(loss, np.float32),
        None if probabilities is None else np.array(probabilities, np.float32),
    )
    table.refresh(1.0)
    return table


def random_table(samples: int, seed: int, rounds: int = 2, scale: float = 1.0, modalities: int = 2) -> SampleTable:
    """A table after some rounds, in each of which about half of the samples were measured."""
    rng = np.random.default_rng(seed)
    table = SampleTable.empty(samples, modalities)
    for step in range(rounds):
        indices = np.flatnonzero(rng.random(samples) < 0.5)
        table.measure(
            indices,
            np.full(len(indices), step),
            rng.random(len(indices), np.float32),
            (scale * rng.exponential(size=len(indices))).astype(np.float32),
            rng.random((len(indices), modalities + 1), np.float32) if rng.random() < 0.8 else None,
        )
        table.refresh(rng.random())
    return table


def tables(samples: st.SearchStrategy[int] = st.integers(1, 30)) -> st.SearchStrategy[SampleTable]:  # noqa: B008
    """Tables of any size, partly or never measured, with losses of any magnitude."""
    return st.builds(
        random_table,
        samples=samples,
        seed=st.integers(0, 2**32),
        rounds=st.integers(0, 3),
        scale=st.sampled_from([0.0, 1e-40, 1.0, 1e37]),
        modalities=st.integers(2, 4),
    )


def actions(**fixed: st.SearchStrategy[object]) -> st.SearchStrategy[Action]:
    """Any action, with some fields held."""
    ranges = {name: st.floats(low, high) for name, (low, high) in RANGES.items()}
    choices = {name: st.sampled_from(names) for name, names in CHOICES.items()}
    return st.builds(Action, **{**ranges, **choices, **fixed})


@st.composite
def calendars(draw: st.DrawFn, samples: int = 12) -> Calendar:
    """Any calendar of a small job, with intervals shorter and longer than the epoch."""
    n = draw(st.integers(1, samples))
    batch_size = draw(st.integers(1, n))
    interval = draw(st.none() | st.integers(1, 2 * n))
    return Calendar(n, batch_size, draw(st.sampled_from(["carry", "drop"])), interval)
