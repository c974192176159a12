"""A service whose store is in PostgreSQL: a real server, which is stopped, crashes, hangs, is full, has a pooler."""

import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import httpx
import numpy as np
import psycopg
import pytest

from bss_service.errors import StoreError, StoreLostError
from bss_service.journal.store import Store
from bss_service.journal.transaction import Transaction
from bss_service.protocol.jobs import JobSpec
from bss_service.testing import ServiceStartError
from tests.bss_service.journal.test_storage_faults import Disk
from tests.support.postgres import Postgres, free_port
from tests.support.services import Service
from tests.support.simulated import order, spec, take, train
from trainer_client.errors import OutageError

SECONDS = 30
RUN = range(42)  # six epochs of six or seven steps


@pytest.fixture
def database(postgres: Postgres, job_name: str) -> str:
    """The URL of a database of this test's own."""
    return postgres.database(job_name[-40:])


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[str], Service]]:
    """Starts services over stores."""
    services = []

    def start(store: str) -> Service:
        folder = tmp_path / str(len(services))
        folder.mkdir()
        services.append(Service(folder, store=store))
        return services[-1].start()

    yield start
    for service in services:
        service.close()


@pytest.fixture(scope="module")
def expected(service: Service) -> np.ndarray:
    """What the same job draws over SQLite."""
    with service.client() as client:
        job = spec("over-sqlite")
        client.create_job(job)
        return order(train(client, job, RUN))


def in_thirds(service: Service, between: Callable[[], None]) -> np.ndarray:
    """A run in the midst of which something happens twice."""
    job = spec("run")
    answers = []
    with service.client(retries=50) as client:
        client.create_job(job)
        for k in range(3):
            answers += train(client, job, range(14 * k, 14 * (k + 1)))
            if k < 2:
                between()
    return order(answers)


def test_batches_of_a_seed_are_the_same_over_either_store(
    serve: Callable[[str], Service], database: str, expected: np.ndarray
) -> None:
    service = serve(database)

    def restart() -> None:
        service.kill()
        service.start()

    np.testing.assert_array_equal(in_thirds(service, restart), expected)
    with service.client() as client:
        np.testing.assert_array_equal(order(take(client, "run", RUN)), expected)


def test_a_job_moves_from_one_kind_of_store_to_the_other(
    serve: Callable[[str], Service], service: Service, database: str, expected: np.ndarray
) -> None:
    there, job = serve(f"{database}?options=-csearch_path%3Dpublic"), spec("moving")
    with service.client() as before, there.client() as client:
        before.create_job(job)
        first = train(before, job, range(14))
        client.put_snapshot("moving", before.snapshot("moving"))
        first += train(client, job, range(14, 28))
        before.put_snapshot("moved", client.snapshot("moving"))
        first += train(before, job.model_copy(update={"name": "moved"}), range(28, 42))
    np.testing.assert_array_equal(order(first), expected)


@pytest.mark.parametrize("how", ["fast", "immediate"])
def test_a_server_that_is_started_again_in_mid_run_is_waited_for(
    serve: Callable[[str], Service], postgres: Postgres, database: str, expected: np.ndarray, how: str
) -> None:
    service = serve(database)

    def restart() -> None:
        postgres.stop(how)
        assert httpx.get(f"{service.url}/readyz").status_code == 503
        threading.Timer(0.5, postgres.start).start()

    np.testing.assert_array_equal(in_thirds(service, restart), expected)


def test_a_server_that_hangs_is_waited_for(
    serve: Callable[[str], Service], postgres: Postgres, database: str, expected: np.ndarray
) -> None:
    service = serve(database)

    def hang() -> None:
        postgres.pause()
        threading.Timer(1, postgres.resume).start()

    np.testing.assert_array_equal(in_thirds(service, hang), expected)


def test_sessions_that_are_ended_are_taken_anew(
    serve: Callable[[str], Service], postgres: Postgres, database: str, expected: np.ndarray
) -> None:
    service = serve(database)
    end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid != pg_backend_pid() AND datname IS NOT NULL"
    np.testing.assert_array_equal(in_thirds(service, lambda: [postgres.ask("postgres", end), None][1]), expected)


