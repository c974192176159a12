"""Whatever of a store is not as it was written is noticed; what was handed out stays, and the job goes on."""

import asyncio
import random
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from bss_service.http.app import create_app
from bss_service.journal.store import Store
from bss_service.protocol import frames
from bss_service.protocol.jobs import JobChange, JobSpec
from bss_service.protocol.policies import PolicySpec
from bss_service.protocol.training import StepsRequest
from bss_service.settings import Settings
from tests.support.services import Service
from tests.support.simulated import measured, order, report, spec, take, train
from trainer_client.errors import OutageError, SchedulerError

StartService = Callable[..., Service]
EPOCH: dict[str, Any] = {"samples": 48, "batch_size": 8, "interval": 2, "lag": 1, "patience": 0.0}  # six steps


def sql(store: Path, statement: str, *values: Any) -> list[Any]:
    """Do to the file of a stopped service what a failing disk might do."""
    with closing(sqlite3.connect(store)) as connection, connection:
        return connection.execute(statement, values).fetchall()


def damage_journal(store: Path, statement: str, *values: Any) -> None:
    """The same to the journal, where no snapshot makes up for it: a slow machine takes some early."""
    sql(store, "DELETE FROM snapshots WHERE seq > 0")
    sql(store, statement, *values)


def job_of(name: str = "job", policy: str = "balance", **fields: Any) -> JobSpec:
    return spec(name, **{**EPOCH, **fields}).model_copy(
        update={"policy": PolicySpec(name=policy, parameters={"coverage": "epoch"} if policy == "balance" else {})}
    )


def seq_of(store: Path, kind: str, number: int) -> int:
    """The seq of the entry number `number` of a kind."""
    matching = sql(store, "SELECT seq FROM journal WHERE kind = ? ORDER BY seq", kind)
    return int(matching[number][0])


def logged_soon(service: Service, words: str) -> list[str]:
    """The lines of its log with these words; the thread that reads the log may be behind."""
    deadline = time.monotonic() + 20
    while not (matching := logged(service, words)) and time.monotonic() < deadline:
        time.sleep(0.01)
    return matching


def logged(service: Service, words: str) -> list[str]:
    return [line for line in service.log if words in line]


def assert_covers(batches: np.ndarray, samples: int = 48) -> None:
    """Each epoch holds each sample once."""
    epochs = batches.reshape(-1)[: batches.size // samples * samples].reshape(-1, samples)
    assert (np.sort(epochs, axis=1) == np.arange(samples)).all()


KINDS = {"feedback": 12, "plan": 5, "serve": 9, "validation": 1}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "harm",
    [
        "UPDATE journal SET body = x'00' WHERE seq = ?",
        pytest.param("DELETE FROM journal WHERE seq = ?", marks=pytest.mark.long),
    ],
)
def test_a_damaged_journal_is_recovered_and_what_was_handed_out_stays(
    start_service: StartService, kind: str, harm: str
) -> None:
    service, job = start_service(), job_of()
    with service.client(retries=0) as client:
        client.create_job(job)
        before = order(train(client, job, range(21)))
        service.kill()
        bad = seq_of(service.store, kind, KINDS[kind])
        behind = sql(service.store, "SELECT count(*) FROM journal WHERE seq > ?", bad)[0][0]
        damage_journal(service.store, harm, bad)
        service.start()
        again = order(take(client, "job", range(21)))
        assert (again == before).all()
        (line,) = logged_soon(service, "journal damaged: recovered")
        assert f"entry={bad}" in line
        assert f"journal entry {bad} is " in line
        assert "bss_journal_recoveries_total 1.0" in httpx.get(f"{service.url}/metrics").text
        kept = sql(service.store, "SELECT count(*) FROM damaged WHERE job = 'job'")[0][0]
        assert kept == behind + harm.startswith("UPDATE")
        after = order(train(client, job, range(21, 36)))
        service.kill()
        service.start()
        everything = order(take(client, "job", range(36)))
    assert (everything == np.concatenate([before, after])).all()
    assert_covers(everything)
    assert len(logged_soon(service, "journal damaged")) == 1


