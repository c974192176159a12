"""A job from what is stored of it, and what can be saved where a part of that is not as it was written."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from bss_service.errors import BssError, StoreError
from bss_service.job.job import Job, swap_request
from bss_service.job.plans import Plan, plan_of
from bss_service.job.snapshot import Snapshot, policies_of, snapshot_of, unpacked
from bss_service.journal.records import Damage, Entry, Lease, PlanRow, Stored, Transaction, parts_of, plan_body
from bss_service.journal.schema import checksum
from bss_service.policies.artefact import Artefact
from bss_service.protocol import PolicySpec

_HARMLESS: Final = ("feedback", "validation", "scores", "action", "end_shadow")  # whatever has been drawn meanwhile


def policies_in(stored: Stored, snapshot: Snapshot | None) -> list[PolicySpec]:
    """All policies that a job had, or may need when it is replayed."""
    specs = [stored.spec.policy] if snapshot is None else policies_of(snapshot)
    behind = [] if stored.damage is None else stored.damage.later
    for entry in (*stored.entries, *behind):
        if entry.kind == "swap":
            specs.append(swap_request(entry.message()).policy)
        if entry.kind == "recovered":
            specs += [PolicySpec.model_validate(version["policy"]) for version in entry.message()["versions"]]
    return specs


def replayed(stored: Stored, snapshot: Snapshot | None, artefacts: Mapping[str, Artefact]) -> Job:
    """The job as far as its journal can be believed; its policies are yet to be brought to their state."""
    job = _beginning(stored, snapshot, artefacts)
    for entry in stored.entries:
        job.replay(entry.kind, entry.message())
    return job


def redrawn(stored: Stored, snapshot: Snapshot | None, artefacts: Mapping[str, Artefact], step: int) -> Plan | None:
    """The plan that holds a step, drawn anew by the whole journal; None where the journal does not tell of it."""
    job = _beginning(stored, snapshot, artefacts)
    found = plan_of(job.plans, step)
    for entry in stored.entries:
        job.replay(entry.kind, entry.message())
        found = plan_of(job.plans, step) or found  # the last one: plans are replaced before they are handed out
    return found


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
    known, missing_from = len(job.versions.versions), job.ledger.first_missing
    plans, repaired, drawn_by = _believed(job, rows)
    served = plans[-1].end_step if plans else job.plans[0].first_step if job.plans else 0
    if served < job.served:
        raise StoreError(f"step {served} was handed out, and its batch is not stored any more")
    start = _agreed_until(job, plans) if plans else served
    swaps = _swaps(damage.later, known)
    versions: list[dict[str, Any]] = []
    unknown = []
    for version in range(known + 1, max([known, *drawn_by, *swaps]) + 1):
        if version not in swaps:  # what it drew is known, but not what it was: the policy before it goes on
            unknown.append(version)
            before = versions[-1]["policy"] if versions else job.versions.versions[-1].spec.model_dump()
            swaps[version] = {"version": version, "policy": before, "first_step": drawn_by.get(version, served)}
        versions.append(swaps[version])
    taken_over = [plan.since(start) for plan in plans if plan.end_step > start]
    fields = [{"first_step": plan.first_step, **plan.fields()} for plan in taken_over]
    entries = [
        Entry.of(damage.seq, "recovered", {"start": start, "served": served, "plans": fields, "versions": versions})
    ]
    job.replay("recovered", entries[0].message())
    set_aside = ["damaged"] * damage.lost
    for entry in damage.later:
        if _applies_again(job, entry):
            entries.append(Entry(entries[-1].seq + 1, entry.kind, entry.body))
        elif not (entry.kind == "swap" and entry.message().get("answer", {}).get("policy_version") in swaps):
            set_aside.append(entry.kind)
    transaction = Transaction(job.spec.name, Lease(), entries, damaged_from=damage.seq, plans=repaired)
    transaction.snapshot = list(parts_of(entries[-1].seq, snapshot_of(job).to_frame()))
    without = sum(not job.ledger.is_complete(step) for step in range(missing_from, served))
    return Recovery(transaction, start, served, len(entries) - 1, set_aside, without, unknown)


def _beginning(stored: Stored, snapshot: Snapshot | None, artefacts: Mapping[str, Artefact]) -> Job:
    return Job(stored.spec, artefacts) if snapshot is None else unpacked(snapshot, artefacts)


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


def _swaps(later: list[Entry], known: int) -> dict[int, dict[str, Any]]:
    """The policy versions that the entries behind the damage tell of, as far as they are new."""
    told: list[dict[str, Any]] = []
    for entry in later:
        message = entry.message() if entry.kind in ("swap", "recovered") else {}
        told += message.get("versions", [])
        answer = message.get("answer")
        if answer is not None and not message["shadow"]:
            number, first_step = answer["policy_version"], answer["first_step"]
            told.append({"version": number, "policy": message["policy"], "first_step": first_step})
    return {version["version"]: version for version in told if version["version"] > known}


def _applies_again(job: Job, entry: Entry) -> bool:
    """Apply an entry from behind the damage, if it says nothing about what is drawn."""
    if entry.kind not in _HARMLESS and not (entry.kind == "swap" and entry.message()["shadow"]):
        return False
    try:
        job.replay(entry.kind, entry.message())
    except BssError:
        return False
    return True
