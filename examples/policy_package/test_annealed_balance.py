"""`pytest` here, with this package installed beside bss-scheduler."""

import numpy as np
import pytest
from annealed_balance import AnnealedBalance

from bss_service.core.action import Action
from bss_service.core.observation import FIELDS, Observation
from bss_service.testing import PolicyContract, ServiceProcess
from trainer_client import JobSpec, SchedulerClient


class TestAnnealedBalance(PolicyContract):
    """What every policy owes the service."""

    policy = AnnealedBalance


def action(policy: AnnealedBalance, *, epoch: int, plateau: float = 0.0, measured_share: float = 1.0) -> Action:
    """What the policy does at an observation."""
    vector = np.zeros(len(FIELDS), np.float32)
    vector[FIELDS.index("plateau")], vector[FIELDS.index("measured_share")] = plateau, measured_share
    return policy.act(Observation(vector, step=10 * epoch, epoch=epoch), np.random.default_rng(0)).action


def test_it_shuffles_plainly_until_it_is_warm_and_has_scores() -> None:
    policy = AnnealedBalance(warm_up=2)
    assert action(policy, epoch=1) == Action()
    assert action(policy, epoch=2, measured_share=0.0) == Action()
    assert action(policy, epoch=2) != Action()


@pytest.mark.parametrize(("reports", "strength"), [(0, 3.0), (5, 1.5), (10, 1.0)])
def test_its_preference_fades_with_reports_that_are_no_better(reports: int, strength: float) -> None:
    chosen = action(AnnealedBalance(strength=3.0), epoch=5, plateau=reports / (reports + 5))
    assert chosen.kappa_similarity == chosen.kappa_loss == pytest.approx(strength)


def test_it_needs_what_a_balance_score_is_made_of() -> None:
    assert set(AnnealedBalance().needs()) == {"similarity", "loss"}


def test_a_service_swaps_to_it() -> None:
    with ServiceProcess() as service, SchedulerClient(service.url) as client:
        client.create_job(JobSpec(name="run", samples=8, modalities=["audio", "video"], batch_size=2))
        answer = client.swap("run", "annealed_balance", {"strength": 1.0})
    assert (answer.policy.name, answer.policy.parameters["strength"]) == ("annealed_balance", 1.0)
