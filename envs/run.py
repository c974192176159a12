"""The training run of a student as the scheduler sees it: what a served job does, in memory and without a service."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import numpy as np

from bss_service.core.arrays import Float32, Int64
from bss_service.core.calendar import Calendar
from bss_service.core.evidence.posterior import Evidence, Judge
from bss_service.core.interval import draw_interval, judge_interval, learn_interval, observe_interval
from bss_service.core.observation import Observation
from bss_service.core.samples.table import SampleTable
from bss_service.core.sampling import Drawn
from bss_service.core.signals import EVIDENCE, Signals
from bss_service.job.history import History
from bss_service.policies.base import Choice
from bss_service.policies.shipped import usual_judge
from bss_service.protocol.decisions import Decision
from bss_service.protocol.jobs import RewardSpec
from bss_service.protocol.validation import ValidationReport

# What a run is worth is the accuracy of its best checkpoint.
REWARD: Final = RewardSpec(metric="accuracy", basis="improvement", balance_weight=0.0)


class StudentRun:
    """Table, reports and decisions of a run whose intervals are epochs and whose tails are dropped.

    It goes through what a `Job` goes through whose feedback and validation reports come in time; a test holds the two
    together.
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
        judge: Judge | None = None,
    ) -> None:
        """judge: what reads the evidence of samples; by default the one that comes with the package."""
        self.calendar = Calendar(samples, batch_size, "drop", None)
        self.signals = Signals(EVIDENCE, modalities + 1)
        self.table = SampleTable.empty(samples, self.signals)
        self.history = History(reward)
        self.seed = seed
        self.horizon_known = horizon_known
        self.shuffled = shuffled  # a control: what is known of one sample decides about another
        self.intervals = intervals
        self.interval = 0  # the next to be drawn
        self._observation: Observation | None = None
        self._evidence: Evidence | None = None
        self._judge = judge or usual_judge()
        self._plan: Int64 | None = None

    def start(self, report: ValidationReport) -> None:
        """Take in the report before step 0, which the first reward needs."""
        self.history.report(report.model_copy(update={"step": 0}))

    def observe(self) -> Observation:
        """What a policy sees before the next interval."""
        if self._observation is None:
            decisions = self.history.decisions
            self._evidence = self._judged()
            self._observation = observe_interval(
                self.table,
                self.calendar,
                self.calendar.epoch_start(self.interval),
                horizon=self.calendar.epoch_start(self.intervals) if self.horizon_known else None,
                reports=self.history.reports,
                previous=decisions[-1].action if decisions else None,
                evidence=self._evidence,
            )
        return self._observation

    @property
    def evidence(self) -> Evidence:
        """Of the samples before the next interval."""
        self.observe()
        assert self._evidence is not None
        return self._evidence

    def plan(self, choice: Choice) -> Drawn:
        """Draw the next interval, of arrays (s, G, …)."""
        first, end = self.calendar.interval_bounds(self.calendar.epoch_start(self.interval))
        observation = self.observe()
        none = np.zeros(len(self.table), dtype=np.bool_)
        action = choice.action
        drawn = draw_interval(self.table, self.calendar, first, end, action, none, self.seed, self._evidence)
        self.history.decisions.append(
            Decision.model_construct(
                **choice.fields(),
                first_step=first,
                end_step=end,
                epoch=observation.epoch,
                policy_version=1,
                policy="",
                observation=observation,
                left_out=drawn.left_out,
            )
        )
        if self.shuffled:
            others = np.random.default_rng([self.seed, first]).permutation(len(self.table))
            drawn = replace(drawn, indices=others[drawn.indices])
        self._plan = drawn.indices
        return drawn

    def finish(self, measured: Mapping[str, Float32], report: ValidationReport) -> Decision:
        """Take in what the interval measured, arrays (s, G) or (s, G, H) by signal, and the report at its end.

        Returns the decision with its reward.
        """
        assert self._plan is not None
        values = self.signals.joined(measured, self._plan.shape).reshape(-1, self.signals.width)
        first = self.calendar.epoch_start(self.interval)
        steps = np.repeat(np.arange(first, first + len(self._plan)), self.calendar.batch_size)
        learn_interval(self.table, self._plan.reshape(-1), steps, values)
        self.interval += 1
        self._plan = self._observation = self._evidence = None
        self.history.report(report.model_copy(update={"step": self.calendar.epoch_start(self.interval)}))
        return self.history.decisions[-1]

    def _judged(self) -> Evidence | None:
        reports = self.history.reports
        return judge_interval(self.table, self._judge, reports, reports[-1].confusion if reports else None)
