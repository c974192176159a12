"""How much memory a job takes at the most, about: what a service has room for is bounded by it."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from bss_service.core.samples.dynamics import are_kept
from bss_service.core.samples.table import SampleTable
from bss_service.job.checks import most_rows
from bss_service.job.job import Job
from bss_service.protocol.jobs import JobSpec

DRAWN_ROW: Final = 12  # bytes: an index and its probability
EVIDENCE: Final = 8  # bytes of a sample, and 4 a head
GROUP: Final = 2  # bytes of a sample
_LIMIT: Final = Path("/sys/fs/cgroup/memory.max")  # of this container


def bytes_of(spec: JobSpec) -> int:
    """Of its table, plans of two epochs or intervals and a window, and what waits for the next: feedback and a pass."""
    signals = spec.measurements()
    interval = min((spec.interval or 0) * spec.batch_size, most_rows(spec))
    rows = max(spec.samples, interval)
    masked, evidence = (signals.heads, EVIDENCE + 4 * signals.heads) if are_kept(signals) else (0, 0)
    group = 0 if spec.groups is None else GROUP
    table = spec.samples * (SampleTable.empty(1, signals).nbytes + evidence + group)
    waiting = (rows + spec.samples) * (8 + 4 * signals.width)
    window = 8 * interval if spec.stream else 0
    return table + 2 * rows * (DRAWN_ROW + masked) + waiting + window


def bytes_of_job(job: Job) -> int:
    """Of a job as it is, with what its trainer calls its samples."""
    return bytes_of(job.spec) + job.keys.nbytes


def usual_room() -> int:
    """Half of the memory of this machine, or of the container: snapshots and plans under way need as much again."""
    own = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError):  # there is none
        own = min(own, int(_LIMIT.read_text()))
    return own // 2
