"""What must hold of all batches of a job, whoever drew them and whatever happened meanwhile."""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from typing import Any

from tests.faults.expected.model import Model

ROUNDING = 1e-3  # of a sum of float32


def objections(model: Model, decisions: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What is wrong with a job's batches, given its decision log."""
    if model.spec is None:
        return
    yield from _values(model)
    by_step = {step: row for row in decisions for step in range(row["first_step"], row["end_step"])}
    for epoch, positions in _epochs(model):
        drawn: set[int] = set()
        segment: list[tuple[int, float]] = []  # samples and probabilities of one decision in this epoch
        left, before = 0, None
        for position in positions:
            step, k = divmod(position, model.spec.batch_size)
            batch = model.batches[step]
            if batch.indices is None or batch.probabilities is None:
                break
            row = None if batch.version == 0 else by_step[step]
            coverage = "epoch" if row is None else row["action"]["coverage"]
            sample = batch.indices[k]
            if sample >= model.samples_of(epoch if coverage == "epoch" else model.epoch_of(step)):
                yield f"coverage: sample {sample} comes at step {step} of epoch {epoch}, which does not have it yet"
            if coverage == "epoch" and sample in drawn:
                yield f"coverage: sample {sample} comes twice in epoch {epoch}, again at step {step}"
            if before is not row:
                yield from _sums(segment, left, step)
                segment, left = [], model.samples_of(epoch) - len(drawn)
            before = row
            drawn.add(sample)
            if row is not None and coverage == "epoch":
                segment.append((sample, batch.probabilities[k]))
        yield from _sums(segment, left, positions.stop // model.spec.batch_size)
    yield from _draws(model, by_step)


def _values(model: Model) -> Iterator[str]:
    assert model.spec is not None
    for step, batch in model.batches.items():
        if batch.indices is None or batch.probabilities is None:
            continue
        if len(batch.indices) != model.spec.batch_size:
            yield f"coverage: step {step} has {len(batch.indices)} samples"
        if not all(0 <= sample < model.spec.samples for sample in batch.indices):
            yield f"coverage: step {step} holds samples that do not exist, {batch.indices}"
        if not all(math.isfinite(p) and 0 <= p <= 1 for p in batch.probabilities):
            yield f"probabilities are true: step {step} has {batch.probabilities}"
        if batch.scored_until is not None and not 0 <= batch.scored_until <= step:
            yield f"step {step} is said to be drawn from feedback until step {batch.scored_until}"


def _epochs(model: Model) -> Iterator[tuple[int, range]]:
    """The epochs whose first batch is known, with the positions of theirs that were handed out."""
    assert model.spec is not None
    end = model.served * model.spec.batch_size
    for epoch, positions in takewhile(lambda one: one[1].start < end, model.epochs()):
        if positions.start // model.spec.batch_size in model.batches:
            yield epoch, range(positions.start, min(end, positions.stop))


def _sums(segment: Sequence[tuple[int, float]], left: int, step: int) -> Iterator[str]:
    """What was left of an epoch, or a part of it, drawn by one decision."""
    total = sum(p for _, p in segment)
    if total > 1 + ROUNDING or (len(segment) == left and segment and total < 1 - ROUNDING):
        yield f"probabilities are true: those of {len(segment)} of {left} samples up to step {step} sum to {total}"


def _draws(model: Model, by_step: Mapping[int, Mapping[str, Any]]) -> Iterator[str]:
    """Draws with replacement: of one decision, each sample has one probability, and they sum to at most 1."""
    known: dict[int, dict[int, float]] = {}
    for step, batch in model.batches.items():
        if batch.version == 0 or batch.indices is None or batch.probabilities is None or step not in by_step:
            continue
        if by_step[step]["action"]["coverage"] == "draw":
            of_decision = known.setdefault(by_step[step]["first_step"], {})
            for sample, p in zip(batch.indices, batch.probabilities, strict=True):
                if of_decision.setdefault(sample, p) != p:
                    yield f"probabilities are true: sample {sample} has {p} at step {step}, another value before"
    for first, probabilities in known.items():
        if sum(probabilities.values()) > 1 + ROUNDING:
            yield f"probabilities are true: those drawn from step {first} on sum to {sum(probabilities.values())}"
