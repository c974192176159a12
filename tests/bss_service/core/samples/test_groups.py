"""How often groups of samples come: the shares, and what is drawn by them."""

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2

from bss_service.core.action import Action, Coverage
from bss_service.core.calendar import Calendar
from bss_service.core.samples.groups import Groups
from bss_service.core.samples.table import SampleTable
from bss_service.core.sampling import Drawn, draw_plan
from tests.bss_service.core.worlds import empty, scored

SIZES = (70, 20, 9, 1)
NAMES = ("common", "usual", "rare", "single")
ROWS = 8000
FIRST_OF = np.repeat(np.arange(len(SIZES)), SIZES).astype(np.uint16)


def grouped(table: SampleTable | None = None) -> SampleTable:
    """A table of samples in groups of these sizes, the first of them all in the first group."""
    table = table or empty(sum(SIZES))
    table.groups = Groups(FIRST_OF, NAMES)
    return table


def draw(action: Action, table: SampleTable | None = None, rows: int = ROWS, seed: int = 0) -> Drawn:
    table = table or grouped()
    calendar = Calendar(len(table), 10, "carry", None)
    return draw_plan(calendar, 0, rows // 10, action, table, np.zeros(len(table), np.bool_), seed)


def shares_of(drawn: Drawn) -> np.ndarray:
    return np.bincount(FIRST_OF[drawn.indices], minlength=len(SIZES)) / len(drawn.indices)


def assert_agrees(drawn: Drawn, expected: np.ndarray) -> None:
    """By χ² at odds of one in a million, and with none of what is not to come."""
    got = shares_of(drawn)
    there = expected > 0
    assert (got[~there] == 0).all()
    distance = len(drawn.indices) * ((got - expected)[there] ** 2 / expected[there]).sum()
    assert distance < chi2.isf(1e-6, max(1, there.sum() - 1))


def temperature(beta: float) -> np.ndarray:
    """mT5's sampling of languages, by its formula: p ∝ |L|^α, α = 1 − β."""
    powers = np.array(SIZES) ** (1 - beta)
    return powers / powers.sum()


@pytest.mark.parametrize("coverage", ["draw", "subset"])
@pytest.mark.parametrize("beta", [0.3, 0.7, 1.0])
def test_groups_come_by_the_temperature_of_their_sizes(coverage: Coverage, beta: float) -> None:
    assert_agrees(draw(Action(coverage=coverage, group_balance=beta)), temperature(beta))


@pytest.mark.parametrize("coverage", ["draw", "subset"])
@pytest.mark.parametrize(
    ("mixture", "beta", "expected"),
    [
        ({"common": 0.1, "usual": 0.2, "rare": 0.3, "single": 0.4}, 0.0, (0.1, 0.2, 0.3, 0.4)),
        ({"rare": 0.5}, 0.0, (0.5 * 70 / 91, 0.5 * 20 / 91, 0.5, 0.5 * 1 / 91)),
        ({"rare": 0.4}, 1.0, (0.2, 0.2, 0.4, 0.2)),
        ({"common": 0.25, "usual": 0.75}, 0.0, (0.25, 0.75, 0, 0)),
        ({"common": 0.0}, 0.0, (0, 20 / 30, 9 / 30, 1 / 30)),
    ],
)
def test_a_mixture_is_drawn_as_it_says(
    coverage: Coverage, mixture: Mapping[str, float], beta: float, expected: tuple[float, ...]
) -> None:
    drawn = draw(Action(coverage=coverage, mixture=mixture, group_balance=beta))
    assert_agrees(drawn, np.array(expected))


@pytest.mark.parametrize("coverage", ["draw", "subset"])
def test_within_a_group_samples_come_by_their_own_weights(coverage: Coverage) -> None:
    table = grouped(scored([0.0] * 99 + [1.0], [1.0 * (k % 2) for k in range(100)]))
    drawn = draw(Action(kappa_loss=1, coverage=coverage, mixture={"common": 0.5}), table)
    assert shares_of(drawn)[0] == pytest.approx(0.5, abs=0.02)
    first = np.bincount(drawn.indices[FIRST_OF[drawn.indices] == 0] % 2)
    odds = np.e if coverage == "draw" else 1  # a pass over a group has all of it
    assert first[0] / first[1] == pytest.approx(odds, rel=0.1)


def test_what_a_row_tells_is_the_probability_of_its_draw() -> None:
    drawn = draw(Action(coverage="draw", group_balance=1.0))
    told = {int(i): float(p) for i, p in zip(drawn.indices, drawn.probabilities, strict=True)}
    assert told[99] == pytest.approx(0.25)
    assert told[int(drawn.indices[FIRST_OF[drawn.indices] == 0][0])] == pytest.approx(0.25 / 70)


def test_under_subset_a_group_is_passed_through_before_any_of_it_comes_again() -> None:
    drawn = draw(Action(coverage="subset", group_balance=1.0), rows=500)
    for group, size in enumerate(SIZES):
        own = drawn.indices[FIRST_OF[drawn.indices] == group]
        for start in range(0, len(own), size):
            a_pass = own[start : start + size]
            assert len(np.unique(a_pass)) == len(a_pass)


def test_under_subset_the_share_is_kept_first_and_mixed_then() -> None:
    table = grouped(scored([1.0 * (k % 2) for k in range(100)], [0.5] * 100))
    drawn = draw(Action(coverage="subset", share=0.5, group_balance=1.0), table)
    assert (drawn.indices % 2 == 1).all()
    assert_agrees(drawn, np.full(4, 0.25))  # the single one is number 99


def test_under_epoch_every_sample_comes_once_and_the_first_by_the_mixture() -> None:
    first = []
    for seed in range(1000):
        drawn = draw(Action(mixture={"single": 0.4, "rare": 0.3, "usual": 0.2, "common": 0.1}), rows=100, seed=seed)
        if seed < 5:
            assert sorted(drawn.indices.tolist()) == list(range(100))
        first.append(FIRST_OF[drawn.indices[0]])
    counts, expected = np.bincount(first, minlength=4), 1000 * np.array([0.1, 0.2, 0.3, 0.4])
    assert ((counts - expected) ** 2 / expected).sum() < chi2.isf(1e-6, 3)


@pytest.mark.parametrize("coverage", ["epoch", "draw", "subset"])
def test_groups_that_nothing_weighs_change_nothing(coverage: Coverage) -> None:
    plain = draw(Action(coverage=coverage, kappa_loss=1), empty(100), rows=500)
    with_groups = draw(Action(coverage=coverage, kappa_loss=1), grouped(), rows=500)
    assert with_groups.indices.tobytes() == plain.indices.tobytes()
    assert with_groups.probabilities.tobytes() == plain.probabilities.tobytes()


WEIGHTS = st.lists(st.floats(-700, 700) | st.just(-np.inf), min_size=1, max_size=30)


@given(WEIGHTS, st.floats(0, 1), st.dictionaries(st.sampled_from(NAMES), st.floats(0, 0.25)), st.integers(0, 99))
def test_shares_and_weights_agree_whatever_the_weights(
    weights: list[float], beta: float, mixture: dict[str, float], seed: int
) -> None:
    logs = np.array(weights)
    groups = Groups(np.random.default_rng(seed).integers(0, 4, len(weights)).astype(np.uint16), NAMES)
    shares = groups.shares(logs, beta, mixture)
    assert shares.sum() == pytest.approx(1)
    assert (shares >= 0).all()
    mixed = groups.mixed(logs, beta, mixture)
    p = np.exp(mixed - mixed.max())
    assert np.bincount(groups.numbers, p / p.sum(), 4) == pytest.approx(shares, abs=1e-9)


def test_as_many_groups_as_there_may_be_are_drawn_at_once() -> None:
    samples = 2**16
    table = SampleTable.empty(samples, empty(1).signals)
    table.groups = Groups(np.arange(samples, dtype=np.uint16), tuple(map(str, range(samples))))
    assert table.groups.numbers.nbytes == 2 * samples
    drawn = draw(Action(coverage="subset", group_balance=1.0), table, rows=1000)
    assert len(np.unique(drawn.indices)) > 980


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"group_balance": 1.5}, r"group_balance must lie in \[0, 1\], got 1.5"),
        ({"mixture": {"a": 0.7, "b": 0.5}}, "mixture must have a sum of at most 1, got 1.2"),
        ({"mixture": {"a": -0.1}}, r"mixture must hold shares in \[0, 1\] by name, got -0.1 of 'a'"),
        ({"mixture": {"a": float("nan")}}, "mixture must hold shares"),
        ({"mixture": {str(k): 0.0 for k in range(257)}}, "at most 256 groups"),
        ({"mixture": [0.5, 0.5]}, "mixture must be the shares of at most 256 groups by name"),
    ],
)
def test_an_action_that_weighs_no_groups_so_is_refused(fields: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Action(**fields)  # type: ignore[arg-type]