def test_a_journal_that_lost_its_end_is_recovered_from_the_plans(start_service: StartService) -> None:
    service, job = start_service(), job_of()
    with service.client(retries=0) as client:
        client.create_job(job)
        before = order(train(client, job, range(15)))
        service.kill()
        damage_journal(service.store, "DELETE FROM journal WHERE seq > 30")
        service.start()
        assert (order(take(client, "job", range(15))) == before).all()
        assert logged_soon(service, "journal entry 31 is missing")
        assert_covers(np.concatenate([before, order(train(client, job, range(15, 24)))]))


def test_a_swap_behind_the_damage_counts_again(start_service: StartService) -> None:
    service, job = start_service(), job_of()
    with service.client(retries=0) as client:
        client.create_job(job)
        train(client, job, range(7))
        answer = client.swap("job", "uniform", at="now")
        before = order(train(client, job, range(7, 14)))
        service.kill()
        damage_journal(service.store, "UPDATE journal SET checksum = checksum + 1 WHERE seq = 8")
        service.start()
        assert (order(take(client, "job", range(7, 14))) == before).all()
        after = client.policy("job")
        assert (after.policy.name, after.policy_version) == ("uniform", answer.policy_version)
        assert client.steps("job", StepsRequest(start=14)).batches.policy_version.tolist() == [answer.policy_version]


def test_a_swap_that_only_an_earlier_recovery_tells_of_counts_again(start_service: StartService) -> None:
    service, job = start_service(), job_of()
    with service.client(retries=0) as client:
        client.create_job(job)
        train(client, job, range(7))
        client.swap("job", "uniform", at="now")
        before = order(train(client, job, range(7, 14)))
        for bad in (8, 5):
            service.kill()
            damage_journal(service.store, "UPDATE journal SET checksum = checksum + 1 WHERE seq = ?", bad)
            service.start()
            assert (client.policy("job").policy.name, client.policy("job").policy_version) == ("uniform", 2)
        assert (order(take(client, "job", range(7, 14))) == before).all()


def test_a_growth_and_keys_behind_the_damage_count_again(start_service: StartService) -> None:
    service, job = start_service(), job_of(samples=16)
    with service.client(retries=0) as client:
        client.create_job(job)
        before = order(train(client, job, range(3)))
        client.register_keys("job", [f"key {k}" for k in range(20)])
        grown = client.change_job("job", JobChange(samples=24)).spec
        before = np.concatenate([before, order(train(client, grown, range(3, 11)))])
        assert sorted(before[32:56]) == list(range(24))
        service.kill()
        damage_journal(service.store, "UPDATE journal SET checksum = checksum + 1 WHERE seq = 5")
        service.start()
        assert client.job("job").spec.size == grown.size
        assert (order(take(client, "job", range(11))) == before).all()
        assert client.register_keys("job", ["key 19", "more"]).indices.tolist() == [19, 20]
        service.kill()
        service.start()
        assert client.job("job").spec.size == grown.size
    assert logged_soon(service, "journal damaged")


@pytest.mark.parametrize(("kind", "reason"), [("grow", "how the job grew from 16 samples"), ("keys", "are lost")])
def test_a_job_whose_growth_or_keys_are_lost_is_refused(start_service: StartService, kind: str, reason: str) -> None:
    service, job = start_service(), job_of(samples=16)
    with service.client(retries=0) as client:
        client.create_job(job)
        train(client, job, range(3))
        client.register_keys("job", ["a"])
        grown = client.change_job("job", JobChange(samples=24)).spec
        train(client, grown, range(3, 7))
        client.register_keys("job", ["b"])
        service.kill()
        damage_journal(service.store, "UPDATE journal SET body = x'00' WHERE seq = ?", seq_of(service.store, kind, 0))
        service.start()
        with pytest.raises(OutageError, match=reason):
            client.job("job")


