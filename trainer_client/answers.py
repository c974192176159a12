"""Internal: what an answer must be, given what was asked. All else is a BrokenAnswerError that names field and value.

Messages alone say of what types and ranges their fields are; here stands what only the question tells.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final

from bss_service.core.samples.table import MAX_STEP
from bss_service.core.signals import ROUNDING
from bss_service.protocol import frames
from bss_service.protocol.actions import ActionAnswer, ActionRequest, ObservationAnswer
from bss_service.protocol.arrays import bounds
from bss_service.protocol.artefacts import MANIFESTS, ArtefactManifest, content_hash
from bss_service.protocol.decisions import DecisionLog
from bss_service.protocol.jobs import GroupsAnswer, JobChange, JobList, JobSpec, JobState
from bss_service.protocol.policies import PolicyAnswer, SwapRequest
from bss_service.protocol.samples import (
    MAX_DESCRIBED,
    DescriptionList,
    KeysAnswer,
    Order,
    SampleDescriptions,
    SampleList,
    SampleState,
)
from bss_service.protocol.training import (
    AttachAnswer,
    Batches,
    FeedbackAnswer,
    JobSize,
    StepsAnswer,
    Window,
    WindowAnswer,
)
from bss_service.protocol.validation import Comparison, ValidationLog
from trainer_client.errors import BrokenAnswerError

MAX_MESSAGE: Final = 16 * 2**20  # bytes of an answer without batches
MAX_PARTS: Final = 10**6  # values in the JSON of an answer, about
MAX_PULL: Final = 1000
_AROUND: Final = 2**18  # bytes of an answer beside its batches
_NUMBER: Final = 26  # bytes, as JSON has it at most


def require(holds: Any, field: str, rule: str, value: Any) -> None:
    """Raises BrokenAnswerError unless it holds."""
    if not holds:
        raise BrokenAnswerError(f"{field} {rule}, got {value!r:.80}", field, value)


def size_of_batches(count: int, spec: JobSpec | None, most: int) -> int:
    """How many bytes an answer with the batches of so many steps may have; `most` where the job is not known."""
    if spec is None:
        return most
    return min(most, _AROUND + _NUMBER * count * (spec.batch_size * (3 + len(spec.heads)) + 6))


def check_parts(content: bytes, media_type: str, most: int) -> None:
    """Raises BrokenAnswerError where an answer of at most so many bytes has more values in its JSON than it may.

    To parse them takes many times the memory of their bytes.
    """
    counted = frames.parts(content) if media_type == frames.CONTENT_TYPE else frames.values(content)
    if media_type == frames.CONTENT_TYPE:
        require(counted.size <= MAX_MESSAGE, "header", f"must have at most {MAX_MESSAGE} bytes", counted.size)
    most = MAX_PARTS + most // _NUMBER
    require(counted.values <= most, "body", f"must hold at most {most} values", counted.values)


def of_batches(batches: Batches, start: int, count: int, spec: JobSpec | None) -> None:
    """Batches of the steps from `start` on, at least one and at most `count`, of samples that the job has."""
    steps, size = batches.indices.shape
    require(batches.start == start, "batches.start", f"must be {start}, as asked for", batches.start)
    require(1 <= steps <= count, "batches.indices", f"must be of 1 to {count} steps", steps)
    _shape(batches, "probabilities", steps, size)
    _within(batches, "probabilities", 0, 1 + ROUNDING)
    for name, most in (("policy_version", MAX_STEP), ("epoch", MAX_STEP), ("scored_until", start + steps)):
        _shape(batches, name, steps)
        _within(batches, name, 0, most)
    heads = batches.modality_weights.shape[2:] if batches.modality_weights is not None else ()
    for name, axes in (("weights", (steps, size)), ("modality_weights", (steps, size, *heads)), ("pull", (steps,))):
        if getattr(batches, name) is not None:
            _shape(batches, name, *axes)
            _within(batches, name, 0, max(size, MAX_PULL))  # weights are 1 on average over a batch
    _within(batches, "indices", 0, MAX_STEP if spec is None else spec.samples - 1)
    if spec is not None:
        _of_job(batches, spec)


def _of_job(batches: Batches, spec: JobSpec) -> None:
    steps, size = batches.indices.shape
    require(size == spec.batch_size, "batches.indices", f"must have {spec.batch_size} samples a step", size)
    for name in ("weights", "modality_weights"):
        values = getattr(batches, name)
        require(values is None or spec.weighted, f"batches.{name}", "must be null for a job that is not weighted", name)
    if batches.modality_weights is not None:
        _shape(batches, "modality_weights", steps, size, len(spec.heads))
    calendar = spec.calendar()
    expected = [calendar.epoch_of(step) for step in range(batches.start, batches.start + steps)]
    epochs = batches.epoch.tolist()
    require(epochs == expected, "batches.epoch", f"must be {_brief(expected)} for these steps", _brief(epochs))


def of_steps(answer: StepsAnswer, start: int, count: int, fed: int, spec: JobSpec | None) -> None:
    """The answer of the hot call."""
    of_feedback(answer, fed)
    if spec is not None and answer.size is not None:
        _size(answer.size, spec, "size.")
        spec = spec.sized(answer.size)
    of_batches(answer.batches, start, count, spec)


def of_feedback(answer: FeedbackAnswer, steps: int) -> None:
    """What became of the feedback of so many steps."""
    require(len(answer.feedback) == steps, "feedback", f"must tell of {steps} steps", len(answer.feedback))


def of_job(state: JobState, name: str, spec: JobSpec | None = None) -> None:
    """Where the job of that name is. spec: as it was asked for; what can be changed may differ."""
    require(state.spec.name == name, "spec.name", f"must be {name!r}, as asked for", state.spec.name)
    if spec is not None and (field := state.spec.differing(spec)) is not None:
        asked = getattr(spec, field)
        require(False, f"spec.{field}", f"must be {asked!r:.80}, as asked for", getattr(state.spec, field))
    for field in ("next_step", "epoch", "epoch_start", "steps_fed_back", "fed_back_until"):
        _step(state, field)
    samples, measured = state.spec.samples, state.samples_measured
    require(0 <= measured <= samples, "samples_measured", f"must lie in [0, {samples}]", measured)
    epoch = state.spec.calendar().epoch_of(state.next_step)
    require(state.epoch == epoch, "epoch", f"must be {epoch} at step {state.next_step}", state.epoch)
    for policy in (state.policy, state.pending_policy, state.shadow):
        if policy is not None:
            of_policy(policy)


def of_change(state: JobState, name: str, change: JobChange) -> None:
    """A job that was changed."""
    of_job(state, name)
    samples = state.spec.samples
    require(samples >= (change.samples or 0), "spec.samples", f"must be at least {change.samples}, as sent", samples)


def of_jobs(answer: JobList) -> None:
    """All jobs."""
    for state in answer.jobs:
        of_job(state, state.spec.name)


def of_attachment(answer: AttachAnswer) -> None:
    """Where a job is whose place was taken."""
    for field in ("next_step", "steps_fed_back", "fed_back_until"):
        _step(answer, field)


def of_groups(answer: GroupsAnswer) -> None:
    """From which step on groups are drawn by."""
    _step(answer, "first_step")


def of_policy(answer: PolicyAnswer, request: SwapRequest | None = None) -> None:
    """A policy, perhaps the one that was asked for."""
    _step(answer, "first_step")
    _step(answer, "policy_version")
    wanted = answer.policy.name if request is None else request.policy.name
    require(answer.policy.name == wanted, "policy.name", f"must be {wanted!r}, as asked for", answer.policy.name)


def of_upload(manifest: ArtefactManifest, artefact: bytes) -> None:
    """What an artefact is that was uploaded; one that only a newer service can read is not looked into."""
    try:
        computed = _hash_of(artefact)
    except ValueError:
        return
    require(manifest.sha256 == computed, "sha256", f"must be that of what was sent, {computed}", manifest.sha256)


def of_artefact(artefact: bytes, sha256: str) -> None:
    """An artefact that was asked for by its hash."""
    try:
        check_parts(artefact, frames.CONTENT_TYPE, 0)
        computed = _hash_of(artefact)
    except ValueError as error:
        raise BrokenAnswerError(f"body must be an artefact: {error!s:.200}", "body", artefact[:80]) from None
    require(computed == sha256, "body", f"must be the artefact {sha256}", computed)


def _hash_of(artefact: bytes) -> str:
    """Raises ValueError where it can't be read."""
    tensors, strings = frames.unpack(artefact)
    return content_hash(MANIFESTS.validate_json(strings.get("manifest", "")), tensors)


