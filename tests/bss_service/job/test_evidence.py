"""Jobs whose plans leave samples out by their evidence: what always holds of a job holds of them too."""

from typing import Any

import numpy as np
import pytest

from bss_service.core.evidence.features import FIELDS, MODALITY_FIELDS, SCHEMA_HASH
from bss_service.errors import InvalidValueError
from bss_service.job.job import Job
from bss_service.job.shown import views
from bss_service.job.snapshot import Snapshot, restore
from bss_service.policies import artefact
from bss_service.policies.artefact import JudgeArtefact
from bss_service.protocol.jobs import JobSpec
from bss_service.protocol.training import Batches, Feedback
from tests.conftest import Trainer, replayed
from tests.support.mislabelled import LABELS, SAMPLES, TRUTH, WRONG, fields, measured, report

EPOCH = SAMPLES // 8


def trained(epochs: int, trainer: Trainer | None = None, **changes: Any) -> Trainer:
    """A trainer after some epochs."""
    trainer = trainer or Trainer(job=Job(JobSpec(name="run", **fields(**changes))))
    calendar = trainer.job.calendar
    for step in range(trainer.job.served, trainer.job.served + epochs * EPOCH):
        trainer.take()
        every = measured(trainer.batches[step], calendar.epoch_of(step))
        values = {name: array for name, array in every.items() if name in trainer.job.signals}
        trainer.send(Feedback(step=np.array([step]), **{name: array[None] for name, array in values.items()}))
        if calendar.epoch_of(step + 1) > calendar.epoch_of(step):
            trainer.validate(report(step + 1))
    return trainer


def epoch(trainer: Trainer, number: int) -> Batches:
    return trainer.job.batches(number * EPOCH, (number + 1) * EPOCH)


def test_wrong_labels_come_as_probes_of_weight_0_and_the_right_ones_in_their_place() -> None:
    batches = epoch(trained(5), 4)
    assert batches.weights is not None
    is_probe = batches.weights == 0
    assert is_probe.sum() == 11  # 12 % of 96
    assert WRONG[batches.indices[is_probe]].mean() > 0.9
    assert WRONG[batches.indices[~is_probe]].mean() < 0.05
    np.testing.assert_allclose(batches.weights.mean(axis=1), 1, rtol=1e-6)


def test_until_it_starts_an_epoch_has_every_sample_once() -> None:
    trainer = trained(2)
    for number in range(2):
        assert sorted(epoch(trainer, number).indices.reshape(-1)) == list(range(SAMPLES))
        assert epoch(trainer, number).weights is None


def test_a_trainer_that_weighs_nothing_gets_no_probes() -> None:
    batches = epoch(trained(5, weighted=False), 4)
    assert batches.weights is None
    assert WRONG[batches.indices].mean() < 0.05


def judge_of_heads() -> JudgeArtefact:
    """One that believes all labels, and thinks a modality wrong whose head does not predict the label."""
    manifest = {"format": "bss-judge/1", "name": "heads", "feature_schema": SCHEMA_HASH, "label": [], "modality": []}
    weight = np.zeros((1, len(FIELDS) + len(MODALITY_FIELDS)), np.float32)
    weight[0, len(FIELDS) + MODALITY_FIELDS.index("predicts_label")] = -20
    numbers = {
        "label_0.weight": np.zeros((3, len(FIELDS)), np.float32),
        "label_0.bias": np.array([9, 0, 0], np.float32),
        "modality_0.weight": weight,
        "modality_0.bias": np.array([10], np.float32),
    }
    return artefact.read_judge(artefact.write(manifest, numbers))


def test_losses_of_heads_that_a_judge_disbelieves_are_masked_and_the_joint_one_with_them() -> None:
    judge = judge_of_heads()
    policy = {"name": "evidence", "parameters": {"judge": judge.sha256, "start": 2, "ramp": 1, "wrong_pairs": "mask"}}
    trainer = Trainer(job=Job(JobSpec(name="run", **fields(policy=policy)), {judge.sha256: judge}))
    batches = epoch(trained(4, trainer), 3)
    assert batches.weights is None
    assert batches.modality_weights is not None
    dynamics = trainer.job.table.dynamics
    assert dynamics is not None
    predicts = dynamics.predicted_class[batches.indices] == LABELS[batches.indices][:, :, None]
    np.testing.assert_array_equal(batches.modality_weights[:, :, :2], predicts)
    np.testing.assert_array_equal(batches.modality_weights[:, :, 2], predicts.all(axis=2))
    again = Job(JobSpec(name="run", **fields(policy=policy)), {judge.sha256: judge})
    assert replayed(again, trainer.journal) == trainer.state()


@pytest.mark.parametrize("weighted", [True, False])
def test_the_journal_alone_gives_the_same_plans_weights_and_state(weighted: bool) -> None:
    trainer = trained(5, weighted=weighted)
    job = Job(JobSpec(name="run", **fields(weighted=weighted)))
    assert replayed(job, trainer.journal) == trainer.state()


def test_a_job_that_is_restored_in_the_middle_goes_on_as_if_nothing_had_been() -> None:
    trainer = trained(4)
    again = Trainer(job=restore(Snapshot.from_frame(trainer.state())))
    again.batches = dict(trainer.batches)
    expected, got = (epoch(trained(1, each), 4).to_frame() for each in (trainer, again))
    assert expected == got
    assert again.state() == trainer.state()


