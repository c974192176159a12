from dataclasses import astuple

import numpy as np
import pytest

from bss_service.core.action import Action
from bss_service.core.samples.table import SampleTable
from envs.research.training.teacher import advice, importance
from envs.tasks import Lesson, Part
from tests.bss_service.core.worlds import empty, scored

N = 200
NOBODY = Part((), np.zeros(0, np.int64))


def lesson(wrong_label: np.ndarray, wrong_pair: np.ndarray) -> Lesson:
    clean, wrong_modality = ~(wrong_label | wrong_pair), np.stack([np.zeros_like(wrong_pair), wrong_pair], axis=1)
    return Lesson(NOBODY, NOBODY, NOBODY, 2, 0.1, clean, wrong_label, NOBODY.labels, wrong_modality)


def world(wrong_label: float = 0.0, wrong_pair: float = 0.0) -> tuple[SampleTable, Lesson]:
    """Wrong labels have higher losses, and wrong pairs heads that disagree; with some overlap."""
    rng = np.random.default_rng(0)
    label, pair = rng.random(N) < wrong_label, rng.random(N) < wrong_pair
    loss = rng.uniform(0, 1, N) + 1.0 * label
    similarity = rng.uniform(0.4, 1, N) - 0.4 * pair
    heads = np.stack([np.where(pair, 0.1, 0.8), np.full(N, 0.8), np.full(N, 0.7)], axis=1)
    return scored(similarity.tolist(), loss.tolist(), heads.tolist()), lesson(label, pair)


def test_nothing_is_left_out_of_clean_samples_nor_before_anything_is_measured() -> None:
    table, clean = world()
    assert advice(table, clean, 1.0).share == 1.0
    _, harmed = world(wrong_label=0.4)
    assert advice(empty(N), harmed, 1.0).share == 1.0


@pytest.mark.parametrize(("label", "pair"), [(0.4, 0.0), (0.0, 0.4), (0.3, 0.2)])
def test_what_is_harmed_is_ranked_last_and_left_out(label: float, pair: float) -> None:
    table, harmed = world(label, pair)
    action = advice(table, harmed, 1.0)
    assert harmed.clean.mean() - 0.1 < action.share < 1.0
    assert action.coverage == "subset"


def test_wrong_labels_are_told_by_the_loss_and_wrong_pairs_by_the_heads() -> None:
    by_loss, by_heads = advice(*world(wrong_label=0.4), 1.0), advice(*world(wrong_pair=0.4), 1.0)
    assert by_loss.kappa_loss > by_heads.kappa_loss
    assert by_heads.kappa_similarity - by_heads.kappa_weak > by_loss.kappa_similarity - by_loss.kappa_weak


def test_samples_are_left_out_step_by_step() -> None:
    shares = [advice(*world(wrong_label=0.4), progress).share for progress in (0.0, 0.2, 0.3, 0.5, 1.0)]
    assert shares[0] == 1.0
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] == shares[-2] < shares[1]


def test_the_run_s_own_table_is_left_as_it_is() -> None:
    table, harmed = world(wrong_label=0.4)
    before = table.copy()
    advice(table, harmed, 1.0)
    np.testing.assert_equal(astuple(table)[1:], astuple(before)[1:])


def test_a_ranking_that_nothing_depends_on_hardly_matters() -> None:
    whole, part = importance(Action(share=1.0)), importance(Action(share=0.5))
    assert (whole[:3] < part[:3]).all()
    assert (whole > 0).all()
