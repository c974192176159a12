import numpy as np
import pytest

from bss_service.core.action import Action, log_weights
from bss_service.core.sampling import normalised
from bss_service.policies.builtin.balance import Balance
from tests.bss_service.core.worlds import empty, measure
from tests.conftest import Trainer
from tests.support.observations import observation

RNG = np.random.default_rng(0)


def acts(policy: Balance, epochs: int) -> list[Action]:
    return [policy.act(observation(epoch), RNG).action for epoch in range(epochs)]


def test_probabilities_are_those_of_the_paper() -> None:
    """ŝ ← (1 − β)·ŝ + β·s and p = e^ŝ / Σ e^ŝ, by hand over two refreshes of three samples."""
    table = empty(3)
    for step, (similarity, loss) in enumerate([([0.2, 0.4, 0.6], [3, 2, 1]), ([0.9, 0.1, 0.5], [1, 5, 3])]):
        measure(table, step, range(3), similarity=similarity, loss=loss)
        action = Balance(ema=0.6).act(observation(step + 1), RNG).action
        table.refresh(action.ema)
    # s is (−1, 0, 1) first, and then (1, −1, 0).
    averaged = 0.4 * np.array([-1, 0, 1]) + 0.6 * np.array([1, -1, 0])
    expected = np.exp(averaged) / np.exp(averaged).sum()
    np.testing.assert_allclose(normalised(log_weights(action, table)), expected, rtol=1e-6)


def test_before_anything_was_measured_every_sample_comes_once() -> None:
    trainer = Trainer("balance", samples=20, batch_size=5)
    trainer.train(4)
    assert sorted(trainer.epochs()[0]) == list(range(20))


def test_it_draws_with_replacement_unless_told_otherwise() -> None:
    assert acts(Balance(), 3)[-1] == Action(kappa_similarity=1, kappa_loss=1, ema=0.6, coverage="draw")


@pytest.mark.parametrize("coverage", ["epoch", "subset", "draw"])
def test_how_it_draws_is_its_parameter(coverage: str) -> None:
    action = acts(Balance(coverage=coverage, share=0.5), 2)[-1]
    assert (action.coverage, action.share) == (coverage, 0.5)


@pytest.mark.parametrize(("every", "refreshed"), [(1, [1, 2, 3, 4, 5, 6, 7]), (2, [1, 3, 5, 7]), (3, [1, 4, 7])])
def test_scores_are_refreshed_every_few_intervals_from_the_first_with_scores_on(
    every: int, refreshed: list[int]
) -> None:
    rates = [action.ema for action in acts(Balance(refresh_every=every), 8)]
    assert [epoch for epoch in range(1, 8) if rates[epoch] == 0.6] == refreshed
    assert set(rates) <= {0.6, 0.0}


@pytest.mark.parametrize(("name", "value"), [("ema", 0), ("refresh_every", 0), ("coverage", "all"), ("share", 1.5)])
def test_a_wrong_parameter_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name):
        Balance(**{name: value})
