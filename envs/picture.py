"""A run as a picture: how accurate its student is, how its samples score, and what the policy did last."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bss_service.core.action import CHOICES, RANGES, Action
from bss_service.core.samples.table import SampleTable
from bss_service.protocol.validation import ValidationReport
from envs.run import StudentRun

BINS = np.linspace(-1, 1, 41).tolist()


def picture(run: StudentRun) -> NDArray[np.uint8]:
    """The state of a run, (300, 900, 3) RGB."""
    figure = Figure(figsize=(9, 3), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    accuracies, scores, action = figure.subplots(1, 3)
    _draw_accuracies(accuracies, run.history.reports, run.intervals)
    _draw_scores(scores, run.table)
    decisions = run.history.decisions
    _draw_action(action, decisions[-1].action if decisions else None)
    canvas.draw()  # type: ignore[no-untyped-call]
    pixels: NDArray[np.uint8] = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    return pixels[..., :3].copy()


def _draw_accuracies(axes: Axes, reports: list[ValidationReport], intervals: int) -> None:
    axes.set(title="validation accuracy", xlabel="interval", xlim=(0, intervals), ylim=(0, 1))
    axes.plot([r.accuracy for r in reports], color="black", linewidth=2, label="joint")
    for number, head in enumerate(reports[0].modalities, start=1):
        axes.plot([r.modalities[head].accuracy for r in reports], linewidth=1, label=f"head {number}")
    axes.legend(loc="lower right", fontsize="small", frameon=False)


def _draw_scores(axes: Axes, table: SampleTable) -> None:
    axes.set(title="balance score ŝ", xlabel="low: loss high, heads disagree", yticks=[], xlim=(-1, 1))
    known = table.score[~np.isnan(table.score)]
    axes.hist(known, bins=BINS, color="tab:blue")
    if not len(known):
        axes.text(0, 0.5, "nothing scored yet", ha="center", transform=axes.get_xaxis_transform())


def _draw_action(axes: Axes, action: Action | None) -> None:
    axes.set(title="last action", xlim=(-1, 1))
    if action is None:
        axes.set(xticks=[], yticks=[])
        axes.text(0, 0.5, "none yet", ha="center")
        return
    names = list(RANGES)
    axes.barh(names, action.to_vector()[: len(names)], color="tab:orange")
    axes.axvline(0, color="grey", linewidth=0.5)
    axes.set_yticks(range(len(names)), [f"{name} {getattr(action, name):.2g}" for name in names], fontsize="small")
    axes.set_xlabel(", ".join(str(getattr(action, name)) for name in CHOICES), fontsize="small")
    axes.invert_yaxis()