def test_a_change_that_a_row_is_locked_against_is_told_and_made_later(
    serve: Callable[[str], Service], postgres: Postgres, database: str
) -> None:
    service, job = serve(database), spec("run")
    with service.client(retries=0) as client:
        client.create_job(job)
        train(client, job, range(3))
        with psycopg.connect(database.replace("+psycopg", "")) as other:
            other.execute("LOCK TABLE journal IN EXCLUSIVE MODE")
            with pytest.raises(OutageError, match="lock timeout"):
                take(client, "run", range(3, 6))
        train(client, job, range(3, 6))


def test_a_full_disk_is_told_and_the_run_goes_on_when_there_is_room(
    serve: Callable[[str], Service], postgres: Postgres, tmp_path: Path
) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    disk = Disk(folder, size="24m")
    try:
        for above in (folder, *folder.parents):
            if above.stat().st_uid == 0 and above != Path("/tmp") and above != Path("/"):
                above.chmod(0o755)
        shutil.chown(folder, "postgres")
        postgres.ask("postgres", f"CREATE TABLESPACE small LOCATION '{folder}'")
        postgres.ask("postgres", "CREATE DATABASE small TABLESPACE small")
        service, job = serve(postgres.database("small")), spec("run", samples=200_000, batch_size=1000)
        with service.client(retries=0) as client:
            client.create_job(job)
            train(client, job, range(3), count=1)
            disk.fill()
            with pytest.raises(OutageError, match="No space left on device"):
                for epoch in range(1, 50):
                    train(client, job, range(200 * (epoch - 1) + 3, 200 * epoch + 3), count=1)
            disk.free()
            state = client.job("run")
            train(client, job, range(state.next_step, state.next_step + 3), count=1)
        service.close()
        postgres.ask("postgres", "DROP DATABASE small")
        postgres.ask("postgres", "DROP TABLESPACE small")
    finally:
        disk.close()


def test_one_service_at_a_time_has_a_database(serve: Callable[[str], Service], database: str) -> None:
    service = serve(database)
    with pytest.raises(ServiceStartError, match=r"another service has the store postgresql\+psycopg://bss@.* open"):
        serve(database)
    service.kill()
    serve(database)


def test_the_next_service_waits_until_the_server_notices_that_one_was_killed(database: str) -> None:
    first = Store(database)
    leaving = threading.Timer(0.5, first.close)
    leaving.start()
    with closing(Store(database)) as second:
        assert second.job_names() == []
    leaving.join()


def test_who_lost_the_database_stores_nothing_more(postgres: Postgres, database: str) -> None:
    first = Store(database)
    job = JobSpec(name="job", samples=4, modalities=["audio"], batch_size=2)
    first.commit(Transaction("job", created=job)).result(SECONDS)
    postgres.ask("postgres", "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'")
    second = Store(database)
    assert isinstance(first.commit(Transaction("other", created=job)).exception(SECONDS), StoreLostError)
    second.commit(Transaction("third", created=job)).result(SECONDS)
    assert second.job_names() == ["job", "third"]
    with pytest.raises(StoreError):
        first.check()
    first.close()
    second.close()


def test_a_pooler_between_that_changes_sessions_makes_no_difference(
    serve: Callable[[str], Service], postgres: Postgres, database: str, expected: np.ndarray, tmp_path: Path
) -> None:
    program = shutil.which("pgbouncer", path="/usr/sbin:/usr/bin:/usr/local/bin")
    if program is None:
        pytest.skip("needs pgbouncer")
    port = free_port()
    (tmp_path / "pooler.ini").write_text(
        f"[databases]\n* = host=127.0.0.1 port={postgres.port} user=bss\n[pgbouncer]\nlisten_addr=127.0.0.1\n"
        f"listen_port={port}\nauth_type=any\nauth_file=/dev/null\npool_mode=transaction\nunix_socket_dir=\n"
    )
    user = ["-u", "postgres"]
    name = database.rpartition("/")[2]
    with subprocess.Popen([program, *user, tmp_path / "pooler.ini"], stderr=subprocess.DEVNULL) as pooler:
        try:
            service = serve(postgres.database(name, port))
            np.testing.assert_array_equal(in_thirds(service, lambda: None), expected)
        finally:
            pooler.terminate()
