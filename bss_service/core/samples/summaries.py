"""What stands for many numbers where people look: series thinned out, histograms, densities. Arrays in, arrays out."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np

from bss_service.core.arrays import Bool, Float64, Floats, Int64

CELLS: Final = 64  # of a density, along each axis
BINS: Final = 64  # of a histogram, at most
OUTSIDE: Final = 0.001  # of the values at either end, which are counted in the outermost cells


@dataclass(frozen=True, slots=True)
class Binned:
    """How many values lie between edges: [edges[k], edges[k + 1]), the last closed; all outside in the outermost."""

    edges: Float64  # (k + 1,) ascending; (0,) where nothing is known
    counts: Int64  # (k,)


@dataclass(frozen=True, slots=True)
class Density:
    """How many pairs lie in each cell of a grid over both ranges; what is outside counts in the outermost cells."""

    x: Float64  # (2,) range
    y: Float64  # (2,)
    counts: Int64  # (CELLS, CELLS), by x and y; (0, 0) where no pair is known


def thinned(
    x: Floats,  # (k,) ascending
    values: Floats,  # (k, S), NaN where not known
    most: int,  # points to be left, at least 2
) -> tuple[Floats, Floats]:
    """At most so many rows that look the same when drawn: of each stretch of rows, each column's least and greatest.

    They stand in the order in which they came, at the stretch's first and last x; what lies between is left out, a peak
    never. NaN only where a whole stretch is. All rows if they are few enough.
    """
    if len(x) <= most:
        return x, values
    bounds = np.linspace(0, len(x), most // 2 + 1).astype(np.int64)
    kept_x = np.stack([x[bounds[:-1]], x[bounds[1:] - 1]], axis=1).reshape(-1)
    kept = np.full((len(kept_x), values.shape[1]), np.nan, dtype=values.dtype)
    for k, (start, stop) in enumerate(pairwise(bounds)):
        kept[2 * k : 2 * k + 2] = _ends(values[start:stop])
    return kept_x, kept


def _ends(rows: Floats) -> Floats:
    """Least and greatest of each column (r, S) in the order in which they came, (2, S)."""
    known = ~np.isnan(rows)
    least, greatest = np.where(known, rows, np.inf).argmin(axis=0), np.where(known, rows, -np.inf).argmax(axis=0)
    columns = np.arange(rows.shape[1])
    ends: Floats = np.stack([rows[np.minimum(least, greatest), columns], rows[np.maximum(least, greatest), columns]])
    ends[:, ~known.any(axis=0)] = np.nan
    return ends


def binned(values: Floats, low: float | None = None, high: float | None = None, *, whole: bool = False) -> Binned:
    """A histogram of the known ones of values (n,), in at most BINS bins of one width.

    low, high: its ends, by default of all values but OUTSIDE at either end. whole: values are whole numbers, and so are
    the edges.
    """
    known = values[~np.isnan(values)].astype(np.float64)
    if not len(known):
        return Binned(np.empty(0), np.empty(0, dtype=np.int64))
    least, greatest = _range(known)
    low, high = least if low is None else low, greatest if high is None else high
    edges = _whole_edges(low, high) if whole else np.linspace(low, high if high > low else low + 1, BINS + 1)
    counts, _ = np.histogram(np.clip(known, edges[0], edges[-1]), edges)
    return Binned(edges, counts.astype(np.int64))


def _whole_edges(low: float, high: float) -> Float64:
    """Edges of bins of whole numbers, (k + 1,): one each where they are few enough."""
    first, last = np.floor(low), np.floor(high) + 1
    width = max(1.0, np.ceil((last - first) / BINS))
    edges: Float64 = first + width * np.arange(np.ceil((last - first) / width) + 1)
    return edges


def density(x: Floats, y: Floats) -> Density:
    """How pairs (n,) of values are spread, of those that are both known."""
    both: Bool = ~np.isnan(x) & ~np.isnan(y)
    if not both.any():
        return Density(np.zeros(2), np.zeros(2), np.zeros((0, 0), dtype=np.int64))
    ranges, cells = [], []
    for values in (x[both].astype(np.float64), y[both].astype(np.float64)):
        low, high = _range(values)
        high = high if high > low else low + 1
        ranges.append(np.array([low, high]))
        cells.append(np.clip((values - low) * (CELLS / (high - low)), 0, CELLS - 1).astype(np.int64))
    counts = np.bincount(cells[0] * CELLS + cells[1], minlength=CELLS * CELLS)
    return Density(ranges[0], ranges[1], counts.reshape(CELLS, CELLS).astype(np.int64))


def _range(values: Float64) -> tuple[float, float]:
    """Between which values (n,) lie, but for OUTSIDE of them at either end."""
    last = len(values) - 1
    at = [int(OUTSIDE * last), last - int(OUTSIDE * last)]
    ordered = np.partition(values, at)
    return float(ordered[at[0]]), float(ordered[at[1]])