def test_a_policy_whose_swap_is_lost_is_named(start_service: StartService) -> None:
    service, job = start_service(), job_of()
    with service.client(retries=0) as client:
        client.create_job(job)
        train(client, job, range(7))
        client.swap("job", "uniform", at="now")
        before = order(train(client, job, range(7, 14)))
        service.kill()
        damage_journal(service.store, "UPDATE journal SET body = x'01' WHERE kind = 'swap'")
        service.start()
        assert (order(take(client, "job", range(7, 14))) == before).all()
        assert "unknown_policies=[2]" in logged_soon(service, "journal damaged")[0]
        assert (client.policy("job").policy.name, client.policy("job").policy_version) == ("balance", 2)


def test_a_step_that_was_planned_and_not_asked_for_counts_as_handed_out(start_service: StartService) -> None:
    service, job = start_service(), job_of(interval=6)
    with service.client(retries=0) as client:
        client.create_job(job)
        before = order(train(client, job, range(9)))
        service.kill()
        damage_journal(service.store, "UPDATE journal SET body = x'00' WHERE seq = 12")
        service.start()
        assert client.job("job").next_step == 12
        assert_covers(np.concatenate([before, order(train(client, job, range(9, 18)))]))


def test_a_damaged_snapshot_is_left_out(start_service: StartService) -> None:
    service, job = start_service(), spec("job", samples=2000, batch_size=1000, patience=0.0)
    with service.client(retries=0) as client:
        client.create_job(job)
        expected = order(train(client, job, range(150), count=1))
        service.stop()
        assert sql(service.store, "SELECT count(*) FROM snapshots")[0][0] > 0
        sql(service.store, "UPDATE snapshots SET body = substr(body, 1, length(body) - 1)")
        service.start()
        assert (order(take(client, "job", range(150))) == expected).all()
    assert logged_soon(service, "damaged snapshot left out")
    assert not logged(service, "journal damaged")


def test_a_job_whose_imported_snapshot_is_damaged_is_refused(start_service: StartService) -> None:
    service, job = start_service(), job_of()
    with service.client(retries=0) as client, httpx.Client(base_url=service.url) as http:
        client.create_job(job)
        train(client, job, range(5))
        carried = http.get("/v1/jobs/job/snapshot").content
        answer = http.put("/v1/jobs/other/snapshot", content=carried, headers={"content-type": frames.CONTENT_TYPE})
        assert answer.status_code == 201
        service.kill()
        sql(service.store, "UPDATE snapshots SET checksum = 0")
        service.start()
        with pytest.raises(OutageError, match="the snapshot that it was imported with is damaged"):
            client.job("other")
        assert client.job("job").next_step == 5


@pytest.mark.parametrize("harm", ["UPDATE plans SET body = x'00'", "DELETE FROM plans"])
def test_a_damaged_plan_is_drawn_anew(start_service: StartService, harm: str) -> None:
    service, job = start_service(), job_of()
    with service.client(retries=0) as client:
        client.create_job(job)
        expected = order(train(client, job, range(30)))
        service.kill()
        sql(service.store, f"{harm} WHERE first_step = 4")
        service.start()
        assert (order(take(client, "job", range(30))) == expected).all()
        assert logged_soon(service, "damaged plan drawn anew")
        service.kill()
        service.start()
        assert (client.batches("job", 0, 30).indices.reshape(-1) == expected).all()
    assert len(logged_soon(service, "damaged plan drawn anew")) == 1


def test_a_plan_that_its_journal_does_not_tell_of_any_more_is_refused(start_service: StartService) -> None:
    service, job = start_service(), job_of()
    with service.client(retries=0) as client:
        client.create_job(job)
        expected = order(train(client, job, range(30)))
        service.kill()
        damage_journal(service.store, "UPDATE journal SET body = x'00' WHERE seq = 9")
        sql(service.store, "UPDATE plans SET body = x'00' WHERE first_step = 6")
        service.start()
        with pytest.raises(OutageError, match="the batch of step 7 of job 'job' is damaged"):
            client.batches("job", 7, 1)
        assert (order(take(client, "job", range(8, 30))) == expected[8 * 8 :]).all()