def of_action(answer: ActionAnswer, request: ActionRequest) -> None:
    """What became of an action."""
    _step(answer, "policy_version")
    asked = request.first_step
    require(answer.first_step == asked, "first_step", f"must be {asked}, as asked for", answer.first_step)


def of_observation(answer: ObservationAnswer) -> None:
    """What a policy sees."""
    for field in ("first_step", "epoch", "policy_version"):
        _step(answer, field)
    length = len(answer.vector)
    require(len(answer.fields) == length, "fields", f"must name {length} numbers", len(answer.fields))


def of_decisions(log: DecisionLog, start: int, count: int) -> None:
    """A part of a log."""
    require(log.start == start, "start", f"must be {start}, as asked for", log.start)
    _step(log, "total")
    most = min(count, max(0, log.total - start))
    require(len(log.decisions) == most, "decisions", f"must be {most} of {log.total}", len(log.decisions))


def of_validations(log: ValidationLog, start: int, count: int) -> None:
    """Reports of a step or of later ones."""
    require(log.start == start, "start", f"must be {start}, as asked for", log.start)
    require(len(log.reports) <= count, "reports", f"must be at most {count}, as asked for", len(log.reports))
    _rising([report.step for report in log.reports], "reports.step", start)


def of_comparison(told: Comparison, names: Sequence[str]) -> None:
    """What jobs say of their policies: of these jobs, in pairs, with a difference at each step."""
    _rising(told.steps, "steps", 0)
    require(set(told.unpaired) <= set(names), "unpaired", f"must be of {list(names)}", told.unpaired)
    for policy in told.policies:
        for field in ("jobs", "baseline_jobs"):
            jobs = getattr(policy, field)
            require(set(jobs) <= set(names), field, f"must be of {list(names)}", jobs)
            require(len(jobs) == len(policy.seeds), field, f"must be {len(policy.seeds)}, as seeds", len(jobs))
        require(len(policy.curve) == len(told.steps), "curve", f"must have {len(told.steps)} steps", len(policy.curve))


