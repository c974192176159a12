"""Services that share a store: each owns the jobs of its shards for a term, and stores nothing of another's."""

import select
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest

from bss_service.errors import MovedError, StoreError, StoreLostError, UnownedError
from bss_service.job.events import StepsServed
from bss_service.journal import schema
from bss_service.journal.descriptions import Description
from bss_service.journal.owning.membership import Member
from bss_service.journal.owning.shards import SHARDS, shard_of, share
from bss_service.journal.store import Store
from bss_service.journal.transaction import Entry, Fence, Transaction
from bss_service.protocol.jobs import JobSpec
from tests.support.postgres import Postgres

SECONDS = 30
LONG = 3600.0  # a term in which nothing is looked at but by the test
SPEC = JobSpec(name="job", samples=8, modalities=["audio", "video"], batch_size=2)

Open = Callable[..., Store]


@pytest.fixture
def database(postgres: Postgres, job_name: str) -> str:
    return postgres.database(job_name[-40:])


@pytest.fixture
def opened(database: str) -> Iterator[Open]:
    """Opens the store for services, by their letters."""
    with ExitStack() as stack:

        def open_store(letter: str, term: float = LONG) -> Store:
            store = Store(database, Member(f"http://{letter}:1", term))
            stack.callback(store.close)
            return store

        yield open_store


def look(*stores: Store) -> None:
    for store in stores:
        assert store.membership is not None
        store.membership.look()


def owned(store: Store) -> set[int]:
    assert store.membership is not None
    return set(store.membership.view.epochs)


def end_terms(postgres: Postgres, database: str, *letters: str) -> None:
    """Let the terms of services be over, as if they had not been heard of for long."""
    for letter in letters:
        ended = f"UPDATE members SET until = clock_timestamp() - interval '1 s' WHERE address = 'http://{letter}:1'"
        postgres.ask(database.rpartition("/")[2], ended)


def created(store: Store, fence: Fence | None = None) -> None:
    fence = fence or store.fence("job")
    store.commit(Transaction("job", fence, created=SPEC, incarnation="i")).result(SECONDS)


def entry(seq: int) -> Entry:
    return Entry.of(seq, StepsServed(seq))


