"""Whether one policy is better than another, by the validation reports of jobs that differ in nothing else."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from bss_service.core.arrays import Float64, Int64
from bss_service.core.validation.comparison import (
    binomial_spread,
    corrected_level,
    late_spread,
    pairs_needed,
    student_interval,
    verdict_of,
)
from bss_service.errors import InvalidValueError
from bss_service.job.job import Job
from bss_service.protocol.jobs import JobSpec
from bss_service.protocol.policies import PolicySpec
from bss_service.protocol.validation import Comparison, Difference, PolicyComparison, ValidationReport

ALIKE: Final = ("samples", "modalities", "unimodal_heads", "batch_size", "tail", "horizon")  # or they can't be compared
PLAIN: Final = "uniform"  # what all others are compared with, where it is there
MAX_STEPS: Final = 1000  # of a curve in an answer


@dataclass(frozen=True, slots=True)
class Run:
    """What is compared of a job."""

    spec: JobSpec
    policies: tuple[tuple[int, PolicySpec], ...]  # that have drawn, with the first step of each
    reports: Sequence[ValidationReport]

    @property
    def policy(self) -> str:
        """Its policies in words; jobs for which they are the same have had the same."""
        (_, first), *later = self.policies
        return ", ".join([_named(first), *(f"{_named(spec)} from step {step}" for step, spec in later)])


def run_of(job: Job) -> Run:
    """The caller holds the job's lock; what it gets does not change any more."""
    versions = job.versions
    starts = [0, *(v.first_step for v in versions.versions if 0 < v.first_step < job.served)]
    drawn = [(step, versions.in_force(step).spec) for step in sorted(set(starts))]
    changed = [drawn[k] for k in range(len(drawn)) if k == 0 or drawn[k][1] != drawn[k - 1][1]]
    return Run(job.spec, tuple(changed), list(job.history.reports))


def compare(runs: Sequence[Run]) -> Comparison:
    """Each policy against the baseline: `uniform` where one of the jobs has it, else the policy of the first.

    Jobs with the same policy are runs of it with several seeds. Raises InvalidValueError, with the field and the values
    that differ, where they can't be compared.
    """
    _check_alike(runs)
    arms = _arms(runs)
    baseline = PLAIN if PLAIN in arms else runs[0].policy
    pairs = {policy: _pairs(policy, arms[policy], baseline, arms[baseline]) for policy in arms if policy != baseline}
    paired = {run.spec.name: run for pairs_of in pairs.values() for pair in pairs_of for run in pair}
    steps = _common_steps(list(paired.values()))
    level = corrected_level(len(pairs))
    told = [_compared(policy, pairs_of, steps, level) for policy, pairs_of in pairs.items()]
    return Comparison(
        sentence=" ".join(_sentence(policy, baseline, level, int(steps[-1])) for policy in told),
        baseline=baseline,
        level=level,
        steps=steps[_shown(len(steps))].tolist(),
        policies=told,
        unpaired=[run.spec.name for run in runs if run.spec.name not in paired],
    )


def _named(policy: PolicySpec) -> str:
    given = ", ".join(
        f"{name}={json.dumps(value, sort_keys=True)}" for name, value in sorted(policy.parameters.items())
    )
    return f"{policy.name} ({given})" if given else policy.name


def _check_alike(runs: Sequence[Run]) -> None:
    first = runs[0]
    for run in runs:
        for field in ALIKE:
            _check_same(field, first, getattr(first.spec, field), run, getattr(run.spec, field))
    for run in runs:
        if not run.reports:
            raise InvalidValueError(
                f"job {run.spec.name!r} has no validation report yet, and nothing else can be compared",
                field="validation",
                value=run.spec.name,
            )
        sizes = first.reports[-1].samples, run.reports[-1].samples
        _check_same("validation samples", first, sizes[0], run, sizes[1])


def _check_same(field: str, first: Run, one: Any, run: Run, other: Any) -> None:
    """Raises InvalidValueError where a field is known of both and differs."""
    if one is not None and other is not None and one != other:
        raise InvalidValueError(
            f"jobs that are compared must have the same {field}: {first.spec.name!r} has {one!r}, "
            f"{run.spec.name!r} has {other!r}",
            field=field,
            value=[one, other],
        )


def _arms(runs: Sequence[Run]) -> dict[str, dict[int, Run]]:
    """The runs by policy and seed."""
    arms: dict[str, dict[int, Run]] = {}
    for run in runs:
        known = arms.setdefault(run.policy, {}).setdefault(run.spec.seed, run)
        if known is not run:
            raise InvalidValueError(
                f"jobs of the same policy must have different seeds: {known.spec.name!r} and {run.spec.name!r} have "
                f"policy {run.policy} and seed {run.spec.seed}",
                field="seed",
                value=[known.spec.seed, run.spec.seed],
            )
    if len(arms) < 2:
        raise InvalidValueError(
            f"jobs that are compared must have different policies: all have {runs[0].policy}",
            field="policy",
            value=[run.policy for run in runs],
        )
    return arms


def _pairs(policy: str, arm: Mapping[int, Run], baseline: str, base: Mapping[int, Run]) -> list[tuple[Run, Run]]:
    """Runs of a policy and of the baseline with the same seed, by seed."""
    pairs = [(arm[seed], base[seed]) for seed in sorted(arm.keys() & base.keys())]
    if not pairs:
        raise InvalidValueError(
            f"jobs are compared in pairs of the same seed: those of {policy} have {sorted(arm)}, those of {baseline} "
            f"{sorted(base)}; `bss control JOB` makes the other half of a pair",
            field="seed",
            value=[sorted(arm), sorted(base)],
        )
    return pairs


