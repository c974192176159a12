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
