import numpy as np
import pytest

from bss_service.core.observation import SCHEMAS
from bss_service.errors import InvalidValueError
from bss_service.job.snapshot import Snapshot, restore
from bss_service.policies.base import create_policy
from bss_service.policies.shipped import shipped_acting_policy, shipped_policy
from bss_service.policies.versions import check_policy
from bss_service.protocol.jobs import JobSpec
from bss_service.protocol.policies import PolicySpec
from bss_service.protocol.training import Feedback
from tests.conftest import Trainer
from tests.support.observations import observation


def test_the_artefacts_in_the_package_fit_the_code() -> None:
    assert {shipped_policy().manifest.observation_schema, shipped_acting_policy().manifest.observation_schema} <= {
        *SCHEMAS
    }


def test_it_acts_on_evidence_where_there_is_any_and_by_scores_where_there_is_none() -> None:
    policy = create_policy("learned", {"deterministic": True})
    choices = [policy.act(observation(3, has_evidence=known), np.random.default_rng(0)) for known in (0.0, 1.0)]
    assert [choice.detail["artefact"] for choice in choices] == [
        shipped_policy().sha256,
        shipped_acting_policy().sha256,
    ]
    assert [choice.action.belief > 0 for choice in choices] == [False, True]


def test_the_more_labels_seem_wrong_the_more_belief_it_asks_for() -> None:
    policy = create_policy("learned", {"deterministic": True})
    seen = [observation(3, has_evidence=1.0, progress=0.5, right_labels=share) for share in (0.95, 0.8, 0.6)]
    beliefs = [policy.act(each, np.random.default_rng(0)).action.belief for each in seen]
    assert beliefs == sorted(beliefs)
    assert 0.2 < beliefs[0] < beliefs[-1] < 0.9


def measure(trainer: Trainer, steps: int) -> None:
    """Train for so many steps, of which every signal of the job is measured."""
    for step in range(steps):
        trainer.take()
        values = np.sin(trainer.batches[step] + step)[None, :, None] / 2 + 0.5
        values = np.repeat(values, trainer.job.signals.width, axis=2).astype(np.float32)
        trainer.send(Feedback(step=np.array([step]), values=values))


@pytest.mark.parametrize("signals", [["loss"], ["loss", "probability"]], ids=" and ".join)
def test_where_signals_are_lacking_it_acts_on_what_evidence_there_is(signals: list[str]) -> None:
    """Beside it nothing: a decision has no part for which the job has no signal."""
    trainer = Trainer("learned", samples=24, unimodal_heads=False, signals=signals)
    measure(trainer, 18)
    decisions = trainer.job.history.decisions
    assert not any(decision.failed for decision in decisions)
    assert [decision.detail["artefact"] for decision in decisions] == [
        shipped_policy().sha256,  # before anything is measured
        shipped_acting_policy().sha256,
        shipped_acting_policy().sha256,
    ]
    for decision in decisions:
        action = decision.action
        assert (action.kappa_similarity, action.kappa_weak, action.wrong_pairs) == (0.0, 0.0, "keep")
        assert action.rank_by in ("loss", "weight")
    assert decisions[2].action.belief > 0
    restore(Snapshot.from_frame(trainer.state()))  # raises if it acts otherwise


def test_with_the_signals_that_it_ranks_by_it_sees_no_partial_evidence() -> None:
    trainer = Trainer("learned", samples=24)
    measure(trainer, 12)
    assert [decision.observation["has_evidence"] for decision in trainer.job.history.decisions] == [0.0, 0.0]
    assert any(decision.action.kappa_similarity for decision in trainer.job.history.decisions)


def test_a_job_without_losses_is_refused() -> None:
    with pytest.raises(InvalidValueError, match="policy 'learned' needs the signal loss"):
        check_policy(
            PolicySpec(name="learned"),
            JobSpec(name="run", samples=8, modalities=["a"], batch_size=4, signals=["similarity"]),
        )


def test_as_a_shadow_of_a_job_that_lacks_signals_it_is_refused() -> None:
    trainer = Trainer(samples=24, signals=["loss"])
    with pytest.raises(
        InvalidValueError, match="policy 'learned' needs as a shadow the signal similarity and probability"
    ):
        trainer.swap("learned", at="next_interval", shadow=True)


def test_the_deterministic_one_needs_no_chance() -> None:
    policy = create_policy("learned", {"deterministic": True})
    choices = [policy.act(observation(3), np.random.default_rng(seed)) for seed in (0, 1)]
    assert choices[0] == choices[1]
