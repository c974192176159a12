"""Orders and draws over 2·10⁸ samples whose columns are in a mapped file, and what that makes of 10¹⁰.

    python -m benchmarks.speed.large --write
    python -m benchmarks.speed.large --samples 20000000 --most 262144

Measured: the sums by shard, the first batch and later ones under `draw` and `epoch`, memory and disk, and χ² of what
was drawn by shard and by weight. Then a model of a whole epoch from these rates, held against orders that are made of
samples whose weights repeat, so that neither the sums nor the columns of 10¹⁰ have to be.
"""

import argparse
import math
import os
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from scipy.optimize import nnls
from scipy.stats import chi2

from bss_service.core.action import Action
from bss_service.core.samples.large.columns import BYTES, LEVELS, Columns, weights_of
from bss_service.core.samples.large.order import _Race, first_of, ordered
from bss_service.core.samples.large.shards import ROWS, Shards, draws
from bss_service.core.sampling import unasked
from bss_service.journal.mapped import MappedColumns, size_of

G: Final = 256
SEED: Final = 7
ACTION: Final = Action(kappa_similarity=4, kappa_loss=2)
DRAWN: Final = 2_000_000  # rows of the χ² tests
BINS: Final = 64  # of weights
INTERVAL: Final = 2**20  # rows of a plan
STATE: Final = 40  # bytes a shard: sums, cumulative ones, what is left, first and next times
ROW: Final = 80  # bytes of memory that a row of a run takes while it is sorted, at the most
RESULTS: Final = Path(__file__).with_suffix(".md")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=200_000_000, help="n")
    parser.add_argument("--most", type=int, default=2**22, help="rows of a run of the order")
    parser.add_argument("--folder", type=Path, help="where the file of columns is made; else where temporary files are")
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}")
    args = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        lines, rates, spread = measure(Path(folder) / "columns", args.samples, args.most)
    lines += model(rates, spread, args.samples, args.most)
    text = "\n".join(head(args, load) + lines) + "\n"
    print(text)
    if args.write:
        RESULTS.write_text(text)


def head(args: argparse.Namespace, load: float) -> list[str]:
    return [
        "# Samples by the billion",
        "",
        f"`python -m benchmarks.speed.large --samples {args.samples} --most {args.most}`: weights",
        f"exp(4·similarity − 2·loss) of quantised columns in a mapped file, batches of {G}; {platform.machine()},",
        f"{os.cpu_count()} cores, Python {platform.python_version()}, NumPy",
        f"{np.__version__}; load {load:.1f} at the start, {os.getloadavg()[0]:.1f} at the end. Times are CPU times of",
        "this process, but for those of the file (sealed, opened), which are by the clock.",
        "",
    ]


# Measured.


@dataclass(frozen=True)
class Rates:
    """What the model is made of."""

    sums: float  # seconds a sample
    opened: float  # seconds a shard that is opened
    row: float  # seconds a row that is sorted and told
    shard: float  # seconds a run and shard, opened or not
    begun: float  # seconds a shard, once an order


