"""Intervals as an SVG picture, without a plotting library: the same figures, the same bytes."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from envs.research.statistics import Interval

COLOURS: Final = ("#0b6bcb", "#b35900", "#57606a")
MARGIN, WIDTH, RIGHT, TOP, LINE, GAP = 190, 520, 50, 66, 16, 12
LETTER: Final = 7.0  # how wide one is at the most, on average of a name


@dataclass(frozen=True, slots=True)
class Row:
    """What stands in one row: an interval for each series."""

    name: str
    series: Mapping[str, Interval]


def chart(title: str, rows: Sequence[Row], *, zero: bool, note: str) -> str:
    """Rows of points with their intervals, one colour a series. zero: whether the axis is to show 0."""
    intervals = [interval for row in rows for interval in row.series.values()]
    ends = [end for interval in intervals for end in (interval.low, interval.high)] + ([0.0] if zero else [])
    ticks = _ticks(min(ends), max(ends))
    names = list(rows[0].series)
    height_of_row = LINE * len(names) + GAP
    bottom = TOP + height_of_row * len(rows)
    height = bottom + 48
    left = max(MARGIN, math.ceil(LETTER * max(len(row.name) for row in rows)) + 26)
    width = left + WIDTH + RIGHT

    def place(value: float) -> float:
        return left + WIDTH * (value - ticks[0]) / (ticks[-1] - ticks[0])

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="system-ui, sans-serif" '
        'font-size="13" fill="#1f2328">',
        f"  <title>{escape(title)}</title>",
        f'  <rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'  <text x="12" y="24" font-weight="600">{escape(title)}</text>',
    ]
    for k, (name, colour) in enumerate(zip(names, COLOURS, strict=False)):
        parts.append(f'  <circle cx="{left + 150 * k}" cy="44" r="5" fill="{colour}"/>')
        parts.append(f'  <text x="{left + 150 * k + 12}" y="49">{escape(name)}</text>')
    for tick in ticks:
        stroke = "#1f2328" if tick == 0 else "#d0d7de"
        parts.append(f'  <path d="M{place(tick):.1f},{TOP - 6} V{bottom}" stroke="{stroke}" stroke-width="0.7"/>')
        label = f"{tick:g}".replace("-", "−")
        parts.append(
            f'  <text x="{place(tick):.1f}" y="{bottom + 16}" text-anchor="middle" fill="#57606a">{label}</text>'
        )
    for number, row in enumerate(rows):
        top = TOP + height_of_row * number
        middle = top + LINE * len(names) / 2
        parts.append(f'  <text x="{left - 14}" y="{middle + 5:.1f}" text-anchor="end">{escape(row.name)}</text>')
        for k, (interval, colour) in enumerate(zip(row.series.values(), COLOURS, strict=False)):
            y = top + LINE * (k + 0.5)
            low, value, high = (place(v) for v in (interval.low, interval.value, interval.high))
            parts.append(f'  <path d="M{low:.1f},{y:.1f} H{high:.1f}" stroke="{colour}" stroke-width="1.5"/>')
            parts.append(f'  <circle cx="{value:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>')
    parts.append(f'  <text x="12" y="{height - 8}" font-size="12" fill="#57606a">{escape(note)}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers, at least two, around the ends."""
    span = max(high - low, 1e-9)
    step = 10.0 ** math.floor(math.log10(span / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= 6)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(number * step, 10) for number in range(first, max(last, first + 1) + 1)]
