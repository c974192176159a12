import numpy as np

from bss_service.core.action import Action, log_weights
from bss_service.policies.builtin.uniform import Uniform
from tests.bss_service.core.worlds import scored
from tests.conftest import Trainer
from tests.support.observations import observation


def test_every_sample_weighs_the_same_whatever_its_scores() -> None:
    action = Uniform().act(observation(3), np.random.default_rng(0)).action
    assert action == Action()
    assert log_weights(action, scored([0.1, 0.9], [1, 2])).tolist() == [0, 0]


def test_every_sample_comes_once_an_epoch() -> None:
    trainer = Trainer("uniform", samples=10, batch_size=5)
    trainer.train(6)
    assert [sorted(epoch) for epoch in trainer.epochs()] == [list(range(10))] * 3
