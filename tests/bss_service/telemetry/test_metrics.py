"""What a service tells Prometheus of itself."""

import asyncio
import re
import sqlite3
import time
from collections.abc import Callable

import httpx
import pytest

from bss_service.telemetry.metrics import ASKED_EVERY, Metrics, watch_loop
from tests.support.services import Service, metric
from tests.support.simulated import spec
from trainer_client.errors import OutageError


def test_memory_is_that_of_the_service(service: Service) -> None:
    assert 2**24 < metric(service, "process_resident_memory_bytes") < 2**32


def test_the_longest_time_for_which_nobody_was_answered_is_told() -> None:
    async def use() -> None:
        metrics = Metrics()
        watching = asyncio.create_task(watch_loop(metrics))
        await asyncio.sleep(0)
        until = time.process_time() + 0.3
        while time.process_time() < until:  # as a request that holds up all others
            pass
        await asyncio.sleep(3 * ASKED_EVERY)
        watching.cancel()
        text = metrics.text().decode()
        [longest] = re.findall(r"^bss_loop_longest_hold_seconds (\S+)$", text, re.MULTILINE)
        assert 0.25 < float(longest) < 10

    asyncio.run(use())


def test_a_service_tells_how_late_it_is(service: Service) -> None:
    assert metric(service, "bss_loop_lag_seconds_count") >= 0


def test_a_change_that_is_not_stored_is_counted(start_service: Callable[..., Service]) -> None:
    service = start_service()
    with service.client(retries=0, timeout=20) as client:
        blocker = sqlite3.connect(service.store, isolation_level=None)
        blocker.execute("BEGIN IMMEDIATE")  # locked for longer than the service waits
        with pytest.raises(OutageError, match="database is locked"):
            client.create_job(spec("job"))
        blocker.close()
        assert metric(service, "bss_store_failures_total") == 1
        client.create_job(spec("job"))
    assert metric(service, "bss_store_failures_total") == 1


def test_made_up_methods_routes_and_hosts_make_no_new_series(service: Service) -> None:
    def ask(start: int) -> int:
        with httpx.Client(base_url=service.url) as http:
            for number in range(start, start + 30):
                for method, path in ((f"FOO{number}", "/v1/jobs"), (f"FOO{number}", "/"), ("GET", f"/no/{number}")):
                    http.request(method, path)
                http.get("/v1/jobs", headers={"host": f"{number}.example"})
                http.get(f"/v1/jobs/no-{number}")
            for method in ("PROPFIND", "TRACE", "MKCOL", "QUERY", "SEARCH"):
                http.request(method, "/v1/jobs")
            return len(http.get("/metrics").text.splitlines())

    ask(0)
    assert ask(100) == ask(200)
    assert 'method="other"' in httpx.get(f"{service.url}/metrics").text