def _common_steps(runs: Sequence[Run]) -> Int64:
    """The steps at which all runs validated, (T,): a best of more tries is a better one."""
    common = set.intersection(*({report.step for report in run.reports} for run in runs))
    if not common:
        told = [[report.step for report in run.reports[-3:]] for run in runs[:2]]
        raise InvalidValueError(
            f"jobs that are compared must have validated at the same steps: {runs[0].spec.name!r} did last at "
            f"{told[0]}, {runs[1].spec.name!r} at {told[1]}",
            field="validation step",
            value=told,
        )
    return np.array(sorted(common), dtype=np.int64)


def _compared(policy: str, pairs: Sequence[tuple[Run, Run]], steps: Int64, level: float) -> PolicyComparison:
    own, base = (np.array([_accuracies(pair[side], steps) for pair in pairs]) for side in (0, 1))  # (k, T)
    best = _difference(own.max(axis=1) - base.max(axis=1), level)
    spread, spread_from = _spread(own, base, pairs)
    verdict = "can't tell yet" if best.low is None or best.high is None else verdict_of(best.low, best.high)
    needed = None if verdict != "can't tell yet" or not spread else pairs_needed(best.mean, spread, level)
    return PolicyComparison(
        policy=policy,
        verdict=verdict,
        best=best,
        last=_difference(own[:, -1] - base[:, -1], level),
        seeds=[run.spec.seed for run, _ in pairs],
        jobs=[run.spec.name for run, _ in pairs],
        baseline_jobs=[run.spec.name for _, run in pairs],
        spread=spread,
        spread_from=spread_from,
        more_seeds=None if needed is None else max(1, needed - len(pairs)),
        curve=[_difference(own[:, k] - base[:, k], level) for k in _shown(len(steps))],
    )


def _accuracies(run: Run, steps: Int64) -> Float64:
    known = {report.step: report.accuracy for report in run.reports}
    return np.array([known[step] for step in steps.tolist()])


def _difference(differences: Float64, level: float) -> Difference:
    """Of (k,) pairs; without an interval where all are the same, as accuracies of few samples are by chance."""
    if len(differences) < 2 or np.ptp(differences) == 0:
        return Difference(mean=float(differences.mean()))
    mean, half = student_interval(differences, level)
    return Difference(mean=float(mean), low=float(mean - half), high=float(mean + half))


def _spread(own: Float64, base: Float64, pairs: Sequence[tuple[Run, Run]]) -> tuple[float | None, Any]:
    """Standard deviation of one pair's difference, and where it is from: of one pair the larger of two estimates."""
    if len(pairs) > 1:
        return float((own.max(axis=1) - base.max(axis=1)).std(ddof=1)), "pairs"
    late = late_spread(own[0] - base[0])
    samples = pairs[0][0].reports[-1].samples or pairs[0][1].reports[-1].samples
    sampled = None if samples is None else binomial_spread(float(own.max()), float(base.max()), samples)
    known = [(late, "late validations"), (sampled, "validation samples")]
    return max(((value, name) for value, name in known if value is not None), default=(None, None))


def _shown(steps: int) -> list[int]:
    """Which of the steps an answer has: all, or evenly spread ones with the last."""
    return np.unique(np.linspace(0, steps - 1, min(steps, MAX_STEPS)).round().astype(np.int64)).tolist()  # type: ignore[no-any-return]


def _sentence(told: PolicyComparison, baseline: str, level: float, until: int) -> str:
    verdict = f"can't tell yet whether {told.policy} helps" if told.verdict == "can't tell yet" else ""
    result = (
        f"{verdict or f'{told.policy} {told.verdict}'}: {_points(told.best.mean)} points of best validation accuracy "
        f"over {baseline}, {_interval(told, level)}, up to step {until:,}"
    )
    return f"{result}; {_outlook(told)}." if verdict else f"{result}."


def _interval(told: PolicyComparison, level: float) -> str:
    pairs = len(told.seeds)
    if told.best.low is not None and told.best.high is not None:
        ends = f"[{_points(told.best.low)}, {_points(told.best.high)}]"
        return f"{100 * level:.3g} % interval {ends} of {pairs} paired seeds"
    if pairs == 1:
        return "no interval: one pair of runs tells nothing of other seeds"
    return f"no interval: the {pairs} paired seeds differ by the same"


def _outlook(told: PolicyComparison) -> str:
    """How many more seeds it would take, and by which noise."""
    if len(told.seeds) > 1 and not told.spread:
        return "what is the same by chance differs with another seed"
    if not told.spread:
        return "its noise is not known: at least 4 validations, or how many samples they have, would tell"
    noises = {
        "pairs": "their spread",
        "late validations": f"a spread of {100 * told.spread:.2f} points, as from one late validation to the next",
        "validation samples": f"a spread of {100 * told.spread:.2f} points, of the samples of the validation set alone",
    }
    assumed = noises.get(told.spread_from or "", "their spread")
    if told.more_seeds is None:
        return f"with {assumed}, no number of seeds within reason would tell a difference of this size"
    seeds = "1 more seed" if told.more_seeds == 1 else f"{told.more_seeds:,} more seeds"
    return f"with {assumed}, {seeds} would tell a difference of this size with 80 % power"


def _points(difference: float) -> str:
    return f"{100 * difference:+.2f}"
