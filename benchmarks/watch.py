"""What a service process uses while others work it: memory, processor, disk; and how results are told."""

import os
import platform
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from bss_service.testing import ServiceProcess

MB = 2**20
_TICKS = os.sysconf("SC_CLK_TCK")


class Watch:
    """Samples a service each second, through its restarts, from its making to `stop`."""

    def __init__(self, service: ServiceProcess) -> None:
        self._service = service
        self._stopped = threading.Event()
        self._rows: list[tuple[float, ...]] = []
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def stop(self) -> np.ndarray:
        """The samples (k, 5): monotonic second, process, resident bytes, processor seconds, bytes of the store."""
        self._stopped.set()
        self._thread.join()
        return np.array(self._rows).reshape(-1, 5)

    def _sample(self) -> None:
        while not self._stopped.wait(1):
            pid = self._service.process.pid
            try:
                rss, cpu = resident(pid), processor_seconds(pid)
            except (OSError, IndexError, ValueError):  # it is being started again
                continue
            self._rows.append((time.monotonic(), pid, rss, cpu, store_bytes(self._service)))


def resident(pid: int) -> int:
    """Bytes of a process in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def processor_seconds(pid: int) -> float:
    """User and system time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def store_bytes(service: ServiceProcess) -> int:
    """The store's file and its write-ahead log."""
    return sum(path.stat().st_size for path in service.folder.glob("bss.sqlite*"))


def slope(seconds: np.ndarray, values: np.ndarray) -> float:
    """Theil and Sen's: the median of the slopes of all pairs, which no outlier moves. Per second."""
    first, second = np.triu_indices(len(seconds), 1)
    return float(np.median((values[second] - values[first]) / (seconds[second] - seconds[first])))


def quantiles_row(seconds: Sequence[float] | np.ndarray) -> str:
    """Number, median and 99th percentile of durations, as cells of a table."""
    if len(seconds) == 0:
        return "0 | |"
    p50, p99 = 1000 * np.quantile(seconds, [0.5, 0.99])
    return f"{len(seconds):,} | {p50:.2f} | {p99:.1f}"


def publish(lines: Iterable[str], result: Path | None) -> None:
    """Print the lines of a result as they come; write them into a file, where one is given, when all are there."""
    told = []
    for line in lines:
        print(line, flush=True)
        told.append(line)
    if result is not None:
        result.write_text("\n".join(told) + "\n")


def errors(wrong: Sequence[str]) -> Iterator[str]:
    """The lines that tell what went wrong, the first twenty of it."""
    yield f"Errors: {len(wrong)}."
    yield from (f"- {sentence}" for sentence in wrong[:20])


def machine() -> str:
    """What ran this."""
    return (
        f"{platform.machine()}, {os.cpu_count()} cores shared by service and clients, "
        f"Python {platform.python_version()}, load {os.getloadavg()[0]:.1f} at the start"
    )
