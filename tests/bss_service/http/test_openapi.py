"""The interface keeps to its OpenAPI document: the short run of `make schemathesis`."""

from collections.abc import Callable
from pathlib import Path

import httpx

from tests.fuzz.api import passed, populate, schemathesis
from tests.support.services import Service


def test_generated_requests_find_no_failure(start_service: Callable[..., Service], tmp_path: Path) -> None:
    service = start_service("--max-samples", "100000")
    populate(service)
    report, output = schemathesis(service.url, tmp_path, examples=5, seed=1)
    assert passed(report), output[-8000:]
    document = httpx.get(f"{service.url}/openapi.json").json()
    assert report["operations"]["tested"] == sum(len(methods) for methods in document["paths"].values())