def _rising(steps: Sequence[int], field: str, start: int) -> None:
    rise = all(a < b for a, b in pairwise([start - 1, *steps]))
    require(rise and max(steps, default=0) <= MAX_STEP, field, f"must rise from {start} to {MAX_STEP} at most", steps)


def of_sample(state: SampleState, index: int, draws: int) -> None:
    """What is known of a sample."""
    require(state.index == index, "index", f"must be {index}, as asked for", state.index)
    require(len(state.draws) <= draws, "draws", f"must be at most {draws}, as asked for", len(state.draws))


def of_samples(listed: SampleList, order: Order, limit: int, spec: JobSpec | None) -> None:
    """The first samples in an order."""
    require(listed.order == order, "order", f"must be {order!r}, as asked for", listed.order)
    require(len(listed.samples) <= limit, "samples", f"must be at most {limit}, as asked for", len(listed.samples))
    last = MAX_STEP if spec is None else spec.samples - 1
    for row in listed.samples:
        require(0 <= row.index <= last, "samples.index", f"must lie in [0, {last}]", row.index)
        if spec is not None and row.evidence is not None:
            for field in ("predicted", "wrong_modality"):
                heads = sorted(getattr(row.evidence, field))
                expected = sorted(spec.heads[:-1])
                require(heads == expected, f"samples.evidence.{field}", f"must be of {expected}", heads)


def of_window(answer: WindowAnswer, window: Window) -> None:
    """Up to where a window reaches that was told."""
    first, size = window.first_step, len(window.samples)
    require(
        first < answer.end_step <= first + size, "end_step", f"must lie in [{first}, {first + size}]", answer.end_step
    )


def of_keys(answer: KeysAnswer, keys: Sequence[str], spec: JobSpec | None) -> None:
    """The indices of keys: one each, another for another key, of samples that there are."""
    indices = answer.indices.tolist()
    if spec is not None:
        _size(answer, spec, "")
    require(len(indices) == len(keys), "indices", f"must be {len(keys)}, one of each key", len(indices))
    require(answer.known <= answer.samples, "known", f"must be at most {answer.samples}", answer.known)
    require(max(indices) < answer.known, "indices", f"must be less than {answer.known}", max(indices))
    pairs = set(zip(keys, indices, strict=True))
    apart = len(pairs) == len(set(keys)) == len(set(indices))
    require(apart, "indices", "must be alike for the same key, and for no others", _brief(indices))


def of_descriptions(answer: DescriptionList, told: SampleDescriptions) -> None:
    """Which samples are described by now: those of which was just told are among them."""
    described = [row.index for row in answer.descriptions]
    _rising(described, "descriptions.index", 0)
    count = len(described)
    require(count <= MAX_DESCRIBED, "descriptions", f"must be at most {MAX_DESCRIBED}", count)
    missing = sorted(set(told.index.tolist()) - set(described))
    require(not missing, "descriptions.index", "must have all that were sent, lacks some", _brief(missing))


def _size(size: JobSize, spec: JobSpec, field: str) -> None:
    """A job that has grown: it has no fewer samples than are known, and never had fewer than a batch."""
    require(size.samples >= spec.samples, f"{field}samples", f"must be at least {spec.samples}", size.samples)
    least = min([size.samples, *(earlier.samples for earlier in size.earlier)])
    require(least >= spec.batch_size, f"{field}earlier", f"must be of {spec.batch_size} samples or more", least)


def _step(answer: Any, field: str) -> None:
    value = getattr(answer, field)
    require(0 <= value <= MAX_STEP, field, f"must lie in [0, {MAX_STEP}]", value)


def _shape(batches: Batches, field: str, *expected: int) -> None:
    shape = getattr(batches, field).shape
    if shape != expected:
        require(False, f"batches.{field}", f"must have shape {expected}", shape)


def _within(batches: Batches, field: str, low: float, high: float) -> None:
    values = getattr(batches, field)
    if values.size:
        for end in bounds(values):
            if not low <= end <= high:
                require(False, f"batches.{field}", f"must lie in [{low}, {high}]", end)


def _brief(values: Sequence[int]) -> Sequence[int]:
    return values if len(values) <= 4 else [*values[:4]]
