from collections.abc import Sequence

import numpy as np
import pytest

from bss_service.job.history import BLOCK, WAITING, History
from bss_service.job.snapshot import Snapshot, portable, unpacked
from bss_service.protocol.decisions import Decision
from bss_service.protocol.jobs import RewardSpec
from bss_service.protocol.validation import ValidationReport
from tests.bss_service.core.worlds import decision, validation
from tests.conftest import Trainer


def history(*spans: tuple[int, int], **spec: object) -> History:
    """A history with decisions over the given steps, rewarded by the gain alone unless stated otherwise."""
    return History(RewardSpec(**{"balance_weight": 0.0, **spec}), [decision(first, end) for first, end in spans])


def report(
    step: int, loss: float = 1.0, accuracy: float = 0.5, probabilities: tuple[float, float] = (0.5, 0.5)
) -> ValidationReport:
    return validation(step, loss, accuracy, (0.5, 0.5), probabilities)


def test_a_report_rewards_the_plan_that_it_ends_by_the_gain_over_it() -> None:
    world = history((0, 5), (5, 10))
    world.report(report(0, loss=2.0))
    assert world.report(report(5, loss=1.5)) == [0.0]  # the first gain has no others beside it
    assert (world.decisions[0].gain, world.decisions[0].rewarded_at) == (0.5, 5)
    assert world.decisions[1].rewarded_at is None


def test_a_gain_is_normalised_by_those_before_it() -> None:
    world = history((0, 5), (5, 10), (10, 15))
    for step, loss in [(0, 4.0), (5, 3.0), (10, 1.0)]:
        world.report(report(step, loss=loss))
    assert world.report(report(15, loss=1.0)) == [-1.0]
    assert [d.gain for d in world.decisions] == [1.0, 2.0, 0.0]
    assert [d.reward for d in world.decisions] == [0.0, 1.0, -1.0]


def test_the_metric_may_be_accuracy() -> None:
    world = history((0, 5), metric="accuracy")
    world.report(report(0, accuracy=0.25))
    world.report(report(5, accuracy=0.75))
    assert world.decisions[0].gain == 0.5


def test_the_balance_between_modalities_adds_to_the_reward() -> None:
    world = history((0, 5), balance_weight=2.0, discount=0.5)
    world.report(report(0, probabilities=(0.5, 0.0)))
    assert world.report(report(5, probabilities=(0.6, 0.2))) == [pytest.approx(2 * (0.5 * 0.5 - 0.0))]


def test_without_a_report_from_before_a_plan_nothing_can_be_said_of_it() -> None:
    world = history((0, 5), (5, 10))
    assert world.report(report(5)) == [None]
    assert (world.decisions[0].gain, world.decisions[0].rewarded_at) == (None, 5)
    assert world.report(report(10)) == [0.0]


def test_one_report_may_end_several_plans() -> None:
    world = history((0, 5), (5, 10), (10, 15))
    world.report(report(0))
    assert len(world.report(report(12))) == 2


def test_a_gain_is_counted_from_the_last_report_at_or_before_the_plan() -> None:
    world = history((4, 8))
    for step, loss in [(0, 9.0), (3, 5.0), (6, 4.0)]:
        world.report(report(step, loss=loss))
    world.report(report(8, loss=1.0))
    assert world.decisions[0].gain == 4.0


def test_a_plan_that_was_cut_is_rewarded_for_what_was_used_of_it() -> None:
    world = history((0, 10))
    world.truncate(4)
    world.report(report(0))
    assert world.report(report(4)) == [0.0]
    assert world.decisions[0].end_step == 4


def test_a_plan_of_which_nothing_was_used_gets_no_reward() -> None:
    world = history((0, 5), (5, 10))
    world.truncate(5)
    world.truncate(2)
    world.report(report(0))
    assert world.report(report(20)) == [0.0]
    assert [d.rewarded_at for d in world.decisions] == [20, None]


