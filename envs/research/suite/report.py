"""A suite's report: Markdown whose first sentence is the result, two figures, and every run on a line of JSON."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

import numpy as np

from envs.research.files import Storage
from envs.research.statistics import Interval, aggregate_score
from envs.research.suite.cells import PLAIN, Kept
from envs.research.suite.drawing import Row, chart
from envs.research.suite.running import Played
from envs.research.suite.spec import Suite
from envs.research.suite.verdicts import Judged, Verdict, judge

REPORT: Final = "report.md"
GAINS: Final = "gains.svg"
CRITERIA: Final = "criteria.svg"
RUNS: Final = "runs.jsonl"


def write_report(played: Played, folder: Storage, name: str, notes: Sequence[str] = ()) -> str:
    """Write all of it into the folder; the first sentence. notes: sentences on its data."""
    judged = judge(played)
    files = {
        REPORT: "\n".join(lines(played, judged, name, notes)) + "\n",
        GAINS: gains_figure(played, judged),
        RUNS: "".join(f"{line}\n" for line in run_lines(played)),
    }
    if played.suite.criteria:
        files[CRITERIA] = criteria_figure(played, judged)
    for file, text in files.items():
        folder.write(file, text.encode())
    return headline(played, judged)


def headline(played: Played, judged: Judged) -> str:
    """Who beats the baseline over all tasks, or that nobody does, with intervals corrected for all methods."""
    suite = played.suite
    better = [verdict for verdict in judged.verdicts if verdict.gain.low > 0]
    worse = [verdict for verdict in judged.verdicts if verdict.gain.high < 0]
    rest = len(judged.verdicts) - len(better) - len(worse)
    over = f"over {_count(len(suite.tasks), 'task')} and {suite.seeds} paired seeds"
    if better:
        first = f"{_listed(better)} beat{'s' * (len(better) == 1)} `{suite.baseline}` {over}"
    else:
        most = max(judged.verdicts, key=lambda verdict: verdict.gain.value)
        told = f"`{most.name}`, gains {_signed(most.gain)} points"
        first = f"No method beats `{suite.baseline}` {over}: the one that comes out highest, {told}"
    losing = f", {_listed(worse)} lose{'s' * (len(worse) == 1)} to it" if worse else ""
    undecided = f", and {rest} can't be told from it" if rest else ""
    return (
        f"{first}{losing}{undecided} (points of test accuracy, interquartile means; intervals hold for all "
        f"{_count(len(judged.verdicts), 'comparison')} together with 95 %)."
    )


def lines(played: Played, judged: Judged, name: str, notes: Sequence[str] = ()) -> Iterator[str]:
    """The report, line by line."""
    suite = played.suite
    yield from (f"# Suite {name}", "", headline(played, judged), "")
    if notes:
        yield from (*(f"- {note}" for note in notes), "")
    yield from (*_by_task(played, judged), "")
    yield from (_on_test(played, judged), "")
    yield from _protocol(suite)
    yield from ("", f"## Against `{suite.baseline}`", "", *_against(played, judged), "")
    yield f"![Gains over {suite.baseline}, by which set the epoch was chosen]({GAINS})"
    yield from ("", "## Each task", "", *_each_task(played, judged), "")
    yield from ("## Accuracy, macro-F1 and mean average precision", "", *_accuracies(played, judged), "")
    if any(task.published for task in suite.tasks.values()):
        yield from ("## Beside what was published", "", *_published(played, judged), "")
    yield from ("## How evenly modalities are used", "", *_balance(played))
    if suite.criteria:
        yield from ("", "## Easy first or hard first", "", f"![Curricula by criterion]({CRITERIA})")


def run_lines(played: Played) -> Iterator[str]:
    """Every run, with what was chosen for it."""
    for (task, method, seed), run in played.runs.items():
        values = played.chosen[task, method]
        yield json.dumps(_rounded({"task": task, "method": method, "seed": seed, "values": values, **run}))


def gains_figure(played: Played, judged: Judged) -> str:
    """Each method's gain with the epoch chosen on validation, and beside it on the test set."""
    rows = [
        Row(verdict.name, {"validation": verdict.gain, "test set": verdict.gain_on_test}) for verdict in judged.verdicts
    ]
    return chart(
        f"Gain over {played.suite.baseline}, in points of test accuracy, by what chose the epoch",
        rows,
        zero=True,
        note=f"{_count(len(played.suite.tasks), 'task')}, {played.suite.seeds} paired seeds; intervals hold together",
    )


