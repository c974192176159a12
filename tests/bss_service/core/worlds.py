"""Sample tables for the tests of the mathematics."""

from collections.abc import Sequence

import numpy as np
from hypothesis import strategies as st

from bss_service.core.action import CHOICES, RANGES, Action
from bss_service.core.calendar import Calendar
from bss_service.core.observation import FIELDS, Observation
from bss_service.core.samples.table import SampleTable
from bss_service.core.signals import PAPER, Signals
from bss_service.protocol.decisions import Decision
from bss_service.protocol.validation import ModalityReport, ValidationReport


def empty(samples: int, modalities: int = 2) -> SampleTable:
    """A table of the paper's signals in which nothing was measured."""
    return SampleTable.empty(samples, Signals(PAPER, heads=modalities + 1))


def measure(table: SampleTable, step: int, indices: Sequence[int], **signals: object) -> None:
    """Write down what was measured of samples at one step."""
    arrays = {name: np.array(values, np.float32) for name, values in signals.items()}
    values = table.signals.joined(arrays, (len(indices),))
    table.measure(np.array(indices, dtype=np.int64), np.full(len(indices), step), values)


def scored(similarity: list[float], loss: list[float], probability: list[list[float]] | None = None) -> SampleTable:
    """A table of two modalities in which every sample was measured at step 0 and scored."""
    table = empty(len(similarity))
    heads = {} if probability is None else {"probability": probability}
    measure(table, 0, range(len(table)), similarity=similarity, loss=loss, **heads)
    table.refresh(1.0)
    return table


def random_table(samples: int, seed: int, rounds: int = 2, scale: float = 1.0, modalities: int = 2) -> SampleTable:
    """A table after some rounds, in each of which about half of the samples were measured."""
    rng = np.random.default_rng(seed)
    table = empty(samples, modalities)
    for step in range(rounds):
        indices = np.flatnonzero(rng.random(samples) < 0.5)
        count = len(indices)
        similarity, loss = rng.random(count, np.float32), scale * rng.exponential(size=count)
        heads = {"probability": rng.random((count, modalities + 1), np.float32)} if rng.random() < 0.8 else {}
        measure(table, step, indices, similarity=similarity, loss=loss, **heads)
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


def validation(
    step: int, loss: float, accuracy: float, accuracies: Sequence[float], probabilities: Sequence[float]
) -> ValidationReport:
    """A report on heads that are called m0, m1, …, by their accuracies and mean true-label probabilities."""
    heads = zip(accuracies, probabilities, strict=True)
    modalities = {f"m{k}": ModalityReport(accuracy=a, probability=p) for k, (a, p) in enumerate(heads)}
    return ValidationReport(step=step, loss=loss, accuracy=accuracy, modalities=modalities)


def decision(first_step: int, end_step: int, **fields: object) -> Decision:
    """A decision of the policy `fixed` to shuffle plainly, of which no report tells yet."""
    made = {
        "epoch": 0,
        "policy": "fixed",
        "policy_version": 1,
        "observation": Observation(np.zeros(len(FIELDS), np.float32), first_step, 0),
        "action": Action(),
        "propensity": 1.0,
        "detail": {},
    }
    return Decision(first_step=first_step, end_step=end_step, **{**made, **fields})


@st.composite
def calendars(draw: st.DrawFn, samples: int = 12) -> Calendar:
    """Any calendar of a small job, with intervals shorter and longer than the epoch."""
    n = draw(st.integers(1, samples))
    batch_size = draw(st.integers(1, n))
    interval = draw(st.none() | st.integers(1, 2 * n))
    return Calendar(n, batch_size, draw(st.sampled_from(["carry", "drop"])), interval)
