"""What the demo found, in sentences that are computed from its table."""

from collections.abc import Sequence
from typing import Final

from demo.plan import BASELINE, NOISE, ORACLE, PAPER, SHOWN
from demo.results import TOP
from demo.summary import Interval, Row, Verdict, signed

_VERBS: Final[dict[Verdict, str]] = {
    "better": f"beats {BASELINE} on",
    "worse": f"loses to {BASELINE} on",
    "can't tell": f"can't be told from {BASELINE} on",
}


def headline(table: Sequence[Row]) -> str:
    """The first sentence: the gain where labels are wrong, how many of the suspects are, and what clean labels cost."""
    noisy = [row for row in table if row.policy == SHOWN and row.condition.noisy_labels]
    clean = [row for row in table if row.policy == SHOWN and not row.condition.noisy_labels]
    gains = [row.test.gain for row in (*noisy, *clean)]
    if not noisy or not clean or None in gains:
        return f"{SHOWN} and {BASELINE} were not both run, so there is nothing to compare."
    if any(gain is not None and gain.half_width is None for gain in gains):
        return "One seed was run, and one seed can't tell policies apart: nothing is claimed."
    return (
        f"With {100 * NOISE:.0f} % of the training labels drawn anew at random, {SHOWN} {_findings(noisy)}; of the "
        f"{TOP} labels that it suspects most, {_found(noisy)} really are wrong (mean over the seeds); with clean "
        f"labels it {_findings(clean)}."
    )


def beside_it(table: Sequence[Row]) -> str:
    """What else to know where labels are wrong: the last epoch, the paper's policy, and what could be had at most."""
    last = [_of(row, row.last.gain) for row in _noisy(table, SHOWN) if row.last.gain]
    paper, oracle = (
        [_of(row, row.test.gain) for row in _noisy(table, policy) if row.test.gain] for policy in (PAPER, ORACLE)
    )
    sentences = {
        f"After the last epoch its validation accuracy differs from {BASELINE}'s by": last,
        f"The paper's policy, {PAPER}, differs from {BASELINE} by": paper,
        f"The oracle, which sees no wrong label, differs from {BASELINE} by": oracle,
    }
    return " ".join(f"{words} {_joined(gains)}." for words, gains in sentences.items() if gains)


def _noisy(table: Sequence[Row], policy: str) -> list[Row]:
    return [row for row in table if row.policy == policy and row.condition.noisy_labels]


def _findings(rows: Sequence[Row]) -> str:
    groups = [
        (verb, [row for row in rows if row.test.gain and row.test.gain.verdict == v]) for v, verb in _VERBS.items()
    ]
    return _joined([f"{verb} {_places(group)}" for verb, group in groups if group])


def _places(rows: Sequence[Row]) -> str:
    return _joined(
        [f"{r.condition.data} ({signed(r.test.gain.mean)} points, {_range(r.test.gain)})" for r in rows if r.test.gain]
    )


def _found(rows: Sequence[Row]) -> str:
    return _joined([f"{row.found:.0f} on {row.condition.data}" for row in rows if row.found is not None]) or "none"


def _of(row: Row, gain: Interval) -> str:
    interval = "" if gain.half_width is None else f" ({_range(gain)})"
    return f"{signed(gain.mean)} points{interval} on {row.condition.data}"


def _range(gain: Interval) -> str:
    return f"95 % interval {signed(gain.low)} to {signed(gain.high)}"


def _joined(parts: Sequence[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
