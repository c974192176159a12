"""Jobs that declare other signals than the usual ones, and what may not be done with them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bss_service.core.action import Action
from bss_service.core.observation import Observation
from bss_service.core.signals import EVIDENCE, Signal
from bss_service.errors import InvalidValueError
from bss_service.job.job import Job
from bss_service.job.shown import views
from bss_service.job.snapshot import Snapshot, restore
from bss_service.policies.base import Choice, Policy, policy_names
from bss_service.policies.versions import check_policy
from bss_service.protocol.jobs import JobSpec
from bss_service.protocol.policies import PolicySpec
from bss_service.protocol.training import Feedback, Scores
from bss_service.protocol.validation import ValidationReport
from tests.conftest import Trainer, replayed
from tests.support.trained import artefacts

NAN = float("nan")
ENTROPY = Signal("entropy", "of the joint head's prediction, in nats", low=0.0, averaged=True)
ONE_MODALITY: dict[str, Any] = {"modalities": ["text"]}
NO_HEADS: dict[str, Any] = {"unimodal_heads": False}
LOSS_ALONE: dict[str, Any] = {"signals": ["loss"]}
WITH_EVIDENCE: dict[str, Any] = {"signals": [signal.name for signal in EVIDENCE]}
JOBS = {
    "one modality": ONE_MODALITY,
    "no unimodal heads": NO_HEADS,
    "loss alone": LOSS_ALONE,
    "evidence": WITH_EVIDENCE,
    "evidence without unimodal heads": NO_HEADS | {"signals": WITH_EVIDENCE["signals"][1:]},
}


def spec(**fields: Any) -> JobSpec:
    return JobSpec(**{"name": "run", "samples": 12, "modalities": ["audio", "video"], "batch_size": 4, **fields})


def train(trainer: Trainer, steps: int) -> None:
    """A loop that measures every signal that its job has, and validates with the heads that there are."""
    for step in range(trainer.job.served, trainer.job.served + steps):
        trainer.take()
        batch = trainer.batches[step]
        values = np.repeat(np.sin(batch + step)[:, None] / 2 + 0.5, trainer.job.signals.width, axis=1)
        for signal in trainer.job.signals:
            if signal.whole:
                trainer.job.signals.of(signal.name, values)[...] = step + 70_000
        trainer.send(Feedback(step=np.array([step]), values=values[None].astype(np.float32)))
        if trainer.job.calendar.epoch_of(step + 1) > trainer.job.calendar.epoch_of(step):
            heads = {name: {"accuracy": 0.5, "probability": 0.5} for name in trainer.job.spec.heads[:-1]}
            trainer.validate(ValidationReport(step=step + 1, loss=1.0, accuracy=0.5, modalities=heads))


def test_what_is_declared_by_default_depends_on_the_heads() -> None:
    declared = {name: [s.name for s in spec(**fields).signals] for name, fields in {"two": {}, **JOBS}.items()}
    assert declared == {
        "two": ["similarity", "loss", "probability"],
        "one modality": ["loss", "probability"],
        "no unimodal heads": ["loss", "probability"],
        "loss alone": ["loss"],
        "evidence": WITH_EVIDENCE["signals"],
        "evidence without unimodal heads": WITH_EVIDENCE["signals"][1:],
    }


@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize("policy", ["uniform", "self_paced", "external", "fixed"])
def test_a_job_of_other_signals_trains_is_carried_and_replays(job: str, policy: str) -> None:
    world = {"samples": 12, **JOBS[job], "patience": 0.0}
    trainer = Trainer(policy, parameters={"kappa_loss": 2.0, "coverage": "epoch"} if policy == "fixed" else {}, **world)
    train(trainer, 9)
    assert trainer.job.table.measured.all()
    assert np.isfinite(trainer.job.observe().vector).all()
    again = Trainer(job=restore(Snapshot.from_frame(trainer.state())))
    train(trainer, 3)
    train(again, 3)
    assert again.state() == trainer.state()
    assert replayed(Job(trainer.job.spec), trainer.journal) == trainer.state()


@pytest.mark.parametrize("policy", policy_names())
def test_every_policy_either_runs_or_is_refused_with_its_name_and_the_signal(policy: str) -> None:
    (sha256,) = artefacts()
    parameters = {"sha256": sha256} if policy == "artefact" else {}
    for fields in JOBS.values():
        job = spec(**fields, policy=PolicySpec(name=policy, parameters=parameters))
        try:
            check_policy(job.policy, job, artefacts())
        except InvalidValueError as refused:
            assert refused.field == "policy.name"
            assert f"policy '{policy}' needs the signal " in refused.detail
            assert "which job 'run' does not have: it declares " in refused.detail
        else:
            trainer = Trainer(job=Job(job, artefacts()))
            train(trainer, 12)
            assert not any(decision.failed for decision in trainer.job.history.decisions)


@pytest.mark.parametrize(
    ("fields", "policy", "words"),
    [
        (ONE_MODALITY, {"name": "balance"}, "'balance' needs the signal similarity, which"),
        (NO_HEADS, {"name": "curriculum"}, "'curriculum' needs the signal similarity, which"),
        (LOSS_ALONE, {"name": "fixed", "parameters": {"kappa_weak": 1.0}}, "'fixed' needs the signal probability, "),
        (ONE_MODALITY, {"name": "fixed", "parameters": {"kappa_weak": 1.0}}, "probability of 2 unimodal heads"),
        ({"signals": ["similarity"]}, {"name": "self_paced"}, "'self_paced' needs the signal loss, "),
        ({"signals": [ENTROPY]}, {"name": "balance"}, "the signal similarity and loss, .* it declares entropy"),
    ],
)
def test_a_policy_that_needs_a_signal_that_the_job_lacks_is_refused(
    fields: dict[str, Any], policy: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidValueError, match=words):
        check_policy(PolicySpec(**policy), spec(**fields))


@pytest.mark.parametrize("shadow", [False, True])
def test_a_swap_to_such_a_policy_is_refused_and_changes_nothing(shadow: bool) -> None:
    trainer = Trainer(**ONE_MODALITY)
    before = trainer.state()
    with pytest.raises(InvalidValueError, match="policy 'balance' needs the signal similarity"):
        trainer.swap("balance", "next_interval", shadow=shadow)
    assert trainer.state() == before


def test_an_action_from_outside_that_needs_such_a_signal_is_refused() -> None:
    trainer = Trainer("external", **NO_HEADS)
    for action in ("balance", {"kappa_similarity": 1.0}, {"share": 0.5, "coverage": "subset"}):
        with pytest.raises(InvalidValueError, match="action needs the signal similarity") as refused:
            trainer.act(action)
        assert refused.value.field == "action"
    assert trainer.act({"kappa_loss": 2.0}) == "applied"


def test_a_policy_that_chooses_such_an_action_all_the_same_is_replaced_and_the_log_says_why(
    install: Callable[[str, type[Policy]], None],
) -> None:
    class Careless(Policy):
        def act(self, observation: Observation, rng: np.random.Generator) -> Choice:
            return Choice(Action(kappa_similarity=1.0))

    install("careless", Careless)
    trainer = Trainer("careless", **ONE_MODALITY)
    trainer.take()
    decision = trainer.job.history.decisions[0]
    assert decision.action == Action()
    assert "its action needs the signal similarity" in decision.detail["error"]


def test_where_no_signal_gives_evidence_a_policy_that_makes_do_with_few_sees_none(
    install: Callable[[str, type[Policy]], None],
) -> None:
    class Frugal(Policy):
        partial_evidence = True

        def act(self, observation: Observation, rng: np.random.Generator) -> Choice:
            return Choice(Action(belief=0.5 if observation["has_evidence"] else 0.0))

    install("frugal", Frugal)
    for signals, beliefs in ((["loss"], [0.0, 0.5]), (["similarity"], [0.0, 0.0])):
        trainer = Trainer("frugal", samples=12, signals=signals)
        train(trainer, 6)
        decisions = trainer.job.history.decisions
        assert [decision.action.belief for decision in decisions] == beliefs
        assert not any(decision.failed for decision in decisions)


def test_a_report_has_the_heads_that_the_job_has() -> None:
    trainer = Trainer(**NO_HEADS)
    with pytest.raises(InvalidValueError, match=r"modalities must be \[\], got \['audio', 'video'\]"):
        trainer.validate()
    assert trainer.validate(ValidationReport(step=0, loss=1.0, accuracy=0.5)) == "applied"


def test_a_signal_of_one_s_own_goes_all_the_way() -> None:
    trainer = Trainer(samples=12, signals=["loss", ENTROPY])
    train(trainer, 3)
    trainer.take()
    table, index = trainer.job.table, int(trainer.batches[0][0])
    assert table.latest["entropy"][index] == np.float32(np.sin(index) / 2 + 0.5)
    assert np.ptp(table.average["entropy"]) == 1
    assert views.sample(trainer.job, None, index).signals == {
        "loss": pytest.approx(table.latest["loss"][index]),
        "entropy": pytest.approx(table.latest["entropy"][index]),
    }
    again = restore(Snapshot.from_frame(trainer.state()))
    np.testing.assert_array_equal(again.table.average["entropy"], table.average["entropy"])


def test_what_is_unknown_of_one_signal_leaves_the_others_and_the_count() -> None:
    trainer = Trainer(samples=8)
    trainer.take(2)
    for step in range(2):
        loss = trainer.batches[step].astype(np.float32)
        known = {"loss": loss[None], "similarity": np.full((1, 4), NAN, np.float32)}
        assert trainer.send(Feedback(step=np.array([step]), **known)) == ["applied"]
    trainer.take()
    assert trainer.job.table.latest["loss"].tolist() == list(range(8))
    assert np.isnan(trainer.job.table.latest["similarity"]).all()
    assert trainer.job.table.times_measured.tolist() == [1] * 8


def known_or_not(rng: np.random.Generator, rows: int) -> Scores:
    """A part of a measuring pass in which some of it is not known, and samples come twice."""
    values = rng.random((rows, 5), dtype=np.float32)
    values[rng.random((rows, 5)) < 0.4] = np.nan
    return Scores(indices=rng.integers(0, 10, rows), values=values)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("ema", [0.0, 0.3])
def test_passes_that_were_folded_draw_what_they_would_have_drawn_one_by_one(
    seed: int, ema: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    def drawn(*, folded: bool) -> tuple[list[list[int]], list[bytes]]:
        if not folded:
            monkeypatch.setattr(Job, "take_pass", lambda self, *measured: self.passes.append(measured))
        rng = np.random.default_rng(seed)
        trainer = Trainer("fixed", parameters={"kappa_loss": 1.0, "kappa_sim": -1.0, "ema": ema})
        for _ in range(3):
            for _ in range(int(rng.integers(3, 9))):
                trainer.measure(known_or_not(rng, int(rng.integers(1, 25))))
            trainer.take()
            trainer.feed(trainer.job.served - 1)
            trainer.take(2)
        monkeypatch.undo()
        table = trainer.job.table
        columns = [*table.latest.values(), *table.average.values(), table.first_score, table.stamp]
        return trainer.epochs(), [column.tobytes() for column in columns]

    assert drawn(folded=True) == drawn(folded=False)