def criteria_figure(played: Played, judged: Judged) -> str:
    """For each criterion: easy first, plain, hard first, as in Figure 1 of the paper; mean accuracies."""
    suite = played.suite

    def accuracy(method: str) -> Interval:
        return aggregate_score(judged.accuracy[method], np.random.default_rng(0))

    rows = [
        Row(
            criterion,
            {
                "curriculum": accuracy(bars.curriculum),
                "plain": accuracy(suite.baseline),
                "anti-curriculum": accuracy(bars.anti),
            },
        )
        for criterion, bars in suite.criteria.items()
    ]
    return chart(
        "Test accuracy in %, interquartile mean: easy samples first, plain shuffling, hard samples first",
        rows,
        zero=False,
        note=f"{_count(len(suite.tasks), 'task')}, {suite.seeds} seeds; 95 % intervals",
    )


def _protocol(suite: Suite) -> Iterator[str]:
    ways: dict[str, list[str]] = {}
    for task in suite.tasks:
        ways.setdefault(_trained(suite, task), []).append(task)
    told = next(iter(ways)) if len(ways) == 1 else "as told below"
    yield (
        f"The protocol: each method had {_count(suite.trials, 'trial')} a task to be tuned in, judged by the best "
        "validation accuracy of a run of a seed of its own: first all as by default, then drawn at random, the "
        "learning rate together with what the method itself lets be tuned. With what was found it ran on seeds 0 to "
        f"{suite.seeds - 1}, {told}; data, harm, first weights and order of a seed are the same for all. The epoch is "
        "the best on validation, whose labels are true; those of the test set were out of reach until training was "
        "over."
    )
    if len(ways) > 1:
        yield ""
        yield from (f"- {', '.join(tasks)}: {way}." for way, tasks in ways.items())


def _trained(suite: Suite, task: str) -> str:
    usual, (low, high) = suite.usual(task), suite.rates(task)
    parts = [f"{_count(usual.epochs, 'epoch')} each of {usual.optimiser} in batches of {usual.batch_size}"]
    parts += [f"rates of {low:g} to {high:g}"]
    parts += [f"a tenth of it after every {usual.decay_epochs}"] if usual.decay_epochs else []
    parts += [f"weight decay {usual.weight_decay:g}"] if usual.weight_decay else []
    parts += [f"λ {usual.unimodal_weight:g}"] if usual.unimodal_weight != PLAIN.unimodal_weight else []
    if usual.logits != "joint":
        parts.append({"sum": "all heads", "unimodal": "the unimodal heads"}[usual.logits] + " predict")
    return ", ".join(parts)


def _by_task(played: Played, judged: Judged) -> Iterator[str]:
    """Who wins where, and where nobody does, corrected for all methods on all tasks."""
    suite = played.suite
    nobody = []
    yield f"By task, corrected for all {len(judged.verdicts) * len(suite.tasks)} comparisons:"
    yield ""
    for t, task in enumerate(suite.tasks):
        better = [f"`{v.name}` {_signed(v.task_gains[t])}" for v in judged.verdicts if v.task_gains[t].low > 0]
        worse = [f"`{v.name}` {_signed(v.task_gains[t])}" for v in judged.verdicts if v.task_gains[t].high < 0]
        if not better:
            nobody.append(task)
        if better or worse:
            sides = [f"better are {_joined(better)}" if better else "", f"worse are {_joined(worse)}" if worse else ""]
            yield f"- {task}: {'; '.join(filter(None, sides))}."
    if nobody:
        yield f"- Nobody beats `{suite.baseline}` on: {'; '.join(nobody)}."