def test_a_job_of_which_too_little_is_left_is_refused(start_service: StartService) -> None:
    service, job = start_service(), job_of()
    with service.client(retries=0) as client:
        client.create_job(job)
        train(client, job, range(30))
        service.kill()
        damage_journal(service.store, "UPDATE journal SET body = x'00' WHERE seq = 9")
        sql(service.store, "UPDATE plans SET body = x'00' WHERE first_step = 28")
        service.start()
        for _ in range(2):
            with pytest.raises(OutageError, match="can't be recovered: the batches from step 28 on are damaged too"):
                client.job("job")
        assert "journal entry 9 is damaged" in client.jobs().unreadable["job"]


def test_a_file_that_is_no_database_any_more_says_what_to_do(start_service: StartService) -> None:
    service, job = start_service(), job_of()
    with service.client(retries=0) as client:
        client.create_job(job)
        train(client, job, range(30))
    service.stop()
    content = bytearray(service.store.read_bytes())
    content[4096:] = bytes(len(content) - 4096)
    service.store.write_bytes(content)
    with pytest.raises(Exception, match=r"bss.sqlite can't be opened: .*malformed.*restore the file from a backup"):
        Store(f"sqlite:///{service.store}")


def test_a_cut_write_ahead_log_ends_with_its_last_whole_commit(start_service: StartService) -> None:
    service, job = start_service(), job_of()
    with service.client(retries=0) as client:
        client.create_job(job)
        store, wal = service.store, service.store.with_name("bss.sqlite-wal")
        with closing(sqlite3.connect(store)) as reader:  # of this moment, beyond which the log can't be emptied
            reader.execute("BEGIN")
            reader.execute("SELECT * FROM jobs").fetchall()
            before = order(train(client, job, range(20)))
            service.kill()
            database, log = store.read_bytes(), wal.read_bytes()
        store.write_bytes(database)
        wal.write_bytes(log[: len(log) * 2 // 3])
        service.start()
        reached = client.job("job").next_step
        assert 0 < reached < 20
        assert (order(take(client, "job", range(reached))) == before[: reached * 8]).all()
        with pytest.raises(SchedulerError, match=f"a trainer that is ahead .* checkpoint of step {reached} or earlier"):
            client.steps("job", StepsRequest(start=20))
        assert_covers(np.concatenate([before[: reached * 8], order(train(client, job, range(reached, 24)))]))


# Bytes at random.


class Application:
    """The service in this process: as the real one, but that it starts at once."""

    def __init__(self, runner: asyncio.Runner, store: Path) -> None:
        settings = Settings(store=f"sqlite:///{store}")
        self._app = create_app(settings, Store(settings.store))
        self._runner = runner
        self._life = self._app.router.lifespan_context(self._app)
        transport = httpx.ASGITransport(self._app, raise_app_exceptions=False)
        self._http = httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1")

    def __enter__(self) -> "Application":
        self._runner.run(self._life.__aenter__())
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self._http.aclose())
        self._runner.run(self._life.__aexit__(None, None, None))

    def get(self, path: str) -> httpx.Response:
        return self._runner.run(self._http.get(path))

    def post(self, path: str, json: Any) -> httpx.Response:
        return self._runner.run(self._http.post(path, json=json))

    def put(self, path: str, content: bytes) -> httpx.Response:
        headers = {"content-type": frames.CONTENT_TYPE}
        return self._runner.run(self._http.put(path, content=content, headers=headers))


@pytest.fixture
def application() -> Iterator[Callable[[Path], Application]]:
    with asyncio.Runner() as runner:
        yield lambda store: Application(runner, store)


def ask(http: Application, job: JobSpec, step: int) -> np.ndarray | None:
    """The batch of a step; None where it is refused with a sentence."""
    answer = http.post(f"/v1/jobs/{job.name}/steps", json={"start": step})
    if answer.status_code == 200:
        return np.array(answer.json()["batches"]["indices"][0])
    assert answer.status_code in (503, 404), answer.text
    assert "damaged" in answer.json()["detail"] or "not known" in answer.json()["detail"]
    return None


def go_on(http: Application, job: JobSpec, steps: range) -> list[np.ndarray | None]:
    """Train on, validating at the end of each epoch."""
    batches = []
    for step in steps:
        batches.append(ask(http, job, step))
        if batches[-1] is None:
            break
        fed_back = {"feedback": frames_json(measured(step, batches[-1]))}
        assert http.post(f"/v1/jobs/{job.name}/feedback", json=fed_back).status_code == 200
        if (step + 1) % 6 == 0:
            assert http.post(f"/v1/jobs/{job.name}/validation", json=report(step + 1).model_dump()).status_code == 200
    return batches


def frames_json(message: Any) -> Any:
    return {key: value.tolist() for key, value in message.model_dump().items() if value is not None}


TABLES = {
    "jobs": ("job", "spec", "checksum"),
    "journal": ("job", "seq", "kind", "body", "checksum"),
    "plans": ("job", "first_step", "body", "checksum"),
    "snapshots": ("job", "seq", "part", "parts", "body", "checksum"),
}


def flip(store: Path, dice: random.Random) -> str:
    """Change one byte of one value of one row; what was changed."""
    table = dice.choice(list(TABLES))
    column = dice.choice(TABLES[table])
    rows = sql(store, f"SELECT rowid, {column} FROM {table}")
    row, value = dice.choice(rows)
    if isinstance(value, int):
        changed: Any = value ^ (1 << dice.randrange(31))
    else:
        data = bytearray(value.encode() if isinstance(value, str) else value)
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(7)
        changed = bytes(data).decode("latin-1") if isinstance(value, str) else bytes(data)
    try:
        sql(store, f"UPDATE {table} SET {column} = ? WHERE rowid = ?", changed, row)
    except sqlite3.IntegrityError:  # another row has that key
        return "nothing"
    return f"{table}.{column} of row {row}"


def test_a_flipped_bit_never_gives_a_wrong_batch(tmp_path: Path, application: Callable[[Path], Application]) -> None:
    job, dice = job_of(), random.Random(4)
    original, store = tmp_path / "original.sqlite", tmp_path / "bss.sqlite"
    with application(original) as http:
        assert http.post("/v1/jobs", json=job.model_dump(mode="json")).status_code == 201
        first = go_on(http, job, range(14))
        carried = http.get(f"/v1/jobs/{job.name}/snapshot").content  # so that there is one of each kind of row
        assert http.put("/v1/jobs/carried/snapshot", carried).status_code == 201
        go_on(http, job, range(14, 15))
    shutil.copy(original, store)
    with application(store) as http:
        expected = [*first, *go_on(http, job, range(14, 30))]
    sql(original, "DELETE FROM snapshots WHERE seq > 0")
    last = sql(original, "SELECT max(rowid) FROM journal")[0][0]
    outcomes = {"identical": 0, "recovered": 0, "refused": 0}
    for _ in range(50):
        shutil.copy(original, store)
        changed = flip(store, dice)
        with application(store) as http:
            past = [ask(http, job, step) for step in range(15)]
            for step, batch in enumerate(past):
                assert batch is None or (batch == expected[step]).all(), (changed, step)
            future = go_on(http, job, range(15, 30))
            recovered = "bss_journal_recoveries_total 1.0" in http.get("/metrics").text
        if any(batch is None for batch in (*past, *future)):
            outcomes["refused"] += 1
        elif recovered:
            outcomes["recovered"] += 1
            assert_covers(np.array([*past, *future]))
        elif changed in (f"journal.job of row {last}", f"journal.seq of row {last}"):
            assert_covers(np.array([*past, *future]))  # whether there was another entry at the end, nothing tells
        else:
            outcomes["identical"] += 1
            assert (np.array(future) == np.array(expected[15:])).all(), changed
    assert min(outcomes.values()) > 0, outcomes
