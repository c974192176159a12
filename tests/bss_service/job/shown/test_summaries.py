"""What is shown of all of a job at once is what stands in its history and its table."""

from typing import Any

import numpy as np
import pytest

from bss_service.core.action import RANGES
from bss_service.core.observation import FIELDS
from bss_service.job.history import BLOCK, History, Past
from bss_service.job.shown import summaries
from bss_service.job.shown.summaries import DecisionColumns, Summaries, state_of
from bss_service.protocol.jobs import RewardSpec, SeriesAnswer
from tests.bss_service.core.worlds import decision
from tests.conftest import Trainer
from tests.support.mislabelled import SAMPLES, fields
from tests.support.simulated import report


def lines(trainer: Trainer, of: Any, points: int = 2000) -> SeriesAnswer:
    return summaries.series(trainer.job, of, points, None, DecisionColumns())


def by_name(answer: SeriesAnswer) -> dict[Any, list[float]]:
    return {(line.name, line.head): line.values.tolist() for line in answer.series}


@pytest.fixture
def trainer() -> Trainer:
    trained = Trainer("balance", samples=40)
    trained.train(45)
    return trained


def test_validation_is_shown_by_head_and_step(trainer: Trainer) -> None:
    answer = lines(trainer, "validation")
    reports = trainer.job.history.reports
    assert answer.x.tolist() == [r.step for r in reports] != []
    shown = by_name(answer)
    assert shown["accuracy", "joint"] == pytest.approx([r.accuracy for r in reports], abs=1e-6)
    assert shown["accuracy", "video"] == pytest.approx([r.modalities["video"].accuracy for r in reports], abs=1e-6)
    assert shown["probability", "audio"] == pytest.approx(
        [r.modalities["audio"].probability for r in reports], abs=1e-6
    )
    assert shown["loss", "joint"] == pytest.approx([r.loss for r in reports], abs=1e-6)


def test_decisions_are_shown_by_what_was_seen_and_set(trainer: Trainer) -> None:
    answer = lines(trainer, "decisions")
    decisions = trainer.job.history.decisions
    assert answer.x.tolist() == [d.first_step for d in decisions]
    shown = by_name(answer)
    seen = np.array([d.observation.vector for d in decisions])
    assert np.allclose(shown["measured_share", None], seen[:, FIELDS.index("measured_share")], atol=1e-6)
    for name in RANGES:
        assert np.allclose(shown[name, None], [getattr(d.action, name) for d in decisions], atol=1e-5)
    known = [d.reward for d in decisions if d.reward is not None]
    assert [r for r in shown["reward", None] if r == r] == pytest.approx(known, abs=1e-5)
    gains = [d.gain for d in decisions if d.gain is not None]
    assert [g for g in shown["gain", None] if g == g] == pytest.approx(gains, abs=1e-5)
    assert len(gains) > 0
    assert next(line.unit for line in answer.series if line.name == "gain") == "nat"  # the metric is the loss
    assert np.isnan(shown["right_labels", None]).all()  # it has no evidence
    losses = [d.observation["training_loss"] for d in decisions]
    assert np.allclose(shown["training_loss", None], [loss / (1 - loss) for loss in losses], atol=1e-4)


def test_swaps_and_shadows_stand_beside_them(trainer: Trainer) -> None:
    trainer.swap("uniform")
    trainer.swap("curriculum", at="next_interval", shadow=True)
    answer = lines(trainer, "validation")
    assert [(v.policy.name, v.first_step) for v in answer.versions] == [("balance", 0), ("uniform", 45)]
    assert [(v.policy.name, v.shadow) for v in answer.shadows] == [("curriculum", True)]


def test_however_long_the_run_the_points_are_few(trainer: Trainer) -> None:
    answer = lines(trainer, "decisions", points=2)
    assert answer.rows == len(trainer.job.history.decisions) > 2
    assert len(answer.x) == 2
    assert all(len(line.values) == 2 for line in answer.series)


def test_decisions_that_have_left_memory_are_read_once() -> None:
    one, stored, asked = decision(0, 2), [decision(step, step + 1) for step in range(2 * BLOCK)], []
    history = History(RewardSpec(), [one], past=Past(total=BLOCK))
    history.recall = lambda start, stop: asked.append((start, stop)) or stored[start:stop]
    columns = DecisionColumns()
    assert columns.of(history)[0].tolist() == [*range(BLOCK), 0]
    history.decisions[0] = one.model_copy(update={"reward": 0.5, "rewarded_at": 7})
    history.past.total = 2 * BLOCK
    x, values = columns.of(history)
    assert x.tolist() == [*range(2 * BLOCK), 0]
    assert values[-1, 0] == 0.5
    assert asked == [(0, BLOCK), (BLOCK, 2 * BLOCK)]


def test_feedback_alone_changes_nothing_of_a_summary_but_a_plan_and_a_report_do(trainer: Trainer) -> None:
    trainer.take()
    before = state_of(trainer.job)
    trainer.feed(trainer.job.served - 1)
    assert state_of(trainer.job) == before
    trainer.validate(report(trainer.job.served))
    after = state_of(trainer.job)
    assert after != before
    trainer.take(12)
    assert state_of(trainer.job) != after


def test_a_summary_is_kept_as_long_as_its_state_lasts_and_its_tag_changes_with_it(trainer: Trainer) -> None:
    kept = Summaries()
    answer = lines(trainer, "validation")
    first = kept.written("lines", 1, answer)
    kept.keep("lines", 1, first)
    assert kept.find("lines", 1) is first
    assert kept.find("lines", 2) is None
    assert kept.find("other", 1) is None
    assert kept.written("lines", 2, answer).tag != first.tag
    assert Summaries().written("lines", 1, answer).tag != first.tag  # after a restart the same state may be another


def test_coverage_staleness_and_density_count_every_sample() -> None:
    trainer = Trainer("uniform", samples=40)
    trainer.train(17)
    found = {one.name: one for one in summaries.histograms(trainer.job, None).histograms}
    table = trainer.job.table
    assert found["draws"].counts.sum() == 40
    drawn = np.bincount(table.times_measured)
    assert found["draws"].counts.tolist() == drawn.tolist()
    assert found["staleness"].unknown == int((table.last_step < 0).sum())
    assert found["staleness"].counts.sum() + found["staleness"].unknown == 40
    density = summaries.density(trainer.job)
    assert density.counts.sum() == int(table.measured.sum())
    assert set(found) == {"draws", "staleness", "similarity", "loss"}


def test_a_job_without_similarity_has_no_density_and_one_with_evidence_more_histograms() -> None:
    alone = Trainer("uniform", modalities=["text"])
    assert summaries.density(alone.job).counts.shape == (0, 0)
    trainer = Trainer("uniform", **{name: value for name, value in fields().items() if name != "policy"})
    names = [one.name for one in summaries.histograms(trainer.job, trainer.job.judging()()).histograms]
    assert {"right", "pair"} <= set(names)
    assert trainer.job.spec.samples == SAMPLES
