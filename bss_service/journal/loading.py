"""Loading: jobs out of the store, and back into it what was found damaged and could be saved."""

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from functools import partial

import structlog

from bss_service.errors import InvalidValueError, NotFoundError, NotReproducibleError, StoreError
from bss_service.job.history import Recall
from bss_service.job.job import Job
from bss_service.job.snapshot import Snapshot
from bss_service.journal.recovery import policies_in, recover, redrawn, replayed
from bss_service.journal.store import Store
from bss_service.journal.stored import Damage, Stored
from bss_service.journal.transaction import DecisionBlock, Fence, Transaction
from bss_service.policies.artefact import AnyArtefact, ArtefactError, Artefacts
from bss_service.policies.builtin.artefact import named
from bss_service.protocol.policies import PolicySpec
from bss_service.telemetry.metrics import Metrics

log = structlog.get_logger()


class Loader:
    """Makes jobs from what a store holds of them. Whoever calls holds the job's loading lock, or the job's own."""

    def __init__(self, store: Store, metrics: Metrics) -> None:
        self._store = store
        self._metrics = metrics

    async def load(self, name: str, fence: Fence | None) -> tuple[Job, int, int] | None:
        """The job, the seq of its last entry, and how many were replayed; None if there is none of that name.

        fence: behind which it is; None: another service's, only to be looked at. Raises StoreError where what is stored
        is damaged beyond recovery.
        """
        with suppress(StoreError):  # what was handed over of it before is stored by then, or never will be
            await asyncio.wrap_future(self._store.commit(Transaction(name)))
        stored = await asyncio.to_thread(self._store.load, name)
        if stored is None:
            return None
        if stored.damaged_snapshots:
            log.warning(
                "damaged snapshot left out: replaying the journal", job=name, snapshots=stored.damaged_snapshots
            )
        snapshot, known = await self._parts(stored)
        job, seq = await asyncio.to_thread(self._restored, stored, snapshot, known, fence)
        return job, seq, len(stored.entries)

    async def redraw(self, name: str, fence: Fence, step: int) -> None:
        """Draw the plan of a step once more and store it: what is stored of it is damaged, or missing."""
        stored = await asyncio.to_thread(self._store.load, name, whole=True)
        if stored is None or stored.damage is not None:
            raise StoreError(f"the batch of step {step} of job {name!r} is damaged, and so is the journal that drew it")
        snapshot, known = await self._parts(stored)
        plan = await asyncio.to_thread(redrawn, stored, snapshot, known, self._recall(stored), step)
        if plan is None and stored.imported:
            raise NotFoundError(
                f"step {step} was handed out by another service before this job's snapshot was put here",
                field="start",
                value=step,
            )
        if plan is None:
            raise StoreError(
                f"the batch of step {step} of job {name!r} is damaged, and its journal does not tell of it"
            )
        log.warning("damaged plan drawn anew", job=name, first_step=plan.first_step, end_step=plan.end_step)
        await asyncio.wrap_future(self._store.commit(Transaction(name, fence, plans=[plan])))

    async def artefacts(self, policies: Iterable[PolicySpec]) -> dict[str, AnyArtefact]:
        """The stored artefacts among those that policies name; of the others their parameters are wrong."""
        artefacts = [await asyncio.to_thread(self._store.artefact, sha256) for sha256 in named(policies)]
        return {artefact.sha256: artefact for artefact in artefacts if artefact is not None}

    async def readable(self, policies: Iterable[PolicySpec]) -> dict[str, AnyArtefact]:
        """The same without those that don't fit the code any more: a job may have named them long ago."""
        readable: dict[str, AnyArtefact] = {}
        for sha256 in named(policies):
            try:
                artefact = await asyncio.to_thread(self._store.artefact, sha256)
            except ArtefactError as error:
                log.warning("artefact left out", sha256=sha256, error=error.detail)
            else:
                readable |= {} if artefact is None else {sha256: artefact}
        return readable

    async def _parts(self, stored: Stored) -> tuple[Snapshot | None, dict[str, AnyArtefact]]:
        snapshot = None
        if stored.snapshot is not None:
            snapshot = await asyncio.to_thread(Snapshot.from_frame, stored.snapshot)
        return snapshot, await self.readable(policies_in(stored, snapshot))

    def _restored(
        self, stored: Stored, snapshot: Snapshot | None, known: Artefacts, fence: Fence | None
    ) -> tuple[Job, int]:
        seq = stored.entries[-1].seq if stored.entries else stored.seq
        try:
            job = replayed(stored, snapshot, known, self._recall(stored))
        except (NotReproducibleError, InvalidValueError):
            raise
        except Exception as error:
            log.error("job can't be loaded", job=stored.spec.name, exc_info=error)
            raise StoreError(f"job {stored.spec.name!r} can't be loaded, its journal makes no sense: {error}") from None
        left = DecisionBlock.of(*job.history.take_leaving())
        if left and fence is not None:  # they are stored already, unless an earlier version wrote the journal
            self._store.commit(Transaction(stored.spec.name, fence, decisions=left)).result()
        damage = stored.damage or self._lost_end(job, stored.last_plan, seq)
        if damage is not None and fence is None:
            raise StoreError(
                f"{damage.reason} of job {stored.spec.name!r}: who owns it recovers it when it is asked for"
            )
        if damage is not None and fence is not None:
            seq = self._recover(job, damage, fence)
        job.restore_policy()
        return job, seq

    def _recall(self, stored: Stored) -> Recall:
        return partial(self._store.decisions, stored.spec.name)

    def _lost_end(self, job: Job, last_plan: int, seq: int) -> Damage | None:
        """The journal's end, if there are plans that it does not tell of."""
        behind = job.plans[-1].first_step + 1 if job.plans else 0
        if last_plan >= behind and any(row.intact for row in self._store.plan_rows(job.spec.name, behind)):
            return Damage(seq + 1, f"journal entry {seq + 1} is missing", [], 0)
        return None

    def _recover(self, job: Job, damage: Damage, fence: Fence) -> int:
        """Go on from the last good entry; the seq of the last one then."""
        name = job.spec.name
        try:
            saved = recover(job, damage, self._store.plan_rows(name, job.plans[0].first_step if job.plans else 0))
        except StoreError as error:
            raise StoreError(
                f"{damage.reason} of job {name!r}, and it can't be recovered: {error.detail}; restore the store from a "
                "backup, or delete the job"
            ) from None
        saved.transaction.fence = fence
        self._store.commit(saved.transaction).result()
        self._metrics.journal_recoveries.inc()
        log.error(
            "journal damaged: recovered to its last good entry",
            job=name,
            reason=damage.reason,
            entry=damage.seq,
            set_aside=len(saved.set_aside),
            kinds=sorted(set(saved.set_aside)),
            reapplied=saved.reapplied,
            batches_taken_over_from=saved.start,
            next_step=saved.served,
            steps_without_feedback=saved.steps_without_feedback,
            unknown_policies=saved.unknown_policies,
        )
        return saved.transaction.entries[-1].seq
