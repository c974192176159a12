"""Matplotlib panels as inline SVG that takes its colours and its font from the page around it."""

import html
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Each colour is drawn under a hex code of its own and becomes a CSS variable, which a dark scheme may set otherwise.
# The policies' hues are Paul Tol's high-contrast set, which stays apart under every common colour blindness.
INK, MUTED, GRID, PAPER = "#1b1e24", "#626a76", "#dfe3e8", "#fdfdfe"
POLICY: Final = {"uniform": "#6f7783", "balance": "#bb5566", "evidence": "#004488", "oracle": "#997700"}
OTHER_POLICY: Final = "#117733"
VARIABLES: Final = {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--grid",
    PAPER: "--paper",
    OTHER_POLICY: "--other-policy",
    **{colour: f"--{name}" for name, colour in POLICY.items()},
}
WIDTH: Final = 3.7  # inches of a panel; a page shows it at 1.2 to 1.4 times 72 pixels an inch

_STYLE: Final[dict[Any, Any]] = {
    "text.parse_math": False,  # a name may hold a dollar sign
    "svg.fonttype": "none",
    "font.size": 8.0,
    "axes.titlesize": 9.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 8.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.6,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 2.5,
    "ytick.major.size": 0,
    "text.color": INK,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
}


@dataclass(frozen=True, slots=True)
class Picture:
    """An SVG for the page, and what it shows in words."""

    svg: str
    text: str

    def __html__(self) -> str:
        """Itself, to a template that escapes."""
        return self.svg


def colour_of(policy: str) -> str:
    """A policy's colour, the same in every picture."""
    return POLICY.get(policy, OTHER_POLICY)


def style() -> Any:
    """Context in which panels are drawn."""
    return matplotlib.rc_context(_STYLE)


def panel(height: float, width: float = WIDTH, **margins: float) -> tuple[Figure, Axes]:
    """A figure with one pair of axes; margins in inches: left, right, top, bottom."""
    figure = Figure(figsize=(width, height))
    place(figure, **margins)
    return figure, figure.add_subplot()


def place(
    figure: Figure, left: float = 0.5, right: float = 0.8, top: float = 0.3, bottom: float = 0.42, **spaces: float
) -> None:
    """Set the margins of a figure, in inches."""
    width, height = figure.get_size_inches()
    figure.subplots_adjust(
        left=left / width, right=1 - right / width, top=1 - top / height, bottom=bottom / height, **spaces
    )


def label_ends(axes: Axes, ends: Sequence[tuple[str, float, str]], x: float, gap: float) -> None:
    """Write (name, y, colour) beside the ends of lines at x, moved apart to `gap` and linked where they had to move."""
    low, high = axes.get_ylim()
    left, right = axes.get_xlim()
    for (name, y, colour), place_y in zip(ends, spread([y for _, y, _ in ends], gap, low, high), strict=True):
        link = [x, x + 0.045 * (right - left)]
        axes.plot(link, [y, place_y], color=colour, linewidth=0.6, clip_on=False)
        axes.text(x + 0.06 * (right - left), place_y, name, color=colour, va="center", fontsize=7.5)


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places at least `gap` apart and within [low, high] as far as they fit, near the wanted ones, in their order."""
    order = sorted(range(len(wanted)), key=lambda k: wanted[k])
    places = [wanted[k] for k in order]
    for _ in range(200):
        moved = False
        for k in range(len(places) - 1):
            lack = gap - (places[k + 1] - places[k])
            if lack > 1e-9:
                places[k] -= lack / 2
                places[k + 1] += lack / 2
                moved = True
        if not moved:
            break
    if places:
        shift = max(0.0, low - places[0]) or min(0.0, high - places[-1])
        places = [p + shift for p in places]
    result = [0.0] * len(wanted)
    for k, place_ in zip(order, places, strict=True):
        result[k] = place_
    return result


def to_picture(figure: Figure, text: str) -> Picture:
    """The figure as inline SVG without a fixed size, outside references or colours and fonts of its own."""
    stream = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": text}):  # ids of clip paths then differ from picture to picture
        figure.savefig(stream, format="svg", transparent=True)
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :]
    for pattern, replacement in _CLEANING:
        svg = re.sub(pattern, replacement, svg, flags=re.DOTALL)
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    width, height = (72 * inches for inches in figure.get_size_inches())
    opening = f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{html.escape(text)}">'
    return Picture(opening + svg[svg.index(">") + 1 :], text)


_CLEANING: Final = (
    (r"<metadata>.*?</metadata>", ""),
    (r"<style.*?</style>", ""),
    (r"<!--.*?-->", ""),
    (r'(<g) id="[^"]*"', r"\1"),  # those of shapes that are drawn again and of clip paths stay
    (r"font-family: [^;\"]*", "font-family: inherit"),
    (r"\n\s*", "\n"),
)