def test_who_is_alone_owns_all_and_a_second_one_gets_half(opened: Open) -> None:
    first = opened("a")
    assert owned(first) == set(range(SHARDS))
    second = opened("b")
    assert owned(second) == set()  # as long as the first has let go of none
    look(first)
    assert first.membership is not None and first.membership.view.surplus == SHARDS // 2
    first.membership.hand_over(range(SHARDS // 2))
    look(second)
    assert (owned(first), owned(second)) == (set(range(SHARDS // 2, SHARDS)), set(range(SHARDS // 2)))


def test_who_does_not_own_a_job_knows_who_does(opened: Open) -> None:
    first, second = opened("a"), opened("b")
    with pytest.raises(MovedError, match="job 'job' is served by http://a:1") as moved:
        second.fence("job")
    assert (moved.value.status, moved.value.address) == (307, "http://a:1")
    assert first.fence("job").epoch == 1


def test_a_commit_of_a_stale_owner_fails_whatever_its_clock_says(
    opened: Open, postgres: Postgres, database: str
) -> None:
    stale, second = opened("a"), opened("b")
    fence = stale.fence("job")
    created(stale, fence)
    end_terms(postgres, database, "a")
    look(second)
    assert second.fence("job").epoch == fence.epoch + 1
    assert stale.fence("job") == fence  # it has not looked, and its own clock tells it that it has an hour left
    failed = stale.commit(Transaction("job", fence, entries=[entry(1)])).exception(SECONDS)
    assert isinstance(failed, StoreError) and "job 'job' belongs to another service by now" in failed.detail
    assert fence.closed
    second.commit(Transaction("job", second.fence("job"), entries=[entry(1)])).result(SECONDS)
    assert second.journal("job") == [entry(1)]


def test_what_was_loaded_in_an_earlier_epoch_is_not_stored_in_a_later_one_of_the_same_owner(
    opened: Open, postgres: Postgres, database: str
) -> None:
    first, second = opened("a"), opened("b")
    before = first.fence("job")
    created(first, before)
    end_terms(postgres, database, "a")
    look(second)
    end_terms(postgres, database, "b")
    look(first)  # which has its term again,
    look(first)  # and takes over from the other
    assert first.fence("job").epoch == before.epoch + 2
    with pytest.raises(UnownedError, match="is being loaded again"):
        first.check_held("job", before)
    assert isinstance(first.commit(Transaction("job", before, entries=[entry(1)])).exception(SECONDS), StoreError)
    first.commit(Transaction("job", first.fence("job"), entries=[entry(1)])).result(SECONDS)


def test_a_change_without_an_epoch_is_not_stored(opened: Open) -> None:
    store = opened("a")
    assert isinstance(store.commit(Transaction("job", created=SPEC)).exception(SECONDS), StoreError)
    assert not store.has("job")


def test_of_changes_that_are_committed_together_those_of_other_jobs_are_stored(
    opened: Open, postgres: Postgres, database: str
) -> None:
    store = opened("a")
    names = [f"job-{k}" for k in range(6)]
    fences = [store.fence(name) for name in names]
    raised = "UPDATE shards SET epoch = epoch + 1 WHERE shard = " + str(shard_of("job-3"))
    postgres.ask(database.rpartition("/")[2], raised)
    waiting = [
        store.commit(Transaction(name, fence, created=SPEC.model_copy(update={"name": name})))
        for name, fence in zip(names, fences, strict=True)
    ]
    failed = [name for name, future in zip(names, waiting, strict=True) if future.exception(SECONDS) is not None]
    assert failed == ["job-3"]
    assert store.job_names() == [name for name in names if name != "job-3"]


def test_taking_over_waits_for_a_change_that_is_under_way(opened: Open, postgres: Postgres, database: str) -> None:
    first, second = opened("a"), opened("b")
    created(first)
    fence = first.fence("job")
    with first._right.change([Transaction("job", fence, entries=[entry(1)])]):  # which has compared the epoch
        end_terms(postgres, database, "a")
        look(second)
        assert owned(second) == set(range(SHARDS)) - {shard_of("job")}
    look(second)
    assert second.fence("job").epoch == fence.epoch + 1


def test_a_service_that_is_stopped_in_mid_change_does_not_keep_its_shards(opened: Open) -> None:
    first, second = opened("a", term=0.5), opened("b")
    change = Transaction("job", first.fence("job"), created=SPEC)
    with pytest.raises(Exception, match="idle-in-transaction"), first._right.change([change]) as connection:
        session = connection.connection.driver_connection
        assert session is not None
        select.select([session.fileno()], [], [], SECONDS)  # nothing is asked until the server has ended the session
        assert first.membership is not None
        first.membership._ended = True
        end_of_term = first.membership.view.until
        while time.monotonic() < end_of_term + 0.5 and not owned(second):
            look(second)
        connection.exec_driver_sql("SELECT 1")
    assert owned(second)


def test_no_change_is_made_in_a_pipeline_in_which_a_session_that_is_stopped_is_never_idle(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, begin = [], psycopg.Pipeline.__init__

    def noted(*given: Any) -> None:
        begun.append(given)
        begin(*given)

    monkeypatch.setattr(psycopg.Pipeline, "__init__", noted)
    store = opened("a")
    created(store)
    described = [Description(sample, "text", b"a dog") for sample in range(2)]
    change = Transaction("job", store.fence("job"), entries=[entry(1), entry(2)], descriptions=described)
    store.commit(change).result(SECONDS)
    assert [e.seq for e in store.journal("job")] == [1, 2]
    assert begun == []


def test_a_term_that_cannot_be_renewed_ends_by_ones_own_clock(opened: Open) -> None:
    store = opened("a")
    membership = store.membership
    assert membership is not None
    fence = store.fence("job")
    membership._clock = lambda: membership.view.until
    for asks in (lambda: store.fence("job"), lambda: store.check_held("job", fence), store.check):
        with pytest.raises(UnownedError, match="could not renew its term"):
            asks()


def test_who_was_away_does_not_take_from_those_whom_it_could_not_hear(
    opened: Open, postgres: Postgres, database: str
) -> None:
    first, second = opened("a"), opened("b")
    end_terms(postgres, database, "a", "b")  # the server was away from both
    assert second.membership is not None
    second.membership._view = type(second.membership.view)()  # as its clock has it, too
    look(second)
    assert owned(second) == set()
    look(first)
    look(second)
    assert (len(owned(first)), owned(second)) == (SHARDS, set())


def test_a_service_that_is_started_again_need_not_wait_for_its_own_term(opened: Open) -> None:
    killed = opened("a")
    fence = killed.fence("job")
    again = opened("a")
    assert again.fence("job").epoch == fence.epoch + 2  # let go of, and taken
    assert isinstance(killed.commit(Transaction("job", fence, created=SPEC)).exception(SECONDS), StoreError)
    look(killed)
    with pytest.raises(StoreLostError, match="another service has the address http://a:1 by now"):
        killed.check()


def test_who_leaves_gives_its_shards_to_those_who_stay(database: str, opened: Open) -> None:
    leaving, staying = Store(database, Member("http://a:1", LONG)), opened("b")
    fence = leaving.fence("job")
    leaving.close()
    look(staying)
    assert len(owned(staying)) == SHARDS
    assert staying.fence("job").epoch == fence.epoch + 1


def test_a_store_is_shared_or_one_services_alone(database: str, opened: Open, postgres: Postgres) -> None:
    shared = opened("a")
    fence = shared.fence("job")
    with pytest.raises(StoreError, match="another service has the store"):
        Store(database)
    locks = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'"
    postgres.ask("postgres", locks)  # as behind a pooler, which keeps none
    alone = Store(database)
    assert isinstance(shared.commit(Transaction("job", fence, created=SPEC)).exception(SECONDS), StoreError)
    look(shared)
    with pytest.raises(StoreLostError, match="taken the store for itself alone"):
        shared.check()
    with pytest.raises(StoreError, match="for itself alone: let it share that"):
        opened("b")
    postgres.ask("postgres", locks)
    assert opened("c").fence("job").epoch > fence.epoch
    failed = alone.commit(Transaction("job", alone.fence("job"), created=SPEC)).exception(SECONDS)
    assert isinstance(failed, StoreLostError)
    alone.close()


def test_a_newer_schema_is_refused_and_an_older_one_not_changed_under_those_who_use_it(
    database: str, opened: Open, postgres: Postgres
) -> None:
    name = database.rpartition("/")[2]
    running = opened("a")
    running.check()
    postgres.ask(name, f"UPDATE meta SET schema_version = {schema.VERSION - 1}")
    with pytest.raises(StoreError, match="is used by http://a:1: stop all of them"):
        opened("b")
    postgres.ask(name, f"UPDATE meta SET schema_version = {schema.VERSION + 1}")
    with pytest.raises(StoreError, match=f"has schema version {schema.VERSION + 1}, this service needs"):
        opened("b")
    look(running)
    with pytest.raises(StoreLostError, match=f"has schema version {schema.VERSION + 1} by now"):
        running.check()


def test_only_a_server_can_be_shared(tmp_path: object) -> None:
    with pytest.raises(StoreError, match="must be in PostgreSQL, got sqlite"):
        Store(f"sqlite:///{tmp_path}/bss.sqlite", Member("http://a:1", LONG))


def test_shares_are_fair_for_any_number(opened: Open) -> None:
    stores = [opened(letter) for letter in "abcd"]
    for _ in range(3):
        for store in stores:
            look(store)
            assert store.membership is not None
            surplus = store.membership.view.surplus
            store.membership.hand_over(sorted(owned(store))[:surplus])
    look(*stores)
    assert {len(owned(store)) for store in stores} == {share(4)} == {64}
    assert set().union(*map(owned, stores)) == set(range(SHARDS))
