import numpy as np

from bss_service.core import measurement
from bss_service.core.action import log_weights
from bss_service.core.sampling import normalised
from bss_service.policies.builtin.balance_code import BalanceCode
from tests.bss_service.core.worlds import empty, measure
from tests.conftest import Golden, Trainer
from tests.support.observations import observation


def test_probabilities_are_those_of_the_published_code(golden: Golden) -> None:
    """From logits through the sample table, with an older measurement that must not matter."""
    n = len(golden.labels)
    unimodal = measurement.log_softmax(golden.unimodal, np)
    loss = measurement.multimodal_loss(
        measurement.log_softmax(golden.joint, np),
        unimodal,
        golden.labels,
        np,
        joint_weight=golden.joint_weight,
        unimodal_weight=golden.unimodal_weight,
    )
    action = BalanceCode().act(observation(1), np.random.default_rng(0)).action
    table = empty(n)
    measure(table, 0, range(n), similarity=loss, loss=loss[::-1])
    table.refresh(action.ema)
    measure(table, 1, range(n), similarity=measurement.similarity(np.exp(unimodal), np), loss=loss)
    table.refresh(action.ema)
    np.testing.assert_allclose(normalised(log_weights(action, table)), golden.probabilities, rtol=1e-5)


def test_every_sample_comes_once_an_epoch() -> None:
    trainer = Trainer("balance_code", samples=20, batch_size=5)
    trainer.train(12)
    assert [sorted(epoch) for epoch in trainer.epochs()] == [list(range(20))] * 3
