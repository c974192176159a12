"""One training run as the scheduler sees it: what a job does with the table, in memory and without a service."""

from dataclasses import replace
from typing import Final

import numpy as np

from bss_service.core.arrays import Int64
from bss_service.core.calendar import Calendar
from bss_service.core.observation import Observation, observe
from bss_service.core.reward import Validation
from bss_service.core.sampling import draw_plan
from bss_service.core.table import SampleTable
from bss_service.job.history import History
from bss_service.policies.base import Choice, Decision
from bss_service.protocol import RewardSpec
from envs.students import Measured

# What a run is worth is the accuracy of its best checkpoint.
REWARD: Final = RewardSpec(metric="accuracy", basis="improvement", balance_weight=0.0)


class Run:
    """Table, reports and decisions of a run whose intervals are epochs and whose tails are dropped.

    Does what `bss_service.job.job.Job` does when its feedback and its validation reports come in time; a test holds the
    two together.
    """

    def __init__(
        self,
        *,
        samples: int,
        modalities: int,
        batch_size: int,
        intervals: int,
        seed: int,
        horizon_known: bool = True,
        shuffled: bool = False,
        reward: RewardSpec = REWARD,
    ) -> None:
        self.calendar = Calendar(samples, batch_size, "drop", None)
        self.table = SampleTable.empty(samples, modalities)
        self.history = History(reward)
        self.seed = seed
        self.horizon_known = horizon_known
        self.shuffled = shuffled  # a control: what is known of one sample decides about another
        self.intervals = intervals
        self.interval = 0  # the next to be drawn
        self._observation: Observation | None = None
        self._plan: Int64 | None = None

    def start(self, validation: Validation) -> None:
        """Take in the report before step 0, which the first reward needs."""
        self.history.report(replace(validation, step=0))

    def observe(self) -> Observation:
        """What a policy sees before the next interval."""
        if self._observation is None:
            first = self.calendar.epoch_start(self.interval)
            reports = self.history.reports
            self._observation = observe(
                self.table,
                step=first,
                epoch=self.interval,
                steps_per_epoch=self.calendar.epoch_positions / self.calendar.batch_size,
                horizon=self.calendar.epoch_start(self.intervals) if self.horizon_known else None,
                reports=reports,
                previous=self.history.decisions[-1].choice.action if self.history.decisions else None,
            )
        return self._observation

    def plan(self, choice: Choice) -> Int64:
        """Draw the next interval: indices (s, G)."""
        first, end = self.calendar.interval_bounds(self.calendar.epoch_start(self.interval))
        observation = self.observe()
        self.table.refresh(choice.action.ema)
        none = np.zeros(len(self.table), dtype=np.bool_)
        drawn = draw_plan(self.calendar, first, end, choice.action, self.table, none, self.seed)
        self.history.decisions.append(Decision(first, end, 1, observation, choice, 0))
        indices = drawn.indices
        if self.shuffled:
            indices = np.random.default_rng([self.seed, first]).permutation(len(self.table))[indices]
        self._plan = indices.reshape(end - first, self.calendar.batch_size)
        return self._plan

    def finish(self, measured: Measured, validation: Validation) -> Decision:
        """Take in what the interval measured and the report at its end; the decision with its reward."""
        assert self._plan is not None
        first = self.calendar.epoch_start(self.interval)
        steps = np.repeat(np.arange(first, first + len(self._plan)), self.calendar.batch_size)
        self.table.measure(
            self._plan.reshape(-1),
            steps,
            measured.similarity.reshape(-1),
            measured.loss.reshape(-1),
            measured.probabilities.reshape(len(steps), -1),
        )
        self.interval += 1
        self._plan = self._observation = None
        self.history.report(replace(validation, step=self.calendar.epoch_start(self.interval)))
        return self.history.decisions[-1]
