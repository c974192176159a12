import numpy as np
import pytest

from bss_service.core.action import Action, admitted
from bss_service.core.observation import FIELDS, Observation
from bss_service.policies.builtin.curriculum import Curriculum
from bss_service.protocol.training import Scores
from tests.bss_service.core.worlds import scored
from tests.conftest import Golden, Trainer


def action(policy: Curriculum, epoch: int) -> Action:
    all_measured = np.ones(len(FIELDS), np.float32)
    return policy.act(Observation(all_measured, 0, epoch), np.random.default_rng(0)).action


def scores(samples: int) -> Scores:
    """A measuring pass in which sample 0 is the most balanced and the last one the least."""
    return Scores(
        indices=np.arange(samples),
        similarity=np.linspace(1, 0, samples, dtype=np.float32),
        loss=np.linspace(0, 1, samples, dtype=np.float32),
    )


def test_the_share_is_the_pacing_of_the_published_code(golden: Golden) -> None:
    shares = [action(Curriculum(), epoch).share for epoch in range(60)]
    np.testing.assert_allclose(shares, golden.pacing, rtol=1e-5)


def test_the_head_of_the_published_ranking_is_admitted(golden: Golden) -> None:
    n = len(golden.order)
    table = scored([0.0] * n, [0.0] * n)
    table.first_score[golden.order] = np.linspace(1, -1, n)
    for epoch in (0, 10, 30):
        kept = int(n * golden.pacing[epoch])
        assert admitted(action(Curriculum(), epoch), table).tolist() == sorted(golden.order[:kept].tolist())


def test_after_a_measuring_pass_the_first_epoch_uses_the_most_balanced_18_per_cent() -> None:
    trainer = Trainer("curriculum", samples=100, batch_size=10)
    trainer.measure(scores(100))
    trainer.take(10)
    assert set(trainer.epochs()[0]) == set(range(18))


def test_reversed_it_uses_the_least_balanced() -> None:
    trainer = Trainer("curriculum", parameters={"reverse": True}, samples=100, batch_size=10)
    trainer.measure(scores(100))
    trainer.take(10)
    assert set(trainer.epochs()[0]) == set(range(82, 100))


def test_without_a_measuring_pass_the_first_epoch_uses_all_and_ranks_by_what_it_measured() -> None:
    trainer = Trainer("curriculum", samples=100, batch_size=10)
    trainer.train(20)
    first, second = trainer.epochs()
    assert sorted(first) == list(range(100))
    ranking = np.argsort(-trainer.job.table.first_score, kind="stable")
    assert set(second) == set(ranking[:24].tolist())  # λ(2) = .2438


def test_the_ranking_is_made_once() -> None:
    trainer = Trainer("curriculum", samples=100, batch_size=10)
    trainer.measure(scores(100))
    trainer.train(40)
    kept = [set(epoch) for epoch in trainer.epochs()]
    assert all(epoch == set(range(len(epoch))) for epoch in kept)


@pytest.mark.parametrize("name", ["initial_share", "growth_epochs"])
def test_a_parameter_of_0_is_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        Curriculum(**{name: 0})
