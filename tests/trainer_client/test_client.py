"""Where a client finds its service, and the token for it."""

from collections.abc import Callable

import httpx
import pytest

from tests.support.services import Service
from tests.support.simulated import spec
from trainer_client import ScheduledBatchSampler, SchedulerClient, UnauthorisedError
from trainer_client.client import service_token, service_url

TOKEN = "a-token-that-only-tests-use"


def test_a_url_that_is_given_goes_before_that_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert service_url() == "http://127.0.0.1:8765"
    monkeypatch.setenv("BSS_URL", "http://scheduler:80")
    assert service_url() == "http://scheduler:80"
    assert service_url("http://10.0.0.1") == "http://10.0.0.1"


def test_a_token_that_is_given_goes_before_that_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert service_token() == ""
    monkeypatch.setenv("BSS_TOKEN", f" {TOKEN}\n")
    assert service_token() == TOKEN
    assert service_token("another") == "another"
    assert service_token("") == ""


def test_a_token_that_no_header_can_hold_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"^token must hold printable ASCII characters only$"):
        SchedulerClient(token="ключ")
    monkeypatch.setenv("BSS_TOKEN", "ключ")
    with pytest.raises(ValueError, match=r"^BSS_TOKEN must hold printable ASCII characters only$"):
        SchedulerClient()


def test_a_trainer_needs_nothing_but_the_environment(
    start_service: Callable[..., Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    service = start_service(BSS_TOKEN=TOKEN)
    monkeypatch.setenv("BSS_URL", service.url)
    with pytest.raises(UnauthorisedError):
        ScheduledBatchSampler(spec("job"))
    monkeypatch.setenv("BSS_TOKEN", TOKEN)
    with ScheduledBatchSampler(spec("job")) as sampler:
        assert len(next(iter(sampler))) == 8
    with SchedulerClient() as client:
        assert client.job("job").next_step >= 1


def test_the_shells_own_service_does_not_reach_the_tests(service: Service) -> None:
    assert httpx.get(f"{service.url}/v1/jobs").is_success
    with service.client() as client:
        assert "authorization" not in client._http.headers
