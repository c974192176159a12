"""A run in memory and a job of the service go through the same: observations, plans and rewards, bit for bit."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from bss_service.core.action import DIMENSION, Action
from bss_service.core.sampling import Drawn
from bss_service.core.signals import EVIDENCE
from bss_service.job.events import PlanDrawn, StepsServed
from bss_service.job.job import Job
from bss_service.job.plans import Plan
from bss_service.policies.base import Choice
from bss_service.protocol.decisions import Decision
from bss_service.protocol.jobs import JobSpec, RewardSpec
from bss_service.protocol.policies import PolicySpec
from bss_service.protocol.training import Feedback
from bss_service.protocol.validation import ModalityReport, ValidationReport
from envs.run import REWARD, StudentRun
from tests.bss_service.core.worlds import measure
from tests.conftest import Trainer

SAMPLES, BATCH_SIZE, INTERVALS, SEED = 61, 8, 8, 2**40 + 3  # 7 steps an epoch, 5 samples left over
HEADS = ("audio", "video", "touch")

ACTIONS = {
    "epoch": Action(kappa_similarity=3.0, kappa_loss=5.0),
    "subset": Action(kappa_weak=2.0, kappa_loss=-1.5, share=0.55, coverage="subset", rank_by="loss"),
    "draw": Action(kappa_similarity=1.0, kappa_loss=1.0, kappa_stale=2.0, floor=0.2, coverage="draw"),
    "ranked by weight": Action(
        kappa_loss=4.0, kappa_weak=1.0, share=0.4, coverage="draw", rank_by="weight", keep="bottom", link="linear"
    ),
    "evidence": Action(belief=0.45, left_out=0.8, probes=0.2),
    "wrong pairs": Action(belief=0.5, probes=0.1, wrong_pairs="mask", coverage="subset"),
    "no refresh": Action(kappa_loss=3.0, ema=0.0, coverage="draw", rank_by="first_balance", share=0.7),
}
VECTORS = np.random.default_rng(5).uniform(-1, 1, (INTERVALS, DIMENSION)).astype(np.float32)
RANDOM = [Action.from_vector(vector) for vector in VECTORS]
SCHEDULES = {name: [action] * INTERVALS for name, action in ACTIONS.items()} | {
    "all in turn": [*ACTIONS.values(), Action()],
    "random": RANDOM,
}


@dataclass(frozen=True)
class Passed:
    """What is known of an interval afterwards."""

    seen: bytes
    drawn: tuple[list[Any], ...]  # indices, probes, masked losses
    decision: Decision


def measured(rng: np.random.Generator, steps: int, modalities: int) -> dict[str, np.ndarray]:
    def unit(*shape: int) -> np.ndarray:
        return rng.random((steps, BATCH_SIZE, *shape), np.float32)

    def classes(*shape: int) -> np.ndarray:
        return rng.integers(0, 4, (steps, BATCH_SIZE, *shape)).astype(np.float32)

    return {
        "similarity": unit(),
        "loss": 5 * unit(),
        "probability": unit(modalities + 1),
        "summed_probability": unit(),
        "margin": 4 * unit() - 2,
        "other_class": classes(),
        "other_probability": unit(modalities + 1),
        "summed_other_probability": unit(),
        "predicted_class": classes(modalities + 1),
        "label": classes(),
    }


def reports(modalities: int) -> list[ValidationReport]:
    """Of a student that improves, but not evenly."""
    rng = np.random.default_rng(1)

    def report() -> ValidationReport:
        loss, accuracy = float(2 + rng.normal()), float(rng.random())
        accuracies, probabilities = rng.random(modalities).tolist(), rng.random(modalities).tolist()
        heads = zip(HEADS, accuracies, probabilities, strict=False)
        modality = {name: ModalityReport(accuracy=a, probability=p) for name, a, p in heads}
        return ValidationReport(step=0, loss=loss, accuracy=accuracy, modalities=modality)

    return [report() for _ in range(INTERVALS + 1)]


def drawn(plan: Drawn | Plan) -> tuple[list[Any], ...]:
    return tuple([] if part is None else part.tolist() for part in (plan.indices, plan.probes, plan.masked))


def by_run(schedule: list[Action], modalities: int, reward: RewardSpec, horizon_known: bool) -> Iterator[Passed]:
    run = StudentRun(
        samples=SAMPLES,
        modalities=modalities,
        batch_size=BATCH_SIZE,
        intervals=INTERVALS,
        seed=SEED,
        horizon_known=horizon_known,
        reward=reward,
    )
    rng = np.random.default_rng(0)
    first, *later = reports(modalities)
    run.start(first)
    for action, report in zip(schedule, later, strict=True):
        seen = run.observe().vector.tobytes()
        plan = run.plan(Choice(action))
        yield Passed(seen, drawn(plan), run.finish(measured(rng, len(plan.indices), modalities), report))


def by_job(schedule: list[Action], modalities: int, reward: RewardSpec, horizon_known: bool) -> Iterator[Passed]:
    steps = SAMPLES // BATCH_SIZE
    job = Job(
        JobSpec(
            name="job",
            samples=SAMPLES,
            modalities=list(HEADS[:modalities]),
            batch_size=BATCH_SIZE,
            seed=SEED,
            policy=PolicySpec(name="external"),
            tail="drop",
            horizon=INTERVALS * steps if horizon_known else None,
            reward=reward,
            signals=list(EVIDENCE),
            weighted=True,
        )
    )
    trainer = Trainer(job=job)
    rng = np.random.default_rng(0)
    first, *later = reports(modalities)
    trainer.validate(first)
    for action, report in zip(schedule, later, strict=True):
        seen = job.observe().vector.tobytes()
        trainer.act(dict(action.as_dict()))  # by its fields, which lose nothing on the way
        plan = trainer.apply(PlanDrawn())
        trainer.apply(StepsServed(plan.end_step))
        trainer.send(Feedback(step=np.arange(plan.first_step, plan.end_step), **measured(rng, steps, modalities)))
        trainer.validate(report.model_copy(update={"step": plan.end_step}))
        yield Passed(seen, drawn(plan), job.history.decisions[-1])


def assert_alike(schedule: list[Action], **conditions: Any) -> None:
    for run, job in zip(by_run(schedule, **conditions), by_job(schedule, **conditions), strict=True):
        assert run.seen == job.seen == run.decision.observation.vector.tobytes()
        assert run.drawn == job.drawn
        for name in ("first_step", "end_step", "gain", "reward", "rewarded_at"):
            assert getattr(run.decision, name) == getattr(job.decision, name)
        assert run.decision.action == job.decision.action
        assert run.decision.left_out == job.decision.left_out
        assert run.decision.reward is not None


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("horizon_known", [True, False], ids=["horizon known", "horizon unknown"])
def test_run_and_job_are_alike(schedule: str, horizon_known: bool) -> None:
    assert_alike(SCHEDULES[schedule], modalities=2, reward=REWARD, horizon_known=horizon_known)


@pytest.mark.parametrize("reward", [RewardSpec(), RewardSpec(metric="accuracy", discount=0.9, balance_weight=2.0)])
def test_they_are_alike_under_any_reward(reward: RewardSpec) -> None:
    assert_alike(SCHEDULES["all in turn"], modalities=2, reward=reward, horizon_known=True)


def test_they_are_alike_with_three_modalities() -> None:
    assert_alike(SCHEDULES["all in turn"], modalities=3, reward=REWARD, horizon_known=True)


def test_rewards_add_up_to_the_best_accuracy_less_the_first() -> None:
    rewards = [p.decision.reward or 0.0 for p in by_run(RANDOM, 2, REWARD, True)]
    accuracies = [r.accuracy for r in reports(2)]
    assert sum(rewards) == pytest.approx(max(accuracies) - accuracies[0])


def test_the_length_of_a_run_shows_only_where_it_is_known() -> None:
    known, unknown = (list(by_run(RANDOM, 2, REWARD, horizon)) for horizon in (True, False))
    progress = [[p.decision.observation["progress"] for p in run] for run in (known, unknown)]
    assert progress[0] == pytest.approx([k / INTERVALS for k in range(INTERVALS)])
    assert progress[1] == pytest.approx([k / (k + 30) for k in range(INTERVALS)])


def test_the_control_draws_as_unevenly_as_the_policy_but_other_samples() -> None:
    counts = []
    for shuffled in (False, True):
        run = StudentRun(samples=SAMPLES, modalities=2, batch_size=8, intervals=2, seed=0, shuffled=shuffled)
        every = np.arange(SAMPLES)
        measure(run.table, 0, every, similarity=np.zeros(SAMPLES), loss=every)
        plan = run.plan(Choice(Action(kappa_loss=10.0, coverage="draw")))
        counts.append(np.bincount(plan.indices.reshape(-1), minlength=SAMPLES))
    assert sorted(counts[0]) == sorted(counts[1])
    assert counts[0][: SAMPLES // 2].sum() > 50  # of 56, those with a low loss
    assert counts[1][: SAMPLES // 2].sum() < 45
