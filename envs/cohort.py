"""A cohort: training runs of students side by side, each with a task, a scheduler's state and randomness of its own."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final, Self

import numpy as np

from bss_service.core.action import Action
from bss_service.core.arrays import Float32
from bss_service.core.evidence.posterior import Judge
from bss_service.core.sampling import Drawn, loss_weights
from bss_service.policies.base import Choice
from bss_service.protocol.jobs import RewardSpec
from bss_service.protocol.validation import ValidationReport
from envs.run import REWARD, StudentRun
from envs.sources import FEATURES
from envs.students import Students
from envs.tasks import BATCH_SIZE, Distribution, Lesson, Task

DIVERGED: Final = -1.0  # reward of the interval in which a loss stopped being finite


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an interval."""

    observation: Float32
    reward: float
    terminated: bool
    truncated: bool
    info: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class _Place:
    task: Task
    run: StudentRun
    best: float
    # Of the checkpoint with the best validation accuracy, by name.
    test: dict[str, float]
    over: bool = False


class Cohort:
    """B runs. Where they begin and end is up to each: `start` a place anew whenever its run is over.

    judged: also measure the test accuracy of the checkpoint with the best validation accuracy, which is told in the
    info of the last interval; no policy sees it. reward: how the runs are rewarded. twins: beside each run goes another
    of the same task, weights and order that shuffles plainly, and rewards are what the run earns beyond it: a control
    variate, which takes most of what the data and the validation samples do out of the rewards' noise.
    """

    kind: type[StudentRun] = StudentRun  # of its runs

    def __init__(
        self,
        number: int,
        *,
        modalities: int,
        classes: int,
        judged: bool = False,
        twins: bool = False,
        reward: RewardSpec = REWARD,
    ) -> None:
        """modalities: M of every task; classes: the most that one has."""
        self.number, self.modalities, self.judged, self.twins, self.reward = number, modalities, judged, twins, reward
        places = 2 * number if twins else number  # the twin of place b is at number + b
        self._students = Students(places, modalities, FEATURES, classes, BATCH_SIZE, tested=judged, evidence=True)
        self._places: list[_Place | None] = [None] * places

    @classmethod
    def of(cls, tasks: Distribution, number: int, *, judged: bool = False, twins: bool = False) -> Self:
        """A cohort for the tasks of a distribution."""
        return cls(number, modalities=tasks.modalities, classes=tasks.classes, judged=judged, twins=twins)

    def start(
        self,
        place: int,
        task: Task,
        made: Lesson,
        rng: np.random.Generator,
        *,
        shuffled: bool = False,
        judge: Judge | None = None,
    ) -> tuple[Float32, dict[str, Any]]:
        """Begin the run of a task, whose weights and draws come from `rng`; the first observation, and the task.

        made: the lesson of the task.

        shuffled: what is known of one sample decides about another, a control that leaves a policy its effort but not
        its knowledge. judge: what reads evidence; by default the one that comes with the package.
        """
        if self.twins:
            self._enrol(self.number + place, task, made, copy.deepcopy(rng))
        return _seen(self._enrol(place, task, made, rng, shuffled=shuffled, judge=judge)), {"task": asdict(task)}

    def _enrol(
        self,
        place: int,
        task: Task,
        made: Lesson,
        rng: np.random.Generator,
        *,
        shuffled: bool = False,
        judge: Judge | None = None,
    ) -> StudentRun:
        self._students.enrol(place, made, rng)
        run = self.kind(
            samples=len(made.train.labels),
            modalities=self.modalities,
            batch_size=BATCH_SIZE,
            intervals=task.intervals,
            seed=int(rng.integers(2**63)),
            horizon_known=task.horizon_known,
            shuffled=shuffled,
            reward=self.reward,
            judge=judge,
        )
        report = self._students.validate(place=place)[0]
        run.start(report)
        test = {"test_accuracy": self._students.validate("test", place)[0].accuracy} if self.judged else {}
        self._places[place] = _Place(task, run, report.accuracy, test)
        return run

    def run(self, place: int) -> StudentRun:
        """The run at a place. Raises RuntimeError before the first start."""
        return self._at(place).run

    def step(self, choices: Sequence[Choice | None]) -> list[Outcome | None]:
        """Draw and train one interval everywhere, but where the choice is None."""
        if all(choice is None for choice in choices):
            return [None] * self.number
        outcomes = self._advance([*choices, *self._of_twins(choices)])
        own, twins = outcomes[: self.number], outcomes[self.number :]
        if not self.twins:
            return own
        return [
            outcome if outcome is None or twin is None else replace(outcome, reward=outcome.reward - twin.reward)
            for outcome, twin in zip(own, twins, strict=True)
        ]

    def _of_twins(self, choices: Sequence[Choice | None]) -> list[Choice | None]:
        """Plain shuffling beside every run that goes on, unless the twin's is over, which may diverge by itself."""
        if not self.twins:
            return []
        plain = Choice(Action())
        return [None if choice is None or self._at(self.number + b).over else plain for b, choice in enumerate(choices)]

    def _advance(self, choices: Sequence[Choice | None]) -> list[Outcome | None]:
        nothing = Drawn(np.empty((0, BATCH_SIZE), np.int64), np.empty((0, BATCH_SIZE), np.float32))
        plans = [nothing if choice is None else self._at(b).run.plan(choice) for b, choice in enumerate(choices)]
        pulls = [0.0 if choice is None else choice.action.pull for choice in choices]
        measured = self._students.train([plan.indices for plan in plans], [_weights(plan) for plan in plans], pulls)
        reports = self._students.validate()
        tests = self._tests()
        return [
            None if choice is None else self._finish(self._at(b), measured[b], reports[b], tests[b])
            for b, choice in enumerate(choices)
        ]

    def _tests(self) -> list[dict[str, float]]:
        """Test accuracies of all students by the joint head, and by the sum of all heads."""
        if not self.judged:
            return [{}] * len(self._places)
        joint, summed = self._students.validate("test"), self._students.summed_accuracies("test")
        return [
            {"test_accuracy": report.accuracy, "summed_test_accuracy": float(of_sum)}
            for report, of_sum in zip(joint, summed, strict=True)
        ]

    def _at(self, place: int) -> _Place:
        held = self._places[place]
        if held is None:
            raise RuntimeError("an environment is reset before its first step")
        return held

    def _finish(
        self, place: _Place, measured: Mapping[str, Float32], report: ValidationReport, test: dict[str, float]
    ) -> Outcome:
        run = place.run
        if not np.isfinite([report.loss, *(float(values.sum()) for values in measured.values())]).all():
            place.over = True
            return Outcome(_seen(run), DIVERGED, terminated=True, truncated=False, info=self._summary(place))
        decision = run.finish(measured, report)
        if report.accuracy > place.best:
            place.best = report.accuracy
            place.test = test
        truncated = run.interval == run.intervals
        info = {"validation_accuracy": report.accuracy, "action": decision.action.as_dict()}
        if truncated:
            info |= self._summary(place)
        reward = 0.0 if decision.reward is None else decision.reward
        return Outcome(_seen(run), reward, terminated=False, truncated=truncated, info=info)

    def _summary(self, place: _Place) -> dict[str, Any]:
        return {"best_validation_accuracy": place.best, **place.test}


def _weights(plan: Drawn) -> Float32 | None:
    """Of the losses of a plan's rows, (s, G) or (s, G, H) of each head's; None: 1 each."""
    weights = None if plan.probes is None else loss_weights(plan.probes)
    if plan.masked is None:
        return weights
    of_heads = (~plan.masked).astype(np.float32)
    return of_heads if weights is None else of_heads * weights[:, :, None]


def _seen(run: StudentRun) -> Float32:
    """The observation as the caller's own, who may change it: the run keeps its decisions'."""
    return run.observe().vector.copy()
