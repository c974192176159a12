"""What a policy sees in the course of a made-up training run."""

from bss_service.core.action import Action
from bss_service.core.observation import FIELDS, Observation, observe
from tests.bss_service.core.worlds import empty, random_table, validation

ROUNDS = 12


def observation(epoch: int, **fields: float) -> Observation:
    """What is seen before an epoch: nothing before the first, then ever more. fields: are seen so instead."""
    seen = observe(
        random_table(20, 1, rounds=epoch) if epoch else empty(20),
        step=5 * epoch,
        epoch=epoch,
        steps_per_epoch=5,
        horizon=5 * ROUNDS,
        reports=[validation(5 * e, 2 / (e + 1), e / ROUNDS, (0.4, 0.6), (0.3, 0.5)) for e in range(1, epoch + 1)],
        previous=Action(kappa_loss=1.0) if epoch else None,
    )
    vector = seen.vector.copy()
    for name, value in fields.items():
        vector[FIELDS.index(name)] = value
    return Observation(vector, seen.step, seen.epoch)


def reward(epoch: int) -> float:
    """What an epoch earned: now more, now less, and ever larger."""
    return (-1) ** epoch * (0.1 + epoch / ROUNDS)