def test_a_swap_within_an_epoch_draws_only_what_is_left_of_it_anew() -> None:
    trainer = trained(4, policy={"name": "uniform"})
    trainer.take(3)
    before = trainer.job.batches(4 * EPOCH, 4 * EPOCH + 3)
    trainer.swap("evidence", at="now", start=1, ramp=1)
    trainer.take(EPOCH - 3)
    whole = epoch(trainer, 4)
    np.testing.assert_array_equal(whole.indices[:3], before.indices)
    assert whole.weights is not None
    assert (whole.weights[:3] == 1).all()
    trained_on = whole.indices[3:][whole.weights[3:] > 0].tolist()
    seen = set(before.indices.reshape(-1).tolist())
    new = set(trained_on) - seen
    assert new
    assert set(trained_on[: len(new)]) == new  # before any comes a second time


# Where signals of evidence are missing.

LOSS: dict[str, Any] = {"signals": ["loss"]}
PAPER: dict[str, Any] = {"signals": ["similarity", "loss", "probability"]}


@pytest.mark.parametrize("few", [LOSS, PAPER])
def test_a_job_of_few_signals_leaves_wrong_labels_out_by_what_there_is(few: dict[str, Any]) -> None:
    trainer = trained(5, **few)
    batches = epoch(trainer, 4)
    assert batches.weights is not None
    is_probe = batches.weights == 0
    assert is_probe.any()
    assert WRONG[batches.indices[is_probe]].mean() > 0.9
    assert WRONG[batches.indices[~is_probe]].mean() < 0.1
    assert not any(decision.failed for decision in trainer.job.history.decisions)
    assert replayed(Job(trainer.job.spec), trainer.journal) == trainer.state()
    told = views.state(trainer.job).evidence
    assert told is not None
    assert told.wrong_labels.low <= WRONG.mean() <= told.wrong_labels.high
    assert (told.wrong_pairs.low, told.wrong_pairs.high) == (0, 1)  # nothing is known of them


def test_only_the_policy_that_acts_on_it_makes_few_signals_evidence() -> None:
    """What other policies see of such a job is what it was."""
    trainer = trained(3, **PAPER)
    assert trainer.job.observe()["has_evidence"] == 1
    assert trainer.job.reads_evidence
    trainer.swap("learned", at="next_interval")
    assert trainer.job.observe()["has_evidence"] == 0
    assert not trainer.job.reads_evidence
    trained(1, trainer)
    assert trainer.job.history.decisions[-1].observation["has_evidence"] == 0


@pytest.mark.parametrize(
    ("few", "parameters", "shadow", "words"),
    [
        ({"signals": ["similarity"]}, {}, False, "policy 'evidence' needs the signal loss, which"),
        (PAPER, {"wrong_pairs": "mask"}, False, "policy 'evidence' needs the signal summed_probability and margin"),
        (PAPER, {}, True, "policy 'evidence' needs as a shadow the signal summed_probability"),
    ],
)
def test_what_cannot_work_at_all_is_refused_by_name(
    few: dict[str, Any], parameters: dict[str, Any], shadow: bool, words: str
) -> None:
    trainer = Trainer(job=Job(JobSpec(name="run", **fields(policy={"name": "uniform"}, **few))))
    with pytest.raises(InvalidValueError, match=words):
        trainer.swap("evidence", "next_interval", shadow=shadow, **parameters)


# What is told of it.


def test_suspects_are_those_whose_labels_are_wrong() -> None:
    job = trained(5).job
    listed = views.samples(job, job.judging()(), "label", 20)
    assert [row.evidence is not None for row in listed.samples] == [True] * 20
    assert WRONG[[row.index for row in listed.samples]].mean() >= 0.95
    first = listed.samples[0]
    assert first.evidence is not None
    assert first.evidence.label == LABELS[first.index]
    assert first.evidence.likeliest == TRUTH[first.index]
    assert set(first.evidence.predicted) == {"audio", "video"}
    rights = [row.evidence.right for row in listed.samples if row.evidence is not None]
    assert rights == sorted(rights)
    assert listed.known == SAMPLES


def test_samples_are_listed_by_loss_and_by_draws() -> None:
    job = trained(5).job
    by_loss = views.samples(job, None, "loss", 5).samples
    assert [row.loss for row in by_loss] == sorted(job.table.latest["loss"].tolist(), reverse=True)[:5]
    by_draws = views.samples(job, None, "draws", SAMPLES).samples
    assert [row.draws for row in by_draws] == sorted(job.table.times_measured.tolist(), reverse=True)


def test_a_job_without_the_signals_of_evidence_says_which_it_lacks() -> None:
    job = Trainer().job
    with pytest.raises(InvalidValueError, match=r"order must be loss or draws: job 'run' declares .* evidence needs"):
        views.samples(job, job.judging()(), "label", 5)


def test_the_state_tells_the_estimated_shares_and_the_weak_modality() -> None:
    told = views.state(trained(5).job).evidence
    assert told is not None
    assert told.wrong_labels.low <= WRONG.mean() <= told.wrong_labels.high
    assert told.wrong_labels.low < told.wrong_labels.share < told.wrong_labels.high
    assert told.weakest_modality == "video"
    assert told.left_out == pytest.approx(WRONG.sum(), abs=2)
    assert views.state(Trainer().job).evidence is None


def test_what_is_told_does_not_change_over_a_snapshot() -> None:
    job = trained(5).job
    again = restore(Snapshot.from_frame(Trainer(job=job).state()))
    assert views.samples(job, job.judging()(), "label", 9) == views.samples(again, again.judging()(), "label", 9)
