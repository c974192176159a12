"""InfoBatch, beside the paper's weights."""

import math

import numpy as np
import pytest
import torch

from tests.trainer_client.reference.rivals.worlds import Loader, Pair, heads, started
from trainer_client.exchange.prefetch import ScheduledBatch
from trainer_client.reference.rivals.samples.infobatch import InfoBatch

LOSSES = [1.0, 3.0, 1.0, 3.0, math.nan, math.nan]  # mean 2: samples 0 and 2 are learnt, 4 and 5 not known


def begun(rival: InfoBatch, epoch: int = 1, seed: int = 0, losses: list[float] = LOSSES) -> list[float]:
    """The weight of each sample in an epoch of four."""
    started(rival, seed=seed)
    rival.memory.update(epoch=epoch, losses=torch.tensor(losses))
    rival.on_epoch(Loader([], []))  # type: ignore[arg-type]
    weights: list[float] = rival.memory["weights"].tolist()
    return weights


def test_as_released_exactly_the_share_of_the_learnt_is_left_out() -> None:
    weights = begun(InfoBatch(prune=0.5, form="code"))
    assert sorted([weights[0], weights[2]]) == [0, 2]  # 1/(1 - .5)
    assert [weights[k] for k in (1, 3, 4, 5)] == [1] * 4


def test_as_released_what_is_kept_is_rounded_down() -> None:
    weights = begun(InfoBatch(prune=0.5, form="code"), losses=[1.0, 1.0, 1.0, 1.0, 1.0, 9.0])
    assert sorted(weights) == [0, 0, 0, 1, 2, 2]  # of five 2.5 are kept


def test_as_released_the_epochs_are_rounded_down() -> None:
    assert min(begun(InfoBatch(prune=0.999), epoch=3)) == 0  # 3 < .875 * 4
    assert min(begun(InfoBatch(prune=0.999, form="code"), epoch=2)) == 0
    assert begun(InfoBatch(prune=0.999, form="code"), epoch=3) == [1] * 6


def test_as_released_what_was_rescaled_last_stays_so_unless_the_epochs_are_a_whole_number() -> None:
    last = torch.tensor([2.0, 1.0, 0.0, 1.0, 1.0, 1.0])
    plain = [1.0] * 6
    for anneal, form, expected in [(0.875, "code", [2, 1, 1, 1, 1, 1]), (0.75, "code", plain), (0.6, "paper", plain)]:
        rival = started(InfoBatch(anneal=anneal, form=form))
        rival.memory.update(epoch=3, weights=last.clone())
        rival.on_epoch(Loader([], []))  # type: ignore[arg-type]
        assert rival.memory["weights"].tolist() == expected


def test_each_learnt_sample_counts_once_in_expectation() -> None:
    drawn = np.array([begun(InfoBatch(prune=0.6), seed=seed) for seed in range(300)])[:, [0, 2]]
    assert set(np.unique(drawn.round(6))) == {0, 2.5}
    assert abs(drawn.mean() - 1) < 0.2  # 600 draws of deviation 1.22: four of .05


def test_the_last_epochs_leave_nothing_out() -> None:
    assert begun(InfoBatch(anneal=0.5, form="code"), epoch=2) == [1] * 6


def test_what_is_left_out_is_not_trained_on_and_the_rest_is_rescaled() -> None:
    model, rival = Pair(), InfoBatch(unimodal_weight=0)
    started(rival, model).memory.update(weights=torch.tensor([0.0, 2, 1, 0, 1, 1]), losses=torch.full((6,), math.nan))
    rows = rival.rows(ScheduledBatch(0, np.array([3, 1, 2, 0]), 0, 1, 0))
    assert rows.tolist() == [1, 2]
    losses = rival.loss(heads(model, [[0.0, 0.0]] * 2, [[0.0, 0.0]] * 2, samples=[1, 2]), torch.tensor([0, 0]))
    assert losses.tolist() == pytest.approx([2 * math.log(2), math.log(2)])
    assert rival.memory["losses"][[1, 2]].tolist() == pytest.approx([math.log(2)] * 2)


def test_two_rows_are_always_left() -> None:
    rival = InfoBatch()
    started(rival).memory["weights"] = torch.zeros(6)
    assert rival.rows(ScheduledBatch(0, np.array([3, 1, 2]), 0, 1, 0)).tolist() == [0, 1]
    rival.memory["weights"][3] = 1.0
    assert rival.rows(ScheduledBatch(0, np.array([3, 1, 2]), 0, 1, 0)).tolist() == [0, 1]
    assert rival.rows(ScheduledBatch(0, np.array([1, 2, 3]), 0, 1, 0)).tolist() == [0, 2]
