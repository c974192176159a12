"""The report's pictures, each a function of the results."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from demo.page.canvas import INK, MUTED, PAPER, Picture, colour_of, label_ends, panel, style, to_picture
from demo.plan import SHOWN, Condition
from demo.results import BINS, RIGHT, WRONG, Announcement, Results, RunResult, SwapProof
from demo.summary import Measure, Row, signed

Floats = NDArray[np.float64]
BELIEVED: Final = 0.5  # P(right) below which a label is held for wrong


def gains(rows: Sequence[Row], condition: Condition) -> Picture:
    """Gain of each policy over the baseline: mean, interval, and each seed."""
    shown = [row for row in rows if row.condition == condition and row.test.gain is not None]
    reach = 1.1 * max((abs(v) for row in rows for v in _extent(row.test)), default=0.0) or 1.0
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
        axes.set_xlabel("gain over uniform, points of test accuracy")
        text = "; ".join(f"{row.policy} {signed(row.test.gain.mean)}" for row in shown if row.test.gain is not None)
        return to_picture(figure, f"Gain over uniform in points, {condition.title}: {text}")


def accuracy(results: Results, condition: Condition) -> Picture:
    """Validation accuracy over epochs: mean over seeds, band from the lowest to the highest seed."""
    with style():
        figure, axes = panel(2.8, right=0.78)
        curves = {policy: _curves(results, condition, policy) for policy in results.policies}
        curves = {policy: curve for policy, curve in curves.items() if curve.size}
        for policy, curve in curves.items():
            epochs = np.arange(1, curve.shape[1] + 1)
            axes.fill_between(epochs, curve.min(0), curve.max(0), color=colour_of(policy), alpha=0.13, linewidth=0)
            axes.plot(epochs, curve.mean(0), color=colour_of(policy))
        low, high = _accuracy_range(results, condition.data)
        axes.set_ylim(low, high)
        axes.set_xlim(1, max(2, len(epochs)))
        ends = [(policy, float(curve.mean(0)[-1]), colour_of(policy)) for policy, curve in curves.items()]
        label_ends(axes, ends, len(epochs), gap=(high - low) / 13)
        axes.yaxis.set_major_formatter(PercentFormatter(decimals=0, symbol=" %"))
        for axis, ticks in ((axes.xaxis, 6), (axes.yaxis, 8)):
            axis.set_major_locator(MaxNLocator(ticks, integer=True))
        axes.set_title(condition.title)
        axes.set_xlabel("epoch")
        axes.set_ylabel("validation accuracy")
        return to_picture(figure, f"Validation accuracy over epochs, {condition.title}")


def beliefs(results: Results, condition: Condition) -> Picture:
    """How many samples have which P(right) at the end, right labels above the axis and wrong ones below."""
    runs = results.of(condition, SHOWN)
    right, wrong = (np.mean([run.beliefs[name] for run in runs], axis=0) for name in (RIGHT, WRONG))
    with style():
        figure, axes = panel(2.8, left=0.55, right=0.15)
        middles = (np.arange(BINS) + 0.5) / BINS
        for counts, colour in ((right, colour_of(SHOWN)), (-wrong, INK)):
            axes.bar(middles, counts, width=0.86 / BINS, color=colour)
        top = 1.15 * max(1.0, float(right.max()))
        bottom = max(1.35 * float(wrong.max()), 0.3 * top)  # leaves room for the words
        axes.set_ylim(-bottom, top)
        axes.set_xlim(0, 1)
        axes.axhline(0, color=INK, linewidth=0.7)
        axes.axvline(BELIEVED, color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)))
        axes.text(0.02, 0.97 * top, f"{right.sum():.0f} right labels", color=colour_of(SHOWN), va="top")
        axes.text(0.98, -0.95 * bottom, f"{wrong.sum():.0f} wrong labels", color=INK, va="bottom", ha="right")
        axes.yaxis.set_major_formatter(lambda value, _: f"{abs(value):.0f}")
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
        axes.grid(False, axis="x")
        axes.set_title(condition.title)
        axes.set_xlabel("P(the label is right), as the service sees it at the end")
        axes.set_ylabel("training samples")
        return to_picture(figure, f"Training samples by P(the label is right), {condition.title}")


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


def _extent(measure: Measure) -> list[float]:
    if measure.gain is None:
        return []
    ends = [] if measure.gain.half_width is None else [measure.gain.low, measure.gain.high]
    return [*measure.gains, *ends, measure.gain.mean]


def _draw_gain(axes: Axes, row: Row, y: float) -> None:
    gain, gains = row.test.gain, row.test.gains
    assert gain is not None
    colour = colour_of(row.policy)
    axes.plot(gains, [y - 0.22] * len(gains), "o", color=colour, alpha=0.45, markersize=3.2, linewidth=0)
    if gain.half_width is not None:
        axes.plot([gain.low, gain.high], [y, y], color=colour, linewidth=2.4)
    axes.plot([gain.mean], [y], "o", color=colour, markersize=6, markeredgecolor=PAPER)


def _curves(results: Results, condition: Condition, policy: str) -> Floats:
    """Validation accuracy in percent, (seeds, epochs); empty where the policy was not run."""
    return 100 * np.array([[e.accuracy for e in run.epochs] for run in results.of(condition, policy)])


def _accuracy_range(results: Results, data: str) -> tuple[float, float]:
    """One range for all pictures of a data set, from the mean curves: a band may leave it."""
    conditions = [condition for condition in results.conditions if condition.data == data]
    curves = [_curves(results, condition, policy) for condition in conditions for policy in results.policies]
    means = np.concatenate([curve.mean(0) for curve in curves if curve.size])
    return float(10 * np.floor(means.min() / 10)), float(5 * np.ceil(means.max() / 5 + 0.2))