def _on_test(played: Played, judged: Judged) -> str:
    """What would be said had the epoch been chosen on the test set."""
    suite = played.suite
    added = [gap.value for gap in judged.gaps.values()]
    honest = [verdict.name for verdict in judged.verdicts if verdict.gain.low > 0]
    bent = [verdict.name for verdict in judged.verdicts if verdict.gain_on_test.low > 0]
    now = _order(suite.baseline, {verdict.name: verdict.gain for verdict in judged.verdicts})
    then = _order(suite.baseline, {verdict.name: verdict.gain_on_test for verdict in judged.verdicts})
    moved = sum(a != b for a, b in zip(now, then, strict=True))
    instead = f" instead of {_named(honest)}" if bent != honest else ", as now"
    highest = f"`{then[0]}`" + (f" instead of `{now[0]}`" if then[0] != now[0] else ", as now")
    return (
        f"Had the epoch been chosen on the test set, `{suite.baseline}` would have "
        f"{_told(judged.gaps[suite.baseline])} points more, the methods {min(added):.2f} to {max(added):.2f}. Against "
        f"`{suite.baseline}` would win {_named(bent)}{instead}; highest would stand {highest}; {moved} of "
        f"{len(suite.methods)} would have another place in the order."
    )


def _against(played: Played, judged: Judged) -> Iterator[str]:
    suite = played.suite
    header = (
        "method",
        "gain [corrected interval]",
        "probability of improvement",
        "gain, epoch chosen on the test set",
        "that choice adds",
        "tasks better, worse",
        "processor time",
        "forward passes",
    )
    rows = [[f"`{suite.baseline}`", "", "", "", _told(judged.gaps[suite.baseline]), "", "1", "1"]]
    for verdict in judged.verdicts:
        better, worse = (sum(test(gain) for gain in verdict.task_gains) for test in (_is_better, _is_worse))
        rows.append(
            [
                f"`{verdict.name}`",
                f"{_signed(verdict.gain)}{_star(verdict)}",
                _told(verdict.improvement),
                _signed(verdict.gain_on_test),
                _told(judged.gaps[verdict.name]),
                f"{better}, {worse}",
                f"{_cost(played, verdict.name, 'seconds'):.2f}",
                f"{_cost(played, verdict.name, 'forward_samples'):.2f}",
            ]
        )
    yield from _table(header, rows)
    yield ""
    yield (
        "Gains in points of test accuracy; * where the interval would exclude 0 if this had been the only comparison. "
        "What the choice adds has an interval of 95 % of its own. Time and passes of a run, in those of the baseline; "
        "on a GPU time is the clock's."
    )


def _each_task(played: Played, judged: Judged) -> Iterator[str]:
    suite = played.suite
    baseline = judged.accuracy[suite.baseline].mean(axis=1)
    rows = [
        [f"`{suite.baseline}`, %", *(f"{value:.1f}" for value in baseline)],
        *([f"`{verdict.name}`", *map(_marked, verdict.task_gains)] for verdict in judged.verdicts),
    ]
    yield from _table(("method", *suite.tasks), rows)
    yield ""
    yield "Mean gains in points; bold where the interval, corrected for all of this table, does not hold 0."


def _accuracies(played: Played, judged: Judged) -> Iterator[str]:
    suite = played.suite
    means = {(t, m): [_mean(played, t, m, k) for k in ("accuracy", "macro_f1", "map")] for t, m in played.chosen}
    best = {t: max(means[t, m][0] for m in suite.methods) for t in suite.tasks}
    rows = []
    for method in suite.methods:
        cells = []
        for t, task in enumerate(suite.tasks):
            first, *others = means[task, method]
            shown = f"**{first:.1f}**" if first == best[task] else f"{first:.1f}"
            shown += f" ({judged.on_test[method][t].mean():.1f})"
            cells.append(" / ".join([shown, *(f"{value:.1f}" for value in others)]))
        rows.append([f"`{method}`", *cells])
    yield from _table(("method", *suite.tasks), rows)
    yield ""
    yield (
        "In %, means over the seeds; bold is the highest accuracy of a task, which need not be told from the next. In "
        "brackets the accuracy had the epoch been chosen on the test set."
    )