def test_rewards_are_known_from_the_step_of_the_report_on() -> None:
    world = history((0, 5), (5, 10))
    for step in (0, 5, 10):
        world.report(report(step))
    assert [len(world.rewarded(1, step)) for step in (4, 5, 9, 10)] == [0, 1, 1, 2]
    assert [len(world.reports_until(step)) for step in (4, 5, 9, 10)] == [1, 2, 2, 3]


def kept_apart(trainer: Trainer) -> list[Decision]:
    """A place that keeps what leaves the memory of a job, as the store does."""
    stored: list[Decision] = []
    trainer.job.history.recall = lambda start, stop: stored[start:stop]
    return stored


def test_a_job_goes_on_alike_whether_its_early_decisions_are_in_memory_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(block: int, restarts: Sequence[int]) -> tuple[Trainer, list[Decision]]:
        monkeypatch.setattr("bss_service.job.history.BLOCK", block)
        trainer = Trainer("bandit", parameters={"warm_up": 1}, samples=12, interval=2, lag=1)
        stored = kept_apart(trainer)
        for number in range(20):
            trainer.train(4)
            if number == 8:
                trainer.swap("uniform")
            if number == 12:
                trainer.swap("bandit", "next_interval", shadow=True)
            first, left = trainer.job.history.take_leaving()
            stored[first:] = left
            if number in restarts:
                snapshot = Snapshot.from_frame(trainer.state())
                trainer.job = unpacked(snapshot, {})
                trainer.job.history.recall = lambda start, stop: stored[start:stop]
                trainer.job.restore_policy()
        return trainer, stored

    whole, _ = run(1000, [])
    apart, stored = run(3, [5, 10, 15])
    assert all((whole.batches[step] == batch).all() for step, batch in apart.batches.items())
    assert len(stored) > 20 > len(apart.job.history.decisions)
    assert apart.job.history.between(0, 1000) == whole.job.history.decisions
    assert apart.job.history.between(7, 9) == whole.job.history.decisions[7:9]
    assert portable(apart.job).to_frame() == portable(whole.job).to_frame()


def test_what_a_client_may_still_draw_anew_stays_in_memory() -> None:
    world = history(*((step, step + 1) for step in range(3 * BLOCK)))
    world.report(report(0))
    world.report(report(3 * BLOCK))
    world.let_go(fixed=BLOCK - 1, visible=3 * BLOCK)
    assert world.past.total == 0
    world.let_go(fixed=3 * BLOCK, visible=3 * BLOCK - 1)  # the policy has yet to learn of the report
    assert world.past.total == 0
    world.let_go(fixed=3 * BLOCK, visible=3 * BLOCK)
    assert (world.past.total, len(world.decisions), world.total) == (2 * BLOCK, BLOCK, 3 * BLOCK)


def test_decisions_that_no_report_tells_of_leave_memory_at_last() -> None:
    world = history(*((step, step + 1) for step in range(WAITING + BLOCK)))
    world.let_go(fixed=10**6, visible=10**6)
    assert WAITING - BLOCK <= len(world.decisions) < WAITING


def test_one_report_pays_all_decisions_before_it_alike() -> None:
    world = history(*[(step, step + 2) for step in range(0, 16, 2)])
    for step, loss in ((0, 2.0), (8, 1.8), (16, 1.9)):
        rewards = world.report(report(step, loss))
    assert len(rewards) == 4
    assert len(set(rewards)) == 1


def test_improvements_add_up_to_that_of_the_run_however_reports_and_plans_lie() -> None:
    losses = {0: 2.0, 3: 1.0, 5: 1.3, 10: 0.9, 25: 0.4}
    world = history((0, 5), (5, 10), (10, 20), (20, 25), basis="improvement")
    for step, loss in losses.items():
        world.report(report(step, loss))
    rewards = np.array([d.reward for d in world.decisions])
    assert rewards == pytest.approx([1.0, 0.1, 0.25, 0.25])
    assert rewards.sum() == pytest.approx(2.0 - 0.4)
