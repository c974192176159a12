"""The report's pictures, each a function of the results."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, PercentFormatter

from demo.page.canvas import GRID, INK, MUTED, PAPER, Picture, colour_of, label_ends, panel, place, style, to_picture
from demo.plan import Condition
from demo.ranking import DECILES, share, wrong_share_by_decile
from demo.results import EVERYONE, JOINT, RIGHT, WRONG, Announcement, Decision, Results, RunResult, SwapProof
from demo.summary import Row, signed

REWARD_LIMIT: Final = 1.15  # a normalised gain lies in [−1, 1], the balance term adds a little
FIELDS: Final = {"kappa_similarity": "κ similarity", "kappa_loss": "κ loss", "share": "share kept"}
COVERAGE: Final = {"epoch": "each sample once", "subset": "passes over the kept", "draw": "with replacement"}


def head_name(head: str) -> str:
    """A head as readers know it."""
    return "fused" if head == JOINT else head


def gains(rows: Sequence[Row], condition: Condition) -> Picture:
    """Gain of each policy over the baseline: mean, interval, and each seed."""
    shown = [row for row in rows if row.condition == condition and row.gain is not None]
    reach = 1.1 * max((abs(v) for row in rows for v in _extent(row)), default=0.0) or 1.0
    with style():
        figure, axes = panel(0.75 + 0.4 * max(1, len(shown)), left=0.85, right=0.2)
        axes.axvline(0, color=INK, linewidth=0.9)
        for place_y, row in enumerate(reversed(shown)):
            _draw_gain(axes, row, place_y)
        axes.set_yticks(range(len(shown)), [row.policy for row in reversed(shown)], color=INK)
        axes.set_ylim(-0.6, len(shown) - 0.4)
        axes.set_xlim(-reach, reach)
        axes.xaxis.set_major_locator(MaxNLocator(7, integer=True))
        axes.grid(False, axis="y")
        axes.spines["left"].set_visible(False)
        axes.set_title(condition.title)
        axes.set_xlabel("gain over uniform, percentage points of test accuracy")
        text = "; ".join(f"{row.policy} {signed(row.gain.mean)}" for row in shown if row.gain is not None)
        return to_picture(figure, f"Gain over uniform in points, {condition.title}: {text}")


def accuracy(results: Results, condition: Condition, head: str) -> Picture:
    """Validation accuracy of a head over epochs: mean over seeds, band from the lowest to the highest seed."""
    with style():
        figure, axes = panel(2.8, right=0.78)
        ends = []
        for policy in results.policies:
            curves = 100 * np.array([[e.accuracy[head] for e in r.epochs] for r in results.of(condition, policy)])
            epochs = np.arange(1, curves.shape[1] + 1)
            axes.fill_between(epochs, curves.min(0), curves.max(0), color=colour_of(policy), alpha=0.13, linewidth=0)
            axes.plot(epochs, curves.mean(0), color=colour_of(policy))
            ends.append((policy, float(curves.mean(0)[-1]), colour_of(policy)))
        low, high = _accuracy_range(results)
        axes.set_ylim(low, high)
        axes.set_xlim(1, max(2, len(epochs)))
        label_ends(axes, ends, len(epochs), gap=(high - low) / 13)
        axes.yaxis.set_major_formatter(PercentFormatter(decimals=0, symbol=" %"))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.set_title(f"{head_name(head)} head, {condition.title}")
        axes.set_xlabel("epoch")
        axes.set_ylabel("validation accuracy")
        return to_picture(figure, f"Validation accuracy of the {head_name(head)} head over epochs, {condition.title}")


def score_bands(result: RunResult, limits: tuple[float, float]) -> Picture:
    """Distribution of the balance scores that each epoch was drawn from."""
    run = result.run
    colour = colour_of(run.policy)
    with style():
        figure, axes = panel(2.2, width=2.9, right=0.75)
        epochs = np.array([b.epoch + 1 for b in result.bands])
        bands = np.array([b.quantiles[EVERYONE] for b in result.bands]).reshape(-1, 5)
        axes.fill_between(epochs, bands[:, 0], bands[:, 4], color=colour, alpha=0.14, linewidth=0)
        axes.fill_between(epochs, bands[:, 1], bands[:, 3], color=colour, alpha=0.28, linewidth=0)
        axes.set_xlim(1, max(2, run.epochs))
        axes.set_ylim(*limits)
        ends = []
        for name, dashes in ((RIGHT, "-"), (WRONG, (0, (3, 2)))) if _has_wrong(result) else ((EVERYONE, "-"),):
            middle = np.array([b.quantiles[name][2] for b in result.bands])
            ink = INK if name == WRONG else colour
            axes.plot(epochs, middle, color=ink, linestyle=dashes)
            ends.append(("median" if name == EVERYONE else name, float(middle[-1]), ink))
        if len(epochs):
            label_ends(axes, ends, epochs[-1], gap=(limits[1] - limits[0]) / 10)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.set_title(f"{run.policy}, {run.condition.title}")
        axes.set_xlabel("epoch drawn")
        axes.set_ylabel("balance score ŝ")
        return to_picture(figure, f"Balance scores over epochs under {run.policy}, {run.condition.title}")


def score_limits(results: Results) -> tuple[float, float]:
    """One range for all pictures of balance scores."""
    values = [v for r in results.runs for band in r.bands for v in band.quantiles[EVERYONE]]
    low, high = min(values, default=-1.0), max(values, default=1.0)
    return low - 0.05, high + 0.05


def decisions(result: RunResult) -> Picture:
    """What the policy chose at each interval, above, and the reward that this got, below."""
    run = result.run
    arms = _arms(result.decisions)
    with style():
        figure, _ = panel(1.0)
        figure.clear()
        figure.set_size_inches(figure.get_size_inches()[0], 3.1)
        place(figure, left=0.95, right=0.3 if arms else 0.6, hspace=0.16)
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(1.5, 1))
        if arms:
            _draw_arms(above, result.decisions, arms, colour_of(run.policy))
        else:
            _draw_fields(above, result.decisions, colour_of(run.policy))
        _draw_rewards(below, result.decisions, colour_of(run.policy))
        below.set_xlim(0.3, len(result.decisions) + 0.7)
        below.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        below.set_xlabel("interval (one epoch each)")
        above.set_title(f"{run.policy}, {run.condition.title}, seed {run.seed}")
        return to_picture(
            figure, f"Choices and rewards of {run.policy}, {run.condition.title}, seed {run.seed}, by interval"
        )


def wrong_labels(results: Results, condition: Condition) -> Picture:
    """Share of wrong labels among samples ranked by their last balance score, in tenths."""
    with style():
        figure, axes = panel(2.6, width=4.1, left=0.6, right=0.85, bottom=0.55)
        tenths = np.arange(1, DECILES + 1)
        axes.set_xlim(0.6, DECILES + 0.4)
        curves = {
            policy: 100 * np.mean([wrong_share_by_decile(r) for r in results.of(condition, policy)], axis=0)
            for policy in results.policies
        }
        top = max(curve.max() for curve in curves.values())
        axes.set_ylim(0, 1.1 * top + 1)
        overall = float(100 * np.mean([share(r.wrong_label) for r in results.of(condition, results.policies[0])]))
        axes.axhline(overall, color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)))
        for policy, curve in curves.items():
            axes.plot(tenths, curve, color=colour_of(policy), marker="o", markersize=3)
        ends = [(policy, float(curve[-1]), colour_of(policy)) for policy, curve in curves.items()]
        ends.append(("all samples", overall, MUTED))
        label_ends(axes, ends, DECILES, gap=1.1 * top / 13)
        axes.set_xticks(tenths, ["least\nbalanced", *map(str, tenths[1:-1]), "most\nbalanced"])
        axes.set_xlabel("tenth of the training samples, ranked by their last ŝ")
        axes.set_ylabel("share of wrong labels")
        axes.yaxis.set_major_formatter(PercentFormatter(decimals=0, symbol=" %"))
        return to_picture(figure, f"Share of wrong labels by tenth of the ranking by balance score, {condition.title}")


def swap_timeline(proof: SwapProof, result: RunResult) -> Picture:
    """Time of each step around the swap, coloured by the version that drew its batch."""
    swap = proof.announced
    length = swap.epoch_end - swap.epoch_start
    around = range(swap.epoch_start - length // 4, swap.epoch_end + length // 4)
    shown = [
        (after.step, 1000 * (after.at - before.at), after.policy_version)
        for before, after in pairwise(result.steps)
        if after.step in around
    ]
    with style():
        figure, axes = panel(2.5, width=4.2, right=0.15, top=0.55)
        top = 1.3 * max((ms for _, ms, _ in shown), default=1.0)
        axes.set_ylim(0, top)
        axes.set_xlim(around.start - 1, around.stop)
        versions = ((result.run.policy, lambda v: v != swap.policy_version), (swap.policy, swap.policy_version.__eq__))
        for policy, drew in versions:
            points = [(step, ms) for step, ms, version in shown if drew(version)]
            axes.vlines([s for s, _ in points], 0, [m for _, m in points], color=colour_of(policy), linewidth=1.6)
        _mark_epochs(axes, swap, around, top)
        axes.axvline(swap.first_step - 0.5, color=INK, linewidth=1.0)
        written: dict[str, Any] = {"fontsize": 7.5, "va": "top"}
        before = f"drawn by {result.run.policy}"
        axes.text(around.start, 0.96 * top, before, color=colour_of(result.run.policy), **written)
        after = f" version {swap.policy_version} ({swap.policy}) from step {swap.first_step} on "
        late = swap.first_step > (around.start + around.stop) / 2
        height, side = (0.88 * top, "right") if late else (0.96 * top, "left")
        axes.text(swap.first_step - 0.5, height, after, color=colour_of(swap.policy), ha=side, **written)
        axes.set_title("The trainer's batches around the swap", pad=16)
        axes.set_xlabel("step")
        axes.set_ylabel("time of the step, ms")
        axes.grid(False, axis="x")
        return to_picture(figure, f"Time of each step around step {swap.first_step}, by policy version")


def _mark_epochs(axes: Axes, swap: Announcement, around: range, top: float) -> None:
    for boundary in (swap.epoch_start, swap.epoch_end):
        axes.vlines(boundary - 0.5, 0, 0.78 * top, color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)))
    ends = (around.start, swap.epoch_start, swap.epoch_end, around.stop)
    for epoch, (start, stop) in enumerate(pairwise(ends), start=swap.epoch - 1):
        axes.text((start + stop) / 2, 1.02 * top, f"epoch {epoch}", color=MUTED, fontsize=7.5, ha="center", va="bottom")


def _extent(row: Row) -> list[float]:
    if row.gain is None:
        return []
    ends = [] if row.gain.half_width is None else [row.gain.low, row.gain.high]
    return [*row.gains, *ends, row.gain.mean]


def _draw_gain(axes: Axes, row: Row, y: float) -> None:
    assert row.gain is not None
    colour = colour_of(row.policy)
    axes.plot(row.gains, [y - 0.22] * len(row.gains), "o", color=colour, alpha=0.45, markersize=3.2, linewidth=0)
    if row.gain.half_width is not None:
        axes.plot([row.gain.low, row.gain.high], [y, y], color=colour, linewidth=2.4)
    axes.plot([row.gain.mean], [y], "o", color=colour, markersize=6, markeredgecolor=PAPER)


def _accuracy_range(results: Results) -> tuple[float, float]:
    """One range for all heads and conditions, from the mean curves: a band may leave it."""
    means = [
        np.mean([[100 * e.accuracy[head] for e in r.epochs] for r in results.of(condition, policy)], axis=0)
        for condition in results.conditions
        for policy in results.policies
        for head in results.heads
    ]
    return float(10 * np.floor(np.min(means) / 10)), float(5 * np.ceil(np.max(means) / 5 + 0.2))


def _has_wrong(result: RunResult) -> bool:
    return all(WRONG in band.quantiles and RIGHT in band.quantiles for band in result.bands)


def _arms(chosen: Sequence[Decision]) -> list[str]:
    """The names between which a bandit chooses; none for other policies."""
    return next((list(d.detail["probabilities"]) for d in chosen if "probabilities" in d.detail), [])


def _draw_arms(axes: Axes, chosen: Sequence[Decision], arms: Sequence[str], colour: str) -> None:
    for number, decision in enumerate(chosen, start=1):
        for arm, probability in decision.detail.get("probabilities", {}).items():
            corner = (number - 0.5, arms.index(arm) - 0.5)
            axes.add_patch(Rectangle(corner, 1, 1, color=colour, alpha=float(probability), linewidth=0))
        axes.plot(
            [number],
            [arms.index(decision.detail["arm"])],
            "o",
            markersize=3,
            color=MUTED if decision.detail.get("warm_up") else INK,
            markeredgewidth=0,
        )
    axes.set_yticks(range(len(arms)), [arm.replace("_", " ") for arm in arms], color=INK)
    axes.set_ylim(len(arms) - 0.5, -0.5)
    axes.grid(False)


def _draw_fields(axes: Axes, chosen: Sequence[Decision], colour: str) -> None:
    """A strip for each field of the action, from 0 to its largest value, the last value beside it."""
    numbers = np.arange(1, len(chosen) + 1)
    for row, (field, _) in enumerate(FIELDS.items()):
        values = np.array([float(getattr(d.action, field)) for d in chosen])
        base = row + 0.36
        heights = 0.7 * np.abs(values) / max(1.0, float(np.abs(values).max()))
        axes.fill_between(numbers, base, base - heights, step="mid", color=colour, alpha=0.3, linewidth=0)
        axes.step(numbers, base - heights, where="mid", color=colour, linewidth=1.2)
        axes.axhline(base, color=GRID, linewidth=0.6)
        axes.annotate(
            _value(field, values[-1]),
            (1, base - 0.35),
            xycoords=("axes fraction", "data"),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=7.5,
            color=colour,
            annotation_clip=False,
        )
    last = COVERAGE[chosen[-1].action.coverage]
    axes.text(numbers[0] - 0.4, len(FIELDS), f"at the end: {last}", va="center", fontsize=7.5, color=MUTED)
    axes.set_yticks(range(len(FIELDS)), list(FIELDS.values()), color=INK)
    axes.set_ylim(len(FIELDS) + 0.4, -0.55)
    axes.grid(False)
    axes.tick_params(bottom=False)
    axes.spines[["left", "bottom"]].set_visible(False)


def _value(field: str, value: float) -> str:
    return f"{100 * value:.0f} %" if field == "share" else f"{value:g}"


def _draw_rewards(axes: Axes, chosen: Sequence[Decision], colour: str) -> None:
    rewarded = [(number, d.reward) for number, d in enumerate(chosen, start=1) if d.reward is not None]
    axes.axhline(0, color=INK, linewidth=0.7)
    axes.bar([n for n, _ in rewarded], [r for _, r in rewarded], width=0.7, color=colour)
    axes.set_ylim(-REWARD_LIMIT, REWARD_LIMIT)
    axes.set_yticks([-1, 0, 1])
    axes.set_ylabel("reward")
