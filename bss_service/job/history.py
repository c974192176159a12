"""The decision history of a job: what its policies chose, and what the validation reports say of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from bss_service.core.validation.reward import improvement, normalised_gain, shaping, unexpected_gain, value
from bss_service.protocol.decisions import Decision
from bss_service.protocol.jobs import RewardSpec
from bss_service.protocol.validation import ValidationReport

HISTORY: Final = 100  # earlier gains that a gain is judged by
CONFUSIONS: Final = 2  # reports that keep their confusion matrix: a plan may not know of the latest yet


@dataclass(slots=True)
class History:
    """Decisions and validation reports in order of step, and the rewards that join them."""

    spec: RewardSpec
    decisions: list[Decision] = field(default_factory=list)
    reports: list[ValidationReport] = field(default_factory=list)

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
        earlier = self._gains()
        for k in ended:
            self.decisions[k] = self._rewarded(self.decisions[k], report, earlier, share=1 / len(ended))
        return [self.decisions[k].reward for k in ended]

    def truncate(self, step: int) -> None:
        """Shorten the decisions whose plans were replaced from a step on."""
        for k in range(len(self.decisions) - 1, -1, -1):
            decision = self.decisions[k]
            if decision.end_step <= step:
                break
            self.decisions[k] = decision.model_copy(update={"end_step": max(step, decision.first_step)})

    def reports_until(self, step: int) -> Sequence[ValidationReport]:
        """The reports of a step or earlier ones."""
        return [r for r in self.reports if r.step <= step]

    def policy_error(self) -> str | None:
        """Why the policy could not make the latest decision; None if it did."""
        latest = self.decisions[-1] if self.decisions else None
        return str(latest.detail["error"]) if latest is not None and latest.failed else None

    def decisions_of(self, version: int) -> list[Decision]:
        """The decisions of one policy version, in order."""
        return [d for d in self.decisions if d.policy_version == version]

    def rewarded(self, step: int) -> list[Decision]:
        """The decisions whose rewards are known from the reports of a step or earlier ones."""
        return [d for d in self.decisions if d.rewarded_at is not None and d.rewarded_at <= step]

    def _gains(self) -> list[float]:
        """The gains so far, one for each pair of reports, whatever the number of decisions between them."""
        pairs = dict.fromkeys((d.rewarded_at, d.gain) for d in self.decisions if d.gain is not None)
        return [gain for _, gain in pairs if gain is not None][-HISTORY:]

    def _rewarded(self, decision: Decision, after: ValidationReport, earlier: list[float], *, share: float) -> Decision:
        before = [r for r in self.reports if r.step <= decision.first_step]
        if not before:
            return decision.model_copy(update={"rewarded_at": after.step})
        gain = value(after, self.spec.metric) - value(before[-1], self.spec.metric)
        balance = self.spec.balance_weight * shaping(before[-1], after, self.spec.discount)
        basis = (
            self._surprise(gain, earlier) if self.spec.basis == "surprise" else share * self._improvement(before, after)
        )
        return decision.model_copy(update={"gain": gain, "reward": basis + balance, "rewarded_at": after.step})

    def _surprise(self, gain: float, earlier: list[float]) -> float:
        unexpected = [unexpected_gain(g, earlier[:k]) for k, g in enumerate(earlier)]
        return normalised_gain(unexpected_gain(gain, earlier), unexpected)

    def _improvement(self, before: list[ValidationReport], after: ValidationReport) -> float:
        """Between the best report up to the plan and the best since; decisions that one report ends share it."""
        metric = self.spec.metric
        best = max(value(r, metric) for r in self.reports if r.step <= after.step)
        return improvement(best, [value(r, metric) for r in before])
