import numpy as np
import pytest

from bss_service.policies.builtin.self_paced import SelfPaced
from bss_service.protocol.training import Feedback
from tests.conftest import Trainer


def test_the_samples_of_least_loss_are_admitted_and_ever_more_of_them() -> None:
    """In a world where each sample's loss stays what it is, the admitted are always the easiest."""
    trainer = Trainer("self_paced", samples=100, batch_size=10)
    losses = np.random.default_rng(0).permutation(100).astype(np.float32)
    for step in range(60):
        trainer.take()
        batch = trainer.batches[step]
        trainer.send(Feedback(step=np.array([step]), loss=losses[None, batch]))
    sizes = [len(set(epoch)) for epoch in trainer.epochs()]
    assert sizes == [100, *(int(100 * np.sqrt(0.75 / 20 * t + 0.25)) for t in range(2, 7))]
    for epoch in trainer.epochs():
        assert set(losses[epoch]) == set(range(len(set(epoch))))


@pytest.mark.parametrize("name", ["initial_share", "growth_epochs"])
def test_a_parameter_of_0_is_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        SelfPaced(**{name: 0})
