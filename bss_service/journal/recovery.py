"""A job from what is stored of it, and what can be saved where a part of that is not as it was written."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from bss_service.errors import BssError, NotReproducibleError, StoreError
from bss_service.job.events import Event, JobGrown, Recovered, brings_policies
from bss_service.job.history import Recall
from bss_service.job.job import Job
from bss_service.job.plans import Plan, plan_of
from bss_service.job.snapshot import Snapshot, policies_of, snapshot_of, unpacked
from bss_service.journal.schema import checksum
from bss_service.journal.stored import Damage, PlanRow, Stored, plan_body
from bss_service.journal.transaction import Entry, Transaction, parts_of
from bss_service.policies.artefact import Artefacts
from bss_service.policies.versions import PolicyVersion
from bss_service.protocol.policies import PolicySpec


def policies_in(stored: Stored, snapshot: Snapshot | None) -> list[PolicySpec]:
    """All policies that a job had, or may need when it is replayed."""
    specs = [stored.spec.policy] if snapshot is None else policies_of(snapshot)
    behind = [] if stored.damage is None else stored.damage.later
    swaps = [entry.event(stored.spec) for entry in (*stored.entries, *behind) if brings_policies(entry.kind)]
    return specs + [policy for event in swaps for policy in event.policies]


def replayed(stored: Stored, snapshot: Snapshot | None, artefacts: Artefacts, recall: Recall) -> Job:
    """The job as far as its journal can be believed; its policies are yet to be brought to their state."""
    job = _beginning(stored, snapshot, artefacts, recall)
    for entry in stored.entries:
        entry.event(stored.spec).apply(job)
    return job


def redrawn(stored: Stored, snapshot: Snapshot | None, artefacts: Artefacts, recall: Recall, step: int) -> Plan | None:
    """The plan that holds a step, drawn anew by the whole journal; None where the journal does not tell of it."""
    job = _beginning(stored, snapshot, artefacts, recall)
    plan = plan_of(job.plans, step)
    for entry in stored.entries:
        entry.event(stored.spec).apply(job)
        plan = plan_of(job.plans, step) or plan  # the last one: plans are replaced before they are handed out
    return plan


@dataclass(frozen=True, slots=True)
class Recovery:
    """What was saved of a job whose journal is damaged; the job has gone on already as the transaction says."""

    transaction: Transaction
    start: int  # first step whose batches were taken over from the stored plans
    served: int
    reapplied: int  # entries behind the damage that count again
    set_aside: list[str]  # kinds of those that don't
    steps_without_feedback: int
    unknown_policies: list[int]  # policy versions that drew, and whose policies are not known any more


def recover(job: Job, damage: Damage, rows: Iterable[PlanRow]) -> Recovery:
    """Put on record what the stored plans tell of the time behind the damage: they may have been handed out.

    rows: the stored plans from the job's oldest in memory on. Raises StoreError where they don't tell enough.
    """
    missing_from = job.ledger.first_missing
    later = [(entry, entry.event(job.spec)) for entry in damage.later]
    entries = _regrown(job, damage, [event for _, event in later])
    plans, repaired, drawn_by = _believed(job, rows)
    _check_size(job, plans)
    served = plans[-1].end_step if plans else job.plans[0].first_step if job.plans else 0
    if served < job.served:
        raise StoreError(f"step {served} was handed out, and its batch is not stored any more")
    start = _agreed_until(job, plans) if plans else served
    versions, unknown = _versions(job, [event for _, event in later], drawn_by, served)
    taken_over = [plan.since(start) for plan in plans if plan.end_step > start]
    recovered = Recovered(start, served, taken_over, versions)
    recovered.apply(job)
    entries.append(Entry.of(damage.seq + len(entries), recovered))
    set_aside = ["damaged"] * damage.lost
    for entry, event in later:
        if _applies_again(job, event):
            entries.append(replace(entry, seq=entries[-1].seq + 1))
        elif not isinstance(event, JobGrown) and not any(version in versions for version in event.versions):
            set_aside.append(entry.kind)
    transaction = Transaction(job.spec.name, entries=entries, damaged_from=damage.seq, plans=repaired)
    transaction.snapshot = list(parts_of(entries[-1].seq, snapshot_of(job).to_frame()))
    without = sum(not job.ledger.is_complete(step) for step in range(missing_from, served))
    return Recovery(transaction, start, served, len(entries) - 1, set_aside, without, unknown)


def _regrown(job: Job, damage: Damage, later: list[Event]) -> list[Entry]:
    """Let a job have the samples that it had grown to by then, as far as the entries behind the damage tell.

    Before its stored plans are looked at: they may be of these samples.
    """
    size = next((event.size for event in reversed(later) if event.size is not None), None)
    if size is None:
        return []
    job.resize(size)
    return [Entry.of(damage.seq, JobGrown(size.samples, size))]


def _check_size(job: Job, plans: Iterable[Plan]) -> None:
    """Raises StoreError where stored plans have samples that the job, as far as is known, does not."""
    for plan in plans:
        if (last := int(plan.indices.max())) >= job.spec.samples:
            raise StoreError(
                f"the plan of step {plan.first_step} has sample {last}, and what is left of the journal does not tell "
                f"how the job grew from {job.spec.samples} samples"
            )


def _versions(
    job: Job, later: list[Event], drawn_by: Mapping[int, int], served: int
) -> tuple[list[PolicyVersion], list[int]]:
    """The policy versions since the damage, and the numbers of those of which only the plans tell.

    later: the events behind it. drawn_by: the first step that each version drew. What such a version drew is known, but
    not what it was: the policy before it goes on.
    """
    before = job.versions.versions
    made = {v.version: v for event in later for v in event.versions if v.version > len(before)}
    versions: list[PolicyVersion] = []
    unknown = []
    for number in range(len(before) + 1, max([len(before), *drawn_by, *made]) + 1):
        if number not in made:
            unknown.append(number)
            previous = (versions or before)[-1]
            made[number] = PolicyVersion(number, previous.spec, drawn_by.get(number, served))
        versions.append(made[number])
    return versions, unknown


def _beginning(stored: Stored, snapshot: Snapshot | None, artefacts: Artefacts, recall: Recall) -> Job:
    job = Job(stored.spec, artefacts) if snapshot is None else unpacked(snapshot, artefacts)
    job.history.recall = recall
    job.incarnation = stored.incarnation
    return job


def _believed(job: Job, rows: Iterable[PlanRow]) -> tuple[list[Plan], list[Plan], dict[int, int]]:
    """The stored plans that matter still, those among them whose rows have to be written again, and the policy
    versions of all with the first step that they drew.

    A damaged row is believed where the job has the very plan that it was. One in the midst of older plans is left as
    it is. Where one might be the last, or belong to this epoch or the one before, nothing can be told.
    """
    known = {plan.first_step: plan for plan in job.plans}
    calendar = job.calendar
    begin = end = job.plans[0].first_step if job.plans else 0
    plans: list[Plan] = []
    repaired: list[Plan] = []
    drawn_by: dict[int, int] = {}
    doubtful = False
    for row in rows:
        plan = row.plan() if row.intact else _proven(job, row, known.get(row.first_step))
        if plan is None:
            doubtful = True
            continue
        repaired += [] if row.intact else [plan]
        if plans and plans[-1].end_step > plan.first_step:
            plans[-1] = plans[-1].cut(plan.first_step)
        if plan.first_step > end:
            plans, doubtful = [], False  # a hole, and the row that belongs there
        if doubtful:
            break
        oldest = calendar.epoch_start(max(0, calendar.epoch_of(plan.first_step) - 1))
        plans = [*(p for p in plans if p.end_step > oldest), plan]
        drawn_by.setdefault(plan.policy_version, plan.first_step)
        end = plan.end_step
        begin = max(begin, oldest)
    if doubtful or (plans and plans[0].first_step > begin):
        raise StoreError(f"the batches from step {plans[-1].end_step if plans else begin} on are damaged too")
    return plans, repaired, drawn_by


def _proven(job: Job, row: PlanRow, known: Plan | None) -> Plan | None:
    """The plan of a damaged row, if it is the known one and only the body or the checksum has suffered."""
    if known is None:
        return None
    body = plan_body(known)
    same = body == row.body or checksum(body, job.spec.name, row.first_step) == row.checksum
    return known if same else None


def _agreed_until(job: Job, plans: list[Plan]) -> int:
    """The first step of which the plans tell otherwise than the job does."""
    for plan in plans:
        own = plan_of(job.plans, plan.first_step)
        if own is None or own.first_step != plan.first_step or own.policy_version != plan.policy_version:
            return plan.first_step
        both = min(len(own.indices), len(plan.indices))
        if not np.array_equal(own.indices[:both], plan.indices[:both]):
            return plan.first_step
        if own.end_step != plan.end_step:
            return plan.first_step + both
    return plans[-1].end_step


def _applies_again(job: Job, event: Event) -> bool:
    """Apply an event from behind the damage, if nothing that is drawn depends on it."""
    if event.draws:
        return False
    try:
        event.apply(job)
    except NotReproducibleError as error:
        raise StoreError(str(error)) from None
    except BssError:
        return False
    return True
