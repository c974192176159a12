"""What a service tells Prometheus of itself."""

import sqlite3
from collections.abc import Callable

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.services import Service
from tests.support.simulated import spec
from trainer_client.errors import OutageError


def metric(service: Service, name: str) -> float:
    """The value of a metric without labels."""
    families = text_string_to_metric_families(httpx.get(f"{service.url}/metrics").text)
    [value] = [sample.value for family in families for sample in family.samples if sample.name == name]
    return float(value)


def test_memory_is_that_of_the_service(service: Service) -> None:
    assert 2**24 < metric(service, "process_resident_memory_bytes") < 2**32


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