def _published(played: Played, judged: Judged) -> Iterator[str]:
    """What papers have, and beside it what came of the same here."""
    suite = played.suite
    tasks = [(t, name, task.published) for t, (name, task) in enumerate(suite.tasks.items()) if task.published]
    rows = []
    for method in suite.methods:
        cells = []
        for t, _, published in tasks:
            theirs = " / ".join(f"{value:.2f}" for value in published.get(method, ())) or "–"
            ours, on_test = (scores[method][t].mean() for scores in (judged.accuracy, judged.on_test))
            cells.append(f"{theirs}; here {ours:.1f}, {on_test:.1f}")
        rows.append([f"`{method}`", *cells])
    yield from _table(("method", *(name for _, name, _ in tasks)), rows)
    yield ""
    yield (
        "In %: accuracy, and mAP or macro-F1, as published, with one seed and the epoch chosen on the test set; then "
        "the accuracy here, the mean over the seeds, with the epoch chosen on validation, and on the test set."
    )


def _balance(played: Played) -> Iterator[str]:
    suite = played.suite
    header = ("method", "strongest head", "weakest head", "gap", "ratio", "difference", "Shapley, strongest", "weakest")
    rows = []
    for method in suite.methods:
        own = [run["figures"] for (_, name, _), run in played.runs.items() if name == method]
        columns: list[Callable[[Kept], float]] = [
            lambda figures: 100 * max(figures["heads"].values()),
            lambda figures: 100 * min(figures["heads"].values()),
            lambda figures: 100 * figures["gap"],
        ]
        shares: list[Callable[[Kept], float]] = [
            lambda figures: figures["ratio"],
            lambda figures: figures["difference"],
            lambda figures: max(figures["shapley"].values()),
            lambda figures: min(figures["shapley"].values()),
        ]
        cells = [f"{np.mean([column(figures) for figures in own]):.1f}" for column in columns]
        cells += [f"{np.mean([share(figures) for figures in own]):.2f}" for share in shares]
        rows.append([f"`{method}`", *cells])
    yield from _table(header, rows)
    yield ""
    yield (
        "Means over tasks and seeds, on the test set. Accuracies of the unimodal heads in %, and their gap; Σp(y) of "
        "the strongest modality over that of the weakest; mean |p_u(y) − p_v(y)|; what a modality adds to the joint "
        f"accuracy. Each head's accuracy is in {RUNS}."
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(header)} |"
    yield f"|{'---|' * len(header)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _mean(played: Played, task: str, method: str, figure: str) -> float:
    """In percent."""
    own = [played.runs[task, method, seed]["figures"][figure] for seed in range(played.suite.seeds)]
    return 100 * float(np.mean(own))


def _cost(played: Played, method: str, figure: str) -> float:
    """Of a method's runs in the baseline's, the mean over tasks."""
    suite = played.suite

    def summed(task: str, name: str) -> float:
        return float(sum(played.runs[task, name, seed][figure] for seed in range(suite.seeds)))

    return float(np.mean([summed(task, method) / summed(task, suite.baseline) for task in suite.tasks]))


def _order(baseline: str, gains: Mapping[str, Interval]) -> list[str]:
    """All methods by their gains, the highest first."""
    values = {baseline: 0.0, **{name: gain.value for name, gain in gains.items()}}
    return sorted(values, key=lambda name: -values[name])


def _is_better(gain: Interval) -> bool:
    return gain.low > 0


def _is_worse(gain: Interval) -> bool:
    return gain.high < 0


def _star(verdict: Verdict) -> str:
    return " *" if verdict.uncorrected.low > 0 or verdict.uncorrected.high < 0 else ""


def _marked(gain: Interval) -> str:
    return f"**{_number(gain.value)}**" if _is_better(gain) or _is_worse(gain) else _number(gain.value)


def _listed(verdicts: Sequence[Verdict]) -> str:
    return _joined([f"`{verdict.name}` ({_signed(verdict.gain)})" for verdict in verdicts])


def _named(names: Sequence[str]) -> str:
    return _joined([f"`{name}`" for name in names]) if names else "nobody"


def _joined(parts: Sequence[str]) -> str:
    return f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else "".join(parts)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _signed(interval: Interval) -> str:
    return f"{_number(interval.value)} [{_number(interval.low)}, {_number(interval.high)}]"


def _number(value: float) -> str:
    return f"{round(value, 1) + 0.0:+.1f}".replace("-", "−")


def _told(interval: Interval) -> str:
    return f"{interval.value:.2f} [{interval.low:.2f}, {interval.high:.2f}]"


def _rounded(value: object) -> object:
    """JSON values with floats as short as they are read."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list) else value
