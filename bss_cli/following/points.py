"""What a tracker is told of a job: points of curves, each keyed by its step, from the reports and the decision log."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import groupby
from typing import Any, Protocol

from bss_cli.rendering import in_words
from bss_service.core.action import RANGES
from bss_service.protocol.decisions import Decision
from bss_service.protocol.validation import ValidationReport


@dataclass(frozen=True, slots=True)
class Point:
    """A value of a curve at a step; text: what happened there, if anything did."""

    curve: str  # of letters, digits, _ - and /, which all trackers take
    step: int
    value: float
    text: str | None = None


class Tracker(Protocol):
    """Where points go. It knows by itself how far it has got, so that nothing else must be kept to go on later."""

    def latest(self) -> Mapping[str, int]:
        """The step of the last point of each curve that is there."""

    def write(self, points: Sequence[Point]) -> None:
        """Add points, in order of step."""

    def close(self) -> None:
        """Have all that was written stored."""


class MissingExtraError(Exception):
    """A tracker's library is not installed."""


def library(name: str, extra: str) -> Any:
    """The module of a tracker's library. Raises MissingExtraError, which says how to get it."""
    try:
        return import_module(name)
    except ModuleNotFoundError as missing:
        raise MissingExtraError(
            f"{missing.name} is not installed; it comes with pip install 'bss-scheduler[{extra}]'"
        ) from None


def rows(points: Sequence[Point]) -> Iterator[tuple[int, dict[str, float | str]]]:
    """The points of each step together, as trackers that log rows have them."""
    for step, together in groupby(points, key=lambda point: point.step):
        row: dict[str, float | str] = {}
        for point in together:
            row |= {point.curve: point.value} | ({} if point.text is None else {f"{point.curve}/text": point.text})
        yield step, row


def of_reports(reports: Sequence[ValidationReport]) -> Iterator[Point]:
    """The curves of validation. No curve is named as a folder of others: in a file store of MLflow each is a file."""
    for report in reports:
        yield Point("validation/loss", report.step, report.loss)
        yield Point("validation/accuracy", report.step, report.accuracy)
        for name, head in report.modalities.items():
            safe = re.sub(r"[^\w-]", "_", name)
            yield Point(f"heads/{safe}/accuracy", report.step, head.accuracy)
            yield Point(f"heads/{safe}/probability", report.step, head.probability)


def of_decisions(decisions: Sequence[Decision], handed_out: int, version: int | None) -> Iterator[Point]:
    """What was chosen and estimated, at the first step of its plan, and what came of it, at the step of its report.

    handed_out: steps that were; a later plan may yet be replaced, and is left out. version: of the decision before.
    """
    for decision in decisions:
        if decision.first_step < handed_out and decision.first_step < decision.end_step:
            yield from _of_choice(decision, changed=decision.policy_version != version)
            version = decision.policy_version
        if decision.rewarded_at is not None and decision.gain is not None and decision.reward is not None:
            yield Point("reward/gain", decision.rewarded_at, decision.gain)
            yield Point("reward/normalised", decision.rewarded_at, decision.reward)


def _of_choice(decision: Decision, *, changed: bool) -> Iterator[Point]:
    step = decision.first_step
    swap = f"{decision.policy} is policy version {decision.policy_version}: {in_words(decision.action)}"
    yield Point("policy/version", step, decision.policy_version, swap if changed else None)
    yield Point("policy/propensity", step, decision.propensity)
    yield Point("policy/left_out", step, decision.left_out)
    for name in RANGES:
        yield Point(f"action/{name}", step, getattr(decision.action, name))
    seen = decision.observation
    if seen["has_evidence"]:
        yield Point("evidence/wrong_labels", step, 1 - seen["right_labels"])
        yield Point("evidence/wrong_pairs", step, 1 - seen["right_pairs"])
