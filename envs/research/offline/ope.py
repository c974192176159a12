"""Off-policy evaluation: what a policy would have earned on logged runs of another, and whether the log can tell."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from envs.research.offline.episodes import Episodes
from envs.research.offline.estimators import Estimate, behaviour_value, estimates, gather
from envs.research.offline.targets import load_policy
from envs.research.offline.verdict import Verdict, judge
from envs.research.statistics import Interval


@dataclass(frozen=True, slots=True)
class PolicyReport:
    """What the log says of one policy."""

    policy: str
    behaviour: Interval
    estimates: list[Estimate]
    verdict: Verdict

    def as_dict(self) -> dict[str, Any]:
        """JSON values; null where nothing is known."""
        return {
            "policy": self.policy,
            "behaviour": _numbers(self.behaviour),
            "estimates": [
                {
                    "estimator": e.name,
                    **_numbers(e.supported),
                    "effective_sample_size": _known(e.effective_sample_size),
                }
                for e in self.estimates
            ],
            "gain": _numbers(self.verdict.gain),
            "verdict": self.verdict.answer,
            "reason": self.verdict.reason,
        }


def judged(episodes: Episodes, reference: str, *, discount: float, seed: int) -> PolicyReport:
    """All estimates and the verdict. The seed alone decides them, whatever other policies are judged beside."""
    rng = np.random.default_rng(seed)
    evidence = gather(episodes, load_policy(reference), rng, discount=discount)
    return PolicyReport(reference, behaviour_value(evidence, rng), estimates(evidence, rng), judge(evidence, rng))


def _numbers(interval: Interval) -> dict[str, float | None]:
    return {"value": _known(interval.value), "low": _known(interval.low), "high": _known(interval.high)}


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
