"""Whether a folder is complete: every file read to its end, and counts held against those that were published."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from os import cpu_count

from .folder import BrokenFileError, Index, Sample
from .media import probe
from .reading import Published, Source


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


def deviations(index: Index, source: Source) -> list[str]:
    """What each publication counted otherwise than is here; none if one of them fits, or its figures are rounded."""
    here = [_as(published, index.listed()) for published in source.published]
    pairs = list(zip(source.published, here, strict=True))
    if any(published.about or published.counts() == counted for published, counted in pairs):
        return []
    return [f"{_words(counted)}, where {known.source} has {_words(known.counts())}" for known, counted in pairs]


def _as(published: Published, listed: Mapping[str, int]) -> dict[str, int]:
    """Counts under the splits that a publication has; one that has no part for validation counts it as training."""
    counted = dict(listed)
    if not published.validation:
        counted["train"] = counted.get("train", 0) + counted.pop("validation", 0)
    if not published.test:
        counted["train"] = counted.get("train", 0) + counted.pop("test", 0)
    return {split: counted.get(split, 0) for split in published.counts()}


def _words(counts: Mapping[str, int]) -> str:
    return " + ".join(f"{count:,} {split}" for split, count in counts.items())
