"""Whether the files of a folder can be read to their end."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from os import cpu_count

from .folder import BrokenFileError, Index, Sample
from .media import probe


def verify(index: Index, on_progress: Callable[[int], object] = lambda done: None) -> Index:
    """The same index without samples of which a medium can't be read to its end; its report names them.

    `on_progress` is told how many samples are done.
    """
    faults: list[str] = []
    whole = []
    with ThreadPoolExecutor(cpu_count()) as pool:
        for done, (sample, fault) in enumerate(zip(index.samples, pool.map(_fault, index.samples), strict=True), 1):
            if fault is None:
                whole.append(sample)
            else:
                faults.append(f"{fault.path.relative_to(index.root).as_posix()}: {fault.why}")
            on_progress(done)
    return replace(
        index,
        samples=tuple(whole),
        report=replace(index.report, broken=(*index.report.broken, *dict.fromkeys(faults))),
    )


def _fault(sample: Sample) -> BrokenFileError | None:
    try:
        for medium in sample.media.values():
            probe(medium)
    except BrokenFileError as error:
        return error
    return None
