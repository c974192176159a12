"""Where a client finds its service, and the token for it."""

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx
import numpy as np
import pytest

from tests.support.services import Service
from tests.support.simulated import spec
from trainer_client import (
    Feedback,
    FeedbackRequest,
    GoneError,
    ScheduledBatchSampler,
    SchedulerClient,
    StepsRequest,
    UnauthorisedError,
)
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


def test_a_step_that_is_kept_no_longer_is_told_by_name_also_to_who_resumes_there(service: Service) -> None:
    job = spec("kept", samples=6400, batch_size=64, keep_epochs=2)
    with service.client() as client:
        with ScheduledBatchSampler(job, client) as sampler:
            next(iter(sampler))
            early = sampler.state_dict()
        kept_from = 0
        for start in range(0, 2000, 100):  # until its state is saved for the first time
            came = client.steps("kept", StepsRequest(start=start, count=100)).batches.indices
            values = np.zeros(came.shape, np.float32)
            feedback = Feedback(step=np.arange(start, start + 100), similarity=values, loss=values)
            client.feedback("kept", FeedbackRequest(feedback=feedback))
            if (kept_from := client.job("kept").kept_from) > 0:
                break
        sentence = f"is kept no longer, by its keep_epochs of 2: the first that is kept is step {kept_from}, "
        with pytest.raises(GoneError, match=f"step 0 of job 'kept' {sentence}"):
            client.batches("kept", 0, 1)
        assert client.batches("kept", kept_from, 1).start == kept_from
        with ScheduledBatchSampler(job, client) as sampler:
            sampler.load_state_dict(early)
            with pytest.raises(GoneError, match=sentence):
                next(iter(sampler))


def test_the_shells_own_service_does_not_reach_the_tests(service: Service) -> None:
    assert httpx.get(f"{service.url}/v1/jobs").is_success
    with service.client() as client:
        assert "authorization" not in client._transport._service.headers


class Busy(BaseHTTPRequestHandler):
    """Answers so many requests with a status that passes, and the next with an empty list of jobs."""

    status, left = 503, 0

    def do_GET(self) -> None:
        passing = Busy.left > 0
        Busy.left -= 1
        body = b"busy" if passing else b'{"jobs": []}'
        self.send_response(Busy.status if passing else 200)
        self.send_header("content-type", "text/plain" if passing else "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.mark.parametrize("status", [408, 429, 502, 503, 504])
def test_an_answer_that_passes_is_asked_for_again(status: int) -> None:
    Busy.status, Busy.left = status, 2
    with HTTPServer(("127.0.0.1", 0), Busy) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            with SchedulerClient(f"http://127.0.0.1:{server.server_port}", retries=2) as client:
                assert client.jobs().jobs == []
        finally:
            server.shutdown()
            thread.join()
    assert Busy.left == -1
