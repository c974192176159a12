"""The decision history of a job: what its policies chose, and what the validation reports say of it."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Self

from bss_service.core.validation.reward import improvement, normalised_gain, shaping, unexpected_gain, value
from bss_service.policies.acts import Acts
from bss_service.protocol.decisions import Decision
from bss_service.protocol.jobs import RewardSpec
from bss_service.protocol.validation import ValidationReport

HISTORY: Final = 100  # earlier gains that a gain is judged by
CONFUSIONS: Final = 2  # reports that keep their confusion matrix: a plan may not know of the latest yet
BLOCK: Final = 128  # decisions that leave memory together; at least so many stay
WAITING: Final = 2048  # decisions in memory, of which a report may still tell: before these none gets a reward any more

Recall = Callable[[int, int], list[Decision]]


def _nothing(start: int, stop: int) -> list[Decision]:
    raise LookupError(f"decisions {start} to {stop} are not kept anywhere")


@dataclass(slots=True)
class Past:
    """What is still to be known of the decisions that have left memory: how many there were, and of whom."""

    total: int = 0
    acts: "Counter[int]" = field(default_factory=Counter)  # by policy version
    rewards: "Counter[int]" = field(default_factory=Counter)  # known, by policy version
    learned: dict[int, int] = field(default_factory=dict)  # of the last one, by policy version
    watched: "Counter[int]" = field(default_factory=Counter)  # by shadow
    gains: list[float] = field(default_factory=list)  # the latest, of each pair of reports one; of those in memory too

    def copy(self) -> Self:
        """One that stays as it is."""
        parts = self.acts.copy(), self.rewards.copy(), dict(self.learned), self.watched.copy(), list(self.gains)
        return type(self)(self.total, *parts)

    def take(self, decisions: Sequence[Decision]) -> None:
        """Let these leave memory."""
        self.total += len(decisions)
        for decision in decisions:
            self.acts[decision.policy_version] += 1
            self.rewards[decision.policy_version] += decision.rewarded_at is not None
            self.learned[decision.policy_version] = decision.learned
            if decision.shadow is not None:
                self.watched[decision.shadow.shadow] += 1


@dataclass(slots=True)
class History:
    """Decisions and validation reports in order of step, and the rewards that join them.

    Decisions of which nothing changes any more leave memory, BLOCK at a time, for the store, which keeps them by
    number; `recall` reads them there, where somebody asks for all.
    """

    spec: RewardSpec
    decisions: list[Decision] = field(default_factory=list)  # the latest
    reports: list[ValidationReport] = field(default_factory=list)
    past: Past = field(default_factory=Past)
    recall: Recall = _nothing
    leaving: list[Decision] = field(default_factory=list)  # out of memory, and not yet handed to the store

    def __post_init__(self) -> None:
        if not self.past.gains:
            self.past.gains = _gains(self.decisions)[-HISTORY:]

    @property
    def total(self) -> int:
        """How many decisions there are."""
        return self.past.total + len(self.decisions)

    def copy(self) -> Self:
        """One that stays as it is, at little cost."""
        return replace(
            self,
            decisions=list(self.decisions),
            reports=list(self.reports),
            past=self.past.copy(),
            leaving=list(self.leaving),
        )

    def between(self, start: int, stop: int) -> list[Decision]:
        """The decisions number `start` to `stop`, or to the last; those that have left memory are read again."""
        stored = self.past.total - len(self.leaving)
        held = [*self.leaving, *self.decisions] if self.leaving else self.decisions
        read = self.recall(start, min(stop, stored)) if start < stored else []
        return read + held[max(0, start - stored) : max(0, stop - stored)]

    def let_go(self, fixed: int, visible: int) -> None:
        """Let those leave memory that nothing changes any more.

        fixed: the first step that may be drawn anew. visible: step up to which the last decision knew of reports; what
        later ones tell, its policy has yet to learn.
        """
        while len(self.decisions) >= 2 * BLOCK and self.decisions[BLOCK - 1].end_step <= fixed:
            block = self.decisions[:BLOCK]
            is_settled = all(d.first_step == d.end_step or _is_visible(d, visible) for d in block)
            if not is_settled and len(self.decisions) < WAITING:
                break
            self.past.take(block)
            self.leaving += block
            del self.decisions[:BLOCK]

    def take_leaving(self) -> tuple[int, list[Decision]]:
        """What is to be stored of those that have left memory, and the number of the first; once."""
        first, leaving = self.past.total - len(self.leaving), self.leaving
        self.leaving = []
        return first, leaving

    def report(self, report: ValidationReport) -> list[float | None]:
        """Take in the next report and reward the decisions whose plans it ends; the rewards, in order.

        A report made before the first step on fewer samples than the next, such as a framework's check that validation
        runs at all, is no base for a gain: it is forgotten.
        """
        if self.reports and self.reports[-1].step == 0 and (self.reports[-1].samples or 0) < (report.samples or 0):
            self.reports.pop()
        self.reports.append(report)
        for k in range(len(self.reports) - CONFUSIONS)[-1:]:
            self.reports[k] = self.reports[k].plain()
        ended = [
            k
            for k, d in enumerate(self.decisions)
            if d.rewarded_at is None and d.first_step < d.end_step <= report.step
        ]
        earlier = list(self.past.gains)
        surprises = [unexpected_gain(gain, earlier[:k]) for k, gain in enumerate(earlier)] if ended else []
        for k in ended:
            self.decisions[k] = self._rewarded(self.decisions[k], report, earlier, surprises, share=1 / len(ended))
        rewarded = [self.decisions[k] for k in ended]
        self.past.gains = [*earlier, *_gains(rewarded)][-HISTORY:]
        return [decision.reward for decision in rewarded]

    def truncate(self, step: int) -> None:
        """Shorten the decisions whose plans were replaced from a step on."""
        for k in range(len(self.decisions) - 1, -1, -1):
            decision = self.decisions[k]
            if decision.end_step <= step:
                break
            self.decisions[k] = decision.model_copy(update={"end_step": max(step, decision.first_step)})

    def reports_until(self, step: int) -> Sequence[ValidationReport]:
        """The reports of a step or earlier ones."""
        return self.reports[: bisect_right(self.reports, step, key=lambda report: report.step)]

    def policy_error(self) -> str | None:
        """Why the policy could not make the latest decision; None if it did."""
        latest = self.decisions[-1] if self.decisions else None
        return str(latest.detail["error"]) if latest is not None and latest.failed else None

    def decisions_of(self, version: int) -> Acts:
        """The decisions of one policy version, in order."""
        return self._acts(self.past.acts[version], lambda d: d.policy_version == version)

    def rewarded(self, version: int, step: int) -> Acts:
        """Those of them whose rewards are known from the reports of a step or earlier ones."""
        return self._acts(self.past.rewards[version], lambda d: d.policy_version == version and _is_visible(d, step))

    def learned(self, version: int) -> int:
        """How many rewards a policy version had taken in when it acted last."""
        latest = next((d for d in reversed(self.decisions) if d.policy_version == version), None)
        return self.past.learned.get(version, 0) if latest is None else latest.learned

    def watched(self, shadow: int) -> Acts:
        """The decisions that a shadow watched, in order."""
        return self._acts(self.past.watched[shadow], lambda d: d.shadow is not None and d.shadow.shadow == shadow)

    def _acts(self, before: int, is_one: Callable[[Decision], bool]) -> Acts:
        """Those decisions that something is true of, of which so many have left memory."""
        total = self.past.total
        return Acts(
            [d for d in self.decisions if is_one(d)], before, lambda: [d for d in self.between(0, total) if is_one(d)]
        )

    def _rewarded(
        self, decision: Decision, after: ValidationReport, earlier: list[float], surprises: list[float], *, share: float
    ) -> Decision:
        """The decision with its reward. earlier: gains; surprises: by what each of them exceeded its expectation."""
        before = self.reports_until(decision.first_step)
        if not before:
            return decision.model_copy(update={"rewarded_at": after.step})
        gain = value(after, self.spec.metric) - value(before[-1], self.spec.metric)
        balance = self.spec.balance_weight * shaping(before[-1], after, self.spec.discount)
        if self.spec.basis == "surprise":
            basis = normalised_gain(unexpected_gain(gain, earlier), surprises)
        else:
            basis = share * self._improvement(before, after)
        return decision.model_copy(update={"gain": gain, "reward": basis + balance, "rewarded_at": after.step})

    def _improvement(self, before: Sequence[ValidationReport], after: ValidationReport) -> float:
        """Between the best report up to the plan and the best since; decisions that one report ends share it."""
        metric = self.spec.metric
        best = max(value(r, metric) for r in self.reports if r.step <= after.step)
        return improvement(best, [value(r, metric) for r in before])


def _gains(decisions: Sequence[Decision]) -> list[float]:
    """The gains of decisions, one for each pair of reports, whatever the number of decisions between them."""
    pairs = dict.fromkeys((d.rewarded_at, d.gain) for d in decisions if d.gain is not None)
    return [gain for _, gain in pairs if gain is not None]


def _is_visible(decision: Decision, step: int) -> bool:
    """Whether its reward is known from the reports of a step or earlier ones."""
    return decision.rewarded_at is not None and decision.rewarded_at <= step
