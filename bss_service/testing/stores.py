"""What every store owes the service, as tests for whoever writes one."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np

from bss_service.core.action import Action
from bss_service.core.observation import FIELDS, Observation
from bss_service.errors import StoreError
from bss_service.job.events import StepsServed
from bss_service.job.history import BLOCK
from bss_service.job.plans import Plan
from bss_service.journal.store import DamagedPlanError, Store
from bss_service.journal.transaction import DecisionBlock, Entry, Removal, Transaction, parts_of
from bss_service.policies import artefact
from bss_service.policies.shipped import shipped_policy
from bss_service.protocol.decisions import Decision
from bss_service.protocol.jobs import JobSpec

SECONDS: Final = 30  # for a commit
SPEC: Final = JobSpec(name="job", samples=8, modalities=["audio", "video"], batch_size=2)


class StoreContract(ABC):
    """The contract of a store: subclass it among your tests, under a name that pytest collects, and say how it opens.

    ```python
    class TestMine(StoreContract):
        def open(self, folder: Path) -> Mine:
            return Mine(folder / "data")
    ```
    """

    @abstractmethod
    def open(self, folder: Path) -> Store:
        """The store of a folder, made where there is none. Raises StoreError where another has it open."""

    def test_what_was_committed_is_there_when_it_is_opened_again(self) -> None:
        with TemporaryDirectory() as folder:
            for step in range(3):
                with self._opened(folder) as store:
                    created = SPEC if step == 0 else None
                    _commit(store, created=created, entries=[_entry(step + 1)], plans=[_plan(2 * step)])
            with self._opened(folder) as store:
                stored = store.load("job")
                assert stored is not None
                assert (stored.spec, stored.damage, stored.last_plan, stored.imported) == (SPEC, None, 4, False)
                assert stored.entries == store.journal("job") == [_entry(seq) for seq in (1, 2, 3)]
                assert _steps(store.plans("job", 1, 6)) == [0, 2, 4]

    def test_a_job_that_there_is_not_has_nothing(self) -> None:
        with self._fresh() as store:
            assert store.load("nobody") is None
            assert (store.has("nobody"), store.job_names(), store.journal("nobody")) == (False, [], [])

    def test_changes_of_many_jobs_are_committed_in_the_order_of_their_calls(self) -> None:
        with self._fresh() as store:
            names = [f"job-{k}" for k in range(5)]
            waiting = [store.commit(Transaction(n, store.fence(n), created=_named(n))) for n in names]
            waiting += [
                store.commit(Transaction(n, store.fence(n), entries=[_entry(seq)]))
                for seq in range(1, 21)
                for n in names
            ]
            for committed in waiting:
                committed.result(SECONDS)
            assert store.job_names() == names
            for name in names:
                assert [entry.seq for entry in store.journal(name)] == list(range(1, 21))

    def test_a_change_is_stored_whole_or_not_at_all_and_nothing_behind_its_fence(self) -> None:
        with self._fresh() as store:
            fence = store.fence("job")
            _commit(store, fence=fence, created=SPEC, entries=[_entry(1)])
            for refused in ([_entry(2), _entry(1)], [_entry(2)]):  # the first one twice; then behind a closed fence
                failed = store.commit(Transaction("job", fence, entries=refused, plans=[_plan(0)]))
                assert isinstance(failed.exception(SECONDS), StoreError)
            assert fence.closed
            assert store.journal("job") == [_entry(1)]
            assert list(store.plan_rows("job", 0)) == []
            _commit(store, entries=[_entry(2)])
            assert store.journal("job") == [_entry(1), _entry(2)]

    def test_a_plan_takes_the_place_of_those_that_begin_within_it(self) -> None:
        with self._fresh() as store:
            _commit(store, created=SPEC, plans=[_plan(0), _plan(2), _plan(4)])
            _commit(store, plans=[_plan(1, steps=3)])
            assert _steps(store.plans("job", 0, 6)) == [0, 1, 4]
            assert list(store.plans_before("job", 4, 9)) == [1, 0]
            assert [row.plan().first_step for row in store.plan_rows("job", 1)] == [1, 4]
            assert (store.plans("job", 1, 2)[0].indices == _plan(1, steps=3).indices).all()

    def test_plans_from_a_step_on_can_be_made_void(self) -> None:
        with self._fresh() as store:
            _commit(store, created=SPEC, plans=[_plan(0), _plan(2), _plan(4)])
            _commit(store, truncated=2, plans=[_plan(2, steps=1)])
            assert _steps(store.plans("job", 0, 3)) == [0, 2]
            for start in (3, 4):
                assert _missing_step(store, start) == start

    def test_a_large_plan_keeps_no_other_job_waiting(self) -> None:
        order: list[str] = []
        with self._fresh() as store:
            large = _large_plan(1)
            waiting = {
                "large": Transaction(
                    "job", store.fence("job"), created=SPEC, entries=[_entry(1)], plans=[_plan(0, steps=1), large]
                ),
                "behind": Transaction("job", store.fence("job"), entries=[_entry(2)]),
                "other": Transaction("other", store.fence("other"), created=_named("other")),
            }
            futures = [store.commit(transaction) for transaction in waiting.values()]
            for name, future in zip(waiting, futures, strict=True):
                future.add_done_callback(lambda _, name=name: order.append(name))  # type: ignore[misc]
            for future in futures:
                future.result(SECONDS)
            assert order == ["other", "large", "behind"]
            assert store.journal("job") == [_entry(1), _entry(2)]
            small, stored = store.plans("job", 0, large.end_step)
            assert (small.first_step, stored.first_step) == (0, 1)
            assert (stored.indices == large.indices).all()
            assert store.stored_bytes("job") > 8 * large.indices.size

    def test_a_part_of_a_snapshot_keeps_no_other_job_waiting(self) -> None:
        order: list[str] = []
        with self._fresh() as store:
            _commit(store, created=SPEC)
            third, other = store.fence("third"), store.fence("other")
            waiting = {
                "large": Transaction(
                    "job", store.fence("job"), plans=[_large_plan(1)]
                ),  # the others come before its end
                "part": Transaction("third", third, snapshot=list(parts_of(1, b"state"))),
                "behind": Transaction("third", third, entries=[_entry(1)]),
                "other": Transaction("other", other, created=_named("other")),
            }
            futures = [store.commit(transaction) for transaction in waiting.values()]
            for name, future in zip(waiting, futures, strict=True):
                future.add_done_callback(lambda _, name=name: order.append(name))  # type: ignore[misc]
            for future in futures:
                future.result(SECONDS)
            assert order == ["other", "part", "behind", "large"]

    def test_of_a_large_plan_that_is_replaced_nothing_is_left(self) -> None:
        with self._fresh() as store:
            _commit(store, created=SPEC, plans=[_large_plan(1)])
            _commit(store, plans=[_large_plan(1)])
            size = store.stored_bytes("job")
            assert size < 9 * _large_plan(1).indices.size
            _commit(store, plans=[_plan(1)])
            assert (store.plans("job", 1, 2)[0].indices == _plan(1).indices).all()
            assert store.stored_bytes("job") < 1000
            _commit(store, truncated=0, plans=[_large_plan(1)])
            assert store.stored_bytes("job") == size
            _commit(store, truncated=0)
            assert store.stored_bytes("job") == 0

    def test_a_large_plan_behind_a_closed_fence_is_not_stored(self) -> None:
        with self._fresh() as store:
            fence = store.fence("job")
            _commit(store, created=SPEC)
            failed = store.commit(Transaction("job", fence, plans=[_large_plan(0)]))
            fence.closed = True  # as when the job is loaded again meanwhile
            assert isinstance(failed.exception(SECONDS), StoreError)
            assert list(store.plan_rows("job", 0)) == []
            _commit(store, plans=[_large_plan(0)])
            assert store.stored_bytes("job") < 9 * _large_plan(0).indices.size

    def test_a_snapshot_counts_once_it_is_whole_and_the_journal_goes_on_behind_it(self) -> None:
        body = np.random.default_rng(0).bytes(9 * 2**20)
        first, *rest = parts_of(2, body)
        with self._fresh() as store:
            _commit(store, created=SPEC, entries=[_entry(seq) for seq in (1, 2, 3)])
            _commit(store, snapshot=[first])
            assert _beginning(store) == (None, 0, [1, 2, 3])
            _commit(store, snapshot=rest)
            assert _beginning(store) == (body, 2, [3])
            _commit(store, snapshot=list(parts_of(3, b"newer")))
            assert _beginning(store) == (b"newer", 3, [])
            assert [entry.seq for entry in store.journal("job")] == [1, 2, 3]
            whole = store.load("job", whole=True)
            assert whole is not None
            assert (whole.snapshot, len(whole.entries)) == (None, 3)

    def test_a_job_that_begins_with_a_snapshot_keeps_it(self) -> None:
        with self._fresh() as store:
            _commit(store, created=SPEC, snapshot=list(parts_of(0, b"imported")))
            _commit(store, entries=[_entry(1)], snapshot=list(parts_of(1, b"newer")))
            assert _beginning(store) == (b"newer", 1, [])
            whole = store.load("job", whole=True)
            assert whole is not None
            assert (whole.snapshot, whole.imported, len(whole.entries)) == (b"imported", True, 1)

    def test_a_journal_can_be_cut_to_begin_behind_a_snapshot_a_little_at_a_time(self) -> None:
        with self._fresh() as store:
            entries = [_entry(seq) for seq in range(1, 41)]
            _commit(store, created=SPEC, entries=entries, plans=[_plan(step) for step in range(0, 100, 2)])
            _commit(store, snapshot=list(parts_of(20, b"early", 30)))
            _commit(store, snapshot=list(parts_of(30, b"later", 60, kept=(20,))))
            assert store.snapshots("job") == [(20, 30), (30, 60)]
            removal, pieces = Removal(step=51, seq=20), 0
            while not removal.is_done:
                _commit(store, removal=removal)
                pieces += 1
                whole = store.load("job", whole=True)
                assert whole is not None
                assert (whole.snapshot, whole.entries) == (b"early", entries[20:])
            assert pieces > 3
            assert [row.first_step for row in store.plan_rows("job", 0)] == list(range(50, 100, 2))
            assert store.journal("job") == entries[20:]
            assert _beginning(store) == (b"later", 30, list(range(31, 41)))
            _commit(store, snapshot=list(parts_of(40, b"newest", 80)))
            assert store.snapshots("job") == [(20, 30), (40, 80)]

    def test_decisions_are_told_by_number(self) -> None:
        with self._fresh() as store:
            made = [_decision(step) for step in range(2 * BLOCK)]
            _commit(store, created=SPEC, decisions=DecisionBlock.of(0, made[:BLOCK]))
            for _ in range(2):  # a replay lets the same go again
                _commit(store, decisions=DecisionBlock.of(BLOCK, made[BLOCK:]))
            assert store.decisions("job", 0, 2 * BLOCK) == made
            assert store.decisions("job", BLOCK - 1, BLOCK + 1) == made[BLOCK - 1 : BLOCK + 1]
            assert store.decisions("job", 5, 5) == []
            try:
                store.decisions("job", 0, 2 * BLOCK + 1)
            except StoreError as error:
                assert f"from number {2 * BLOCK} on" in error.detail
            else:
                raise AssertionError("it told of decisions that there are not")

    def test_damaged_entries_are_set_aside(self) -> None:
        with self._fresh() as store:
            _commit(store, created=SPEC, entries=[_entry(seq) for seq in (1, 2, 3)])
            _commit(store, damaged_from=2, entries=[_entry(2, until=9)])
            assert store.journal("job") == [_entry(1), _entry(2, until=9)]

    def test_nothing_is_left_of_a_deleted_job_and_others_stay(self) -> None:
        with self._fresh() as store:
            other = _named("other")
            _commit(store, created=SPEC, entries=[_entry(1)], plans=[_plan(0)], snapshot=list(parts_of(1, b"state")))
            store.commit(Transaction("other", store.fence("other"), created=other, entries=[_entry(1)])).result(SECONDS)
            _commit(store, deleted=True)
            assert store.job_names() == ["other"]
            _commit(store, created=SPEC)
            assert _beginning(store) == (None, 0, [])
            assert list(store.plan_rows("job", 0)) == []

    def test_an_artefact_is_stored_once_and_is_read_as_it_was_uploaded(self) -> None:
        uploaded = artefact.read(shipped_policy().data)
        with self._fresh() as store:
            for _ in range(2):
                store.commit(Transaction("", artefacts=[uploaded])).result(SECONDS)
            assert store.manifests() == [uploaded.manifest] == [store.manifest(uploaded.sha256)]
            assert store.artefact_bytes(uploaded.sha256) == uploaded.data
            unknown = "0" * 64
            assert [store.manifest(unknown), store.artefact(unknown), store.artefact_bytes(unknown)] == [None] * 3

    def test_one_at_a_time_has_it_open(self) -> None:
        with TemporaryDirectory() as folder, self._opened(folder) as store:
            store.check()
            try:
                self.open(Path(folder)).close()
            except StoreError:
                return
            raise AssertionError("it was opened twice")

    @contextmanager
    def _opened(self, folder: str) -> Iterator[Store]:
        store = self.open(Path(folder))
        try:
            yield store
        finally:
            store.close()

    @contextmanager
    def _fresh(self) -> Iterator[Store]:
        with TemporaryDirectory() as folder, self._opened(folder) as store:
            yield store


def _commit(store: Store, **changes: object) -> None:
    changes = {"fence": store.fence("job"), **changes}
    store.commit(Transaction("job", **changes)).result(SECONDS)  # type: ignore[arg-type]


def _named(name: str) -> JobSpec:
    return SPEC.model_copy(update={"name": name})


def _entry(seq: int, until: int = 1) -> Entry:
    return Entry.of(seq, StepsServed(until))


def _decision(step: int) -> Decision:
    return Decision(
        first_step=step,
        end_step=step + 1,
        epoch=0,
        policy_version=1,
        policy="bandit",
        observation=Observation(np.zeros(len(FIELDS), np.float32), step, 0),
        action=Action(),
        propensity=0.5,
        detail={"arm": "uniform"},
    )


def _plan(first_step: int, steps: int = 2) -> Plan:
    indices = np.arange(2 * steps).reshape(steps, 2) + steps
    return Plan(first_step, indices, np.full((steps, 2), 0.125, np.float32), policy_version=1, scored_until=0)


def _large_plan(first_step: int) -> Plan:
    """One whose writing would keep others waiting."""
    indices = np.random.default_rng(first_step).integers(0, 2**31, (2**10, 2**9))
    return Plan(first_step, indices, np.full(indices.shape, 0.125, np.float32), policy_version=1, scored_until=0)


def _steps(plans: list[Plan]) -> list[int]:
    return [plan.first_step for plan in plans]


def _missing_step(store: Store, start: int) -> int:
    """The step of which the store says that its plan is missing; −1 where it gives one."""
    try:
        store.plans("job", start, start + 1)
    except DamagedPlanError as error:
        return error.step
    return -1


def _beginning(store: Store) -> tuple[bytes | None, int, list[int]]:
    """The snapshot that a job goes on from, its seq, and the seqs of the entries behind it."""
    stored = store.load("job")
    assert stored is not None
    return stored.snapshot, stored.seq, [entry.seq for entry in stored.entries]
