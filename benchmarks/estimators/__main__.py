"""Off-policy estimators where the truth is known: bias, error, coverage of their intervals, and the verdicts.

python -m benchmarks.estimators --write     (about 3 minutes on one core; writes benchmarks/results/estimators.md)
"""

import argparse
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.estimators.known_values import LinearGaussian, Tabular, World
from envs.research.offline.estimators import Estimate, estimates, gather
from envs.research.offline.fitted_q import Features, standard_features
from envs.research.offline.verdict import Answer, judge

RESULT = Path(__file__).parents[1] / "results" / "estimators.md"
NAMES = ("IPS", "SNIPS", "PDIS", "WPDIS", "DR", "FQE")
Case = tuple[str, World, Features]


def cases() -> list[Case]:
    near, far = LinearGaussian(0.2), LinearGaussian(0.8)
    tabular, tabular_far = Tabular(0.5), Tabular(1.0)
    return [
        ("tabular, near", tabular, tabular.features),
        ("tabular, far", tabular_far, tabular_far.features),
        ("Gaussian, near", near, near.features),
        ("Gaussian, near, standard features (no time × state: can't hold Q)", near, standard_features),
        ("Gaussian, far", far, far.features),
        ("Gaussian, far, standard features (can't hold Q)", far, standard_features),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=200, help="data sets for each row")
    parser.add_argument("--runs", type=int, nargs="+", default=[30, 100, 300], help="runs in a data set")
    parser.add_argument("--write", action="store_true", help=f"write {RESULT.name}")
    args = parser.parse_args()
    start = time.perf_counter()
    lines = list(report(args.runs, args.repetitions))
    lines.append(f"{time.perf_counter() - start:.0f} s.")
    if args.write:
        RESULT.write_text("\n".join(lines) + "\n")


def report(runs: list[int], repetitions: int) -> Iterator[str]:
    """The lines of the result, printed as they come."""
    for line in _lines(runs, repetitions):
        print(line, flush=True)
        yield line


def _lines(runs: list[int], repetitions: int) -> Iterator[str]:
    yield "# Off-policy estimators against known values"
    yield ""
    yield f"`python -m benchmarks.estimators --write`: {repetitions} data sets a row, 5 decisions a run, 95 % each."
    yield f"The standard error of a coverage of 95 % is {100 * np.sqrt(0.95 * 0.05 / repetitions):.1f} points."
    yield "ESS: median effective sample size, in runs. Width: median width of the interval."
    yield ""
    verdicts = []
    for name, world, features in cases():
        yield f"## {name}; true value {world.value():.3f}"
        yield ""
        yield "| runs | estimator | bias | RMSE | coverage | width | ESS |"
        yield "|---|---|---|---|---|---|---|"
        for n in runs:
            results, answers, right = repeated(world, features, n, repetitions)
            for k, estimator in enumerate(NAMES):
                yield f"| {n} | {estimator} | {_row([result[k] for result in results], world.value())} |"
            verdicts.append(f"| {name} | {n} | {_verdict_row(answers, right)} |")
        yield ""
    yield "## Verdicts"
    yield ""
    yield "Coverage: of the gain's interval by DR, where the data were said to tell. Misled: of all data sets, those"
    yield "said to tell whose interval misses the true gain; 5 % where intervals hold and all can tell."
    yield ""
    yield "| case | runs | can't tell | better | no clear difference | worse | coverage | misled |"
    yield "|---|---|---|---|---|---|---|---|"
    yield from verdicts
    yield ""


def repeated(
    world: World, features: Features, n: int, repetitions: int
) -> tuple[list[list[Estimate]], list[Answer], list[bool]]:
    """Estimates of every data set, the verdicts, and whether the intervals of those that tell hold the true gain."""
    rng = np.random.default_rng(n)
    truth = world.value() - float(world.runs(200_000, np.random.default_rng(1)).returns(1.0).mean())
    results, answers, right = [], [], []
    for _ in range(repetitions):
        evidence = gather(world.runs(n, rng), world.target, rng, features=features)
        results.append(estimates(evidence, rng))
        verdict = judge(evidence, rng)
        answers.append(verdict.answer)
        if verdict.answer != "can't tell":
            right.append(bool(verdict.gain.low <= truth <= verdict.gain.high))
    return results, answers, right


def _row(results: list[Estimate], truth: float) -> str:
    values, lows, highs = np.array([(e.interval.value, e.interval.low, e.interval.high) for e in results]).T
    error = np.sqrt(np.mean((values - truth) ** 2))
    covered = np.mean((lows <= truth) & (truth <= highs))
    size = np.median([e.effective_sample_size for e in results])
    bias = f"{values.mean() - truth:+.3f} ± {values.std() / np.sqrt(len(values)):.3f}"
    return f"{bias} | {error:.3f} | {covered:.1%} | {np.median(highs - lows):.2f} | {size:.0f}"


def _verdict_row(answers: list[Answer], right: list[bool]) -> str:
    shares = Counter(answers)
    order = ("can't tell", "better", "no clear difference", "worse")
    cells = [f"{shares[answer] / len(answers):.0%}" for answer in order]
    misled = right.count(False) / len(answers)
    return " | ".join([*cells, f"{np.mean(right):.1%} of {len(right)}" if right else "–", f"{misled:.1%}"])


if __name__ == "__main__":
    main()
