"""What a run is trained on: a part of a data set, with its labels as they are given."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from demo.plan import ORACLE, SAMPLES, Run
from trainer_client.reference.data import Dataset, corrupt

Flags = NDArray[np.bool_]
Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Samples:
    """The same samples twice: with their true labels, and with those that a trainer is given."""

    true: Dataset
    given: Dataset

    @property
    def wrong(self) -> Flags:
        """Whether the given label is wrong, of each training sample (n,)."""
        flags: Flags = (self.given.labels != self.true.labels)[self.true.indices("train")]
        return flags

    def trained(self, policy: str) -> Dataset:
        """What a run with the policy trains on."""
        return _right_alone(self.given, self.wrong) if policy == ORACLE else self.given


def samples_of(run: Run, dataset: Dataset) -> Samples:
    """The samples of a run from its whole data set; its policy does not matter."""
    true = _part(dataset, SAMPLES[run.condition.data], run.seed)
    return Samples(true, corrupt(true, noisy_labels=run.condition.noisy_labels, seed=run.seed).dataset)


def _part(dataset: Dataset, most: int | None, seed: int) -> Dataset:
    """With so many training samples at most, drawn at random."""
    training = dataset.indices("train")
    if most is None or most >= len(training):
        return dataset
    return dataset.with_training(np.sort(np.random.default_rng([seed, 1]).permutation(training)[:most]))


def _right_alone(given: Dataset, wrong: Flags) -> Dataset:
    """Those with right labels alone, repeated until they are as many as before: runs then take as many steps."""
    training = given.indices("train")
    return given.with_training(np.resize(training[~wrong], len(training)))