def measure(path: Path, samples: int, most: int) -> tuple[list[str], Rates, np.ndarray]:
    """Lines of the report, the rates of the model, and some of the weights."""
    mapped = MappedColumns.create(path, samples)
    fill(mapped.columns)
    sealing, _ = timed(lambda: mapped.seal(1), time.perf_counter)
    opening, _ = timed(lambda: MappedColumns.open(path, samples).close(), time.perf_counter)
    mapped.close()
    forget(path)
    from_disk, mapped = timed(lambda: MappedColumns.open(path, samples), time.perf_counter)
    summing, shards = timed(lambda: Shards.of(samples, weights_of(ACTION, mapped.columns)))

    first_draw, _ = timed(lambda: draws(shards, SEED, 0, G))
    later = [timed(lambda step=step: draws(shards, SEED, step, G))[0] for step in range(1, 201)]
    p50, p99, slowest = (1000 * value for value in np.quantile(later, [0.5, 0.99, 1]))

    came = np.full(samples, False)
    memory = Memory()
    runs = in_runs(shards, most, 3, memory, came)
    first_epoch = runs[0][1]
    interval, _ = timed(lambda: first_of(shards, SEED, 3, INTERVAL))
    lines = [
        "| n | shards | columns | bytes a sample | of the order, beside | sealed | opened, checksum and all | … "
        "not in the page cache |",
        "|---|---|---|---|---|---|---|---|",
        f"| {samples:,} | {len(shards.sums):,} | {size_of(samples) / 2**30:.2f} GiB "
        f"| {size_of(samples) / samples:.4f} | {STATE * len(shards.sums) / samples:.4f} bytes a sample "
        f"| {sealing:.1f} s | {opening:.1f} s | {from_disk:.1f} s |",
        "",
        "| what | time |",
        "|---|---|",
        f"| sums by shard, once a plan | {summing:.1f} s ({1e9 * summing / samples:.1f} ns a sample) |",
        f"| `draw`: first batch behind the sums | {1000 * first_draw:.0f} ms |",
        f"| `draw`: a batch, p50 / p99 / most of 200 | {p50:.1f} / {p99:.1f} / {slowest:.1f} ms |",
        f"| `epoch`: first batch behind the sums, in a run of {runs[0][0]} rows | {1000 * first_epoch:.0f} ms |",
        f"| `epoch`: a plan of {INTERVAL:,} rows behind the sums | {interval:.1f} s "
        f"({1000 * interval * G / INTERVAL:.2f} ms a batch) |",
        "",
        "The order as a stream, run by run, each told whole before the next is begun:",
        "",
        "| rows | shards opened | time | a batch |",
        "|---|---|---|---|",
        *(
            f"| {rows:,} | {opened:,} | {spent:.2f} s | {1000 * spent * G / rows:.2f} ms |"
            for rows, spent, opened in runs
        ),
        "",
        f"Memory of the process beside the file's pages: {memory.before / 2**20:.0f} MiB before, of which "
        f"{samples / 2**20:.0f} are marks of what came, {memory.peak / 2**20:.0f} MiB at the most.",
        "",
        *chances(shards),
        "",
    ]
    spread = np.exp(shards.log_weights(0, min(samples, 2**22) // ROWS * ROWS) - shards.top)
    return lines, rates_of(summing / samples, runs, spread), spread


def fill(columns: Columns) -> None:
    """Made-up averages, of every sample."""
    rng = np.random.default_rng(SEED)
    for start in range(0, len(columns), 2**22):
        part = slice(start, min(len(columns), start + 2**22))
        size = part.stop - start
        columns.similarity[part] = 1 + (
            rng.beta(
                4,
                2,
                size,
            )
            * LEVELS
        ).astype(np.uint16)
        columns.loss[part] = 1 + (rng.beta(1, 4, size) * LEVELS).astype(np.uint16)
        columns.stamp[part] = 1


def forget(path: Path) -> None:
    """Have the kernel let go of a file's pages, as far as nobody maps them."""
    file = os.open(path, os.O_RDONLY)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(file)


def timed(act: Callable[[], Any], clock: Callable[[], float] = time.process_time) -> tuple[float, Any]:
    """Seconds, and what it gave: of CPU time, so that what else the machine does counts less."""
    began = clock()
    result = act()
    return clock() - began, result


class Memory:
    """What this process has of its own, in bytes, looked at now and then."""

    def __init__(self) -> None:
        self.before = self.peak = anonymous()
        self._calls = 0

    def __call__(self) -> None:
        self._calls += 1
        if self._calls % 512 == 0:
            self.look()

    def look(self) -> None:
        self.peak = max(self.peak, anonymous())


def anonymous() -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return 1024 * int(line.split()[1])


def in_runs(
    shards: Shards, most: int, largest: int, memory: Memory | None = None, came: np.ndarray | None = None
) -> list[tuple[int, float, int]]:
    """Rows, seconds and opened shards of each run, up to so many of the largest. came: (n,) marks; each comes once."""
    opened = 0

    def proceed() -> None:
        nonlocal opened
        opened += 1
        if memory:
            memory()

    stream, runs = ordered(shards, SEED, 1, G, most, proceed), []
    while largest:
        before = opened
        spent, run = timed(lambda: next(stream, None))
        if run is None:
            break
        if memory:
            memory.look()
        if came is not None:
            assert not came[run.indices].any() and len(np.unique(run.indices)) == len(run.indices), "one came twice"
            came[run.indices] = True
        runs.append((len(run.indices), spent, opened - before))
        largest -= len(run.indices) > most / 2
    return runs


def chances(shards: Shards) -> list[str]:
    """χ² of draws, and of the first run of an order, by shard and by weight."""
    edges = np.linspace(-2, 4, BINS + 1)[1:-1]  # of log-weights
    size = min(DRAWN, shards.samples // 20)
    until = size / shards.total  # of the first run: the times that it has
    chance, variance, here = (np.zeros((BINS, len(shards.sums))) for _ in range(3))
    for shard in range(len(shards.sums)):
        logs = shards.log_weights(*shards.bounds(shard))
        bins, weights = np.digitize(logs, edges), np.exp(logs - shards.top)
        arrives = -np.expm1(-weights * until)
        here[:, shard] = np.bincount(bins, weights / shards.total, BINS)
        chance[:, shard] = np.bincount(bins, arrives, BINS)
        variance[:, shard] = np.bincount(bins, arrives * (1 - arrives), BINS)

    def counts(indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        by_weight = np.zeros(BINS)
        ordered_rows = np.sort(indices)
        for part in np.split(ordered_rows, np.flatnonzero(np.diff(ordered_rows // ROWS)) + 1):
            start, stop = shards.bounds(int(part[0]) // ROWS)
            logs = shards.log_weights(start, stop)[part - start]
            by_weight += np.bincount(np.digitize(logs, edges), minlength=BINS)
        return np.bincount(indices // ROWS, minlength=len(shards.sums)), by_weight

    drawn = counts(draws(shards, SEED, 5, size).indices)
    first = counts(next(ordered(shards, SEED, 6, size, DRAWN)).indices)
    rows = ["| χ² | cells | χ² | p |", "|---|---|---|---|"]
    for name, observed, axis in (("shard", 0, 0), ("weight", 1, 1)):
        expected = size * here.sum(axis=axis)
        rows.append(chi_row(f"{size:,} draws, by {name}", drawn[observed], expected, expected, 1))
        rows.append(
            chi_row(
                f"first {int(first[0].sum()):,} of an order, by {name}",
                first[observed],
                chance.sum(axis=axis),
                variance.sum(axis=axis),
                0,
            )
        )
    return rows


def chi_row(name: str, observed: np.ndarray, expected: np.ndarray, variance: np.ndarray, fixed: int) -> str:
    """Of counts of which the expected ones are at least 5. fixed: 1 where their sum is given."""
    some = expected >= 5
    statistic = float(((observed - expected)[some] ** 2 / variance[some]).sum())
    cells = int(some.sum())
    return f"| {name} | {cells:,} | {statistic:,.0f} | {chi2.sf(statistic, cells - fixed):.3f} |"


# The model.


def rates_of(sums: float, runs: list[tuple[int, float, int]], spread: np.ndarray) -> Rates:
    """A run's time is opened·o + rows·c + S·s: o and c by least squares of relative errors, none below 0; the rest is
    measured by itself, of a million shards."""
    made_of = np.array([[opened, rows] for rows, _, opened in runs], dtype=np.float64)
    times = np.array([spent for _, spent, _ in runs])
    opened, row = nnls(made_of / times[:, None], np.ones(len(times)))[0]
    shards = repeating(spread, 2**32)
    began, race = timed(lambda: _Race(shards, SEED, 0, 0, 1.0))
    looked_over, _ = timed(lambda: race.until(race.when(1) * 0, unasked))
    return Rates(sums, opened, row, looked_over / len(shards.sums), began / len(shards.sums))


def epoch(
    rates: Rates, weights: np.ndarray, samples: int, most: int, most_runs: float = math.inf
) -> list[tuple[float, float]]:
    """(rows, seconds) of each run of an order, of samples whose weights are spread as some are, (k,).

    What is left of a weight w at the time t is e^(−wt) of it; a run lasts until as many are to be expected as it is to
    have, and opens S·(1 − e^(−rows/S)) shards.
    """
    shards = -(-samples // ROWS)
    left, runs, size = np.full(len(weights), samples / len(weights)), [], G
    while left.sum() >= 1 and len(runs) < most_runs:
        stays = np.exp(-weights * (size / (left @ weights))) if left.sum() > size else 0.0
        rows = float((left * (1 - stays)).sum())
        left = left * stays
        opened = shards * -math.expm1(-rows / shards)
        runs.append((rows, opened * rates.opened + rows * rates.row + shards * rates.shard))
        size = min(2 * size, most)
    runs[0] = (runs[0][0], runs[0][1] + shards * rates.begun)
    return runs


def model(rates: Rates, spread: np.ndarray, samples: int, most: int) -> list[str]:
    lines = [
        "## To 10¹⁰, by a model",
        "",
        f"A run of r rows opens about S·(1 − e^(−r/S)) of S shards of {ROWS:,} samples, and what it costs is",
        f"opened·o + r·c + S·s: o = {1e6 * rates.opened:.0f} µs ({1e9 * rates.opened / ROWS:.0f} ns a sample), "
        f"c = {1e6 * rates.row:.2f} µs (fitted to the runs above), s = {1e9 * rates.shard:.1f} ns.",
        f"To begin takes {1e9 * rates.begun:.0f} ns a shard.",
        f"Runs have {G}, {2 * G}, {4 * G} … rows, and then the most; weights are spread as the first 2²² above. Sums",
        f"cost {1e9 * rates.sums:.1f} ns a sample. Columns are in memory, or the disk gives {ROWS * 4} bytes, the two",
        "averages of a shard, in the time that opening one takes.",
        "",
        "| n | most rows a run | sums | first run | a batch, mean of the epoch | longest run | dearest batch | columns "
        "| state | a run's memory |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for n, m in ((samples, most), (10**9, 2**22), (10**9, 2**24), (10**10, 2**24), (10**10, 2**26)):
        runs = epoch(rates, spread, n, m)
        total, dearest = sum(spent for _, spent in runs), max(runs, key=lambda run: run[1] / run[0])
        longest = max(spent for _, spent in runs)
        lines.append(
            f"| {n:,} | {m:,} | {n * rates.sums:.0f} s | {1000 * runs[0][1]:.0f} ms | {1000 * total * G / n:.2f} ms "
            f"| {longest:.0f} s | {1000 * dearest[1] * G / dearest[0]:.0f} ms | {n * BYTES / 1e9:.1f} GB "
            f"| {STATE * n / ROWS / 1e6:,.0f} MB | {ROW * m / 1e6:,.0f} MB |"
        )
    return [*lines, "", *checks(rates, spread)]


def checks(rates: Rates, spread: np.ndarray) -> list[str]:
    """The model beside orders that are made: a whole epoch of few samples, and the first runs of 10¹⁰."""
    lines = ["Orders that were made, of weights that repeat every 2²² samples:", ""]
    lines += ["| n | most rows a run | runs | rows | measured | model | ratio |", "|---|---|---|---|---|---|---|"]
    for n, most, largest in ((2**22, 2**16, math.inf), (10**10, 2**17, 1)):
        made = in_runs(repeating(spread, n), most, largest)
        expected = epoch(rates, spread, n, most, len(made))
        for which in (slice(0, 1), slice(None)):
            rows = sum(run[0] for run in made[which])
            measured, predicted = sum(run[1] for run in made[which]), sum(run[1] for run in expected[which])
            lines.append(
                f"| {n:,} | {most:,} | {len(made[which])} | {rows:,} | {measured:.2f} s | {predicted:.2f} s "
                f"| {predicted / measured:.2f} |"
            )
    return lines


def repeating(spread: np.ndarray, samples: int) -> Shards:
    """Shards of so many samples, with the weights (k,) again and again, k whole shards; the last shard may be cut."""
    logs, period = np.log(spread), len(spread)
    one = np.add.reduceat(spread, np.arange(0, period, ROWS))
    sums = np.resize(one, -(-samples // ROWS))
    cut = samples % ROWS
    if cut:
        start = (samples - cut) % period
        sums[-1] = spread[start : start + cut].sum()

    def log_weights(start: int, stop: int) -> np.ndarray:
        return logs[start % period : start % period + stop - start]

    return Shards(samples, log_weights, 0.0, sums, np.cumsum(sums), samples, 0)


if __name__ == "__main__":
    main()
