"""Requests that are held, and clients that leave them behind."""

import socket
import time
from urllib.parse import urlsplit

import httpx

from bss_service.protocol.policies import PolicySpec
from tests.support.services import Service
from tests.whole.attacks.frame import SECONDS, Outcome, Trainer, metric, ms, spec
from trainer_client.client import SchedulerClient

REQUESTS = 1_500


def requests_left_behind(seconds: float) -> Outcome:
    """Observations asked for with `wait=600`, each by a connection that is closed at once, of the honest job."""
    with Service() as service, Trainer(service.url) as honest:
        usual = max(honest.steps(20))
        for _ in range(REQUESTS):
            with _asking(service.url, "honest"):
                pass
        worst = max(honest.steps(20))
        begun = time.monotonic()
        while (held := _under_way(service.url)) and time.monotonic() < begun + SECONDS:
            time.sleep(0.1)
    return Outcome(
        f"{REQUESTS} left behind, {held} of them still held; an honest step {ms(worst)} at most ({ms(usual)} without)",
        held == 0,
        worst,
    )


def requests_held(seconds: float) -> Outcome:
    """As many observations held at once as the service takes, of the honest job and of one of its own."""
    with Service() as service, SchedulerClient(service.url) as client, Trainer(service.url) as honest:
        usual = max(honest.steps(20))
        client.create_job(spec("hostile", policy=PolicySpec(name="external")))
        opened = [_asking(service.url, "honest" if k % 2 else "hostile") for k in range(400)]
        worst = max(honest.steps(40))
        held = _under_way(service.url)
        for connection in opened:
            connection.close()
    return Outcome(
        f"{held} of 400 were held; an honest step {ms(worst)} at most ({ms(usual)} without)",
        held <= 256,
        worst,
    )


def a_page_of_another_site(seconds: float) -> Outcome:
    """What a browser sends for a page of another site to a service without tokens."""
    with Service() as service:
        marks = [
            {"sec-fetch-site": "cross-site"},
            {"sec-fetch-site": "same-site"},
            {"origin": "https://example.org"},
            {"origin": "null"},
        ]
        codes = [httpx.get(f"{service.url}/v1/jobs", headers=mark).status_code for mark in marks]
        own = httpx.get(f"{service.url}/v1/jobs", headers={"sec-fetch-site": "none", "origin": service.url}).status_code
    return Outcome(f"answered {codes}, and its own page {own}", codes == [403] * len(marks) and own == 200)


def _asking(url: str, job: str) -> socket.socket:
    """A connection on which an observation is asked for, and nobody waits for the answer."""
    place = urlsplit(url)
    connection = socket.create_connection((place.hostname or "", place.port or 0))
    line = f"GET /v1/jobs/{job}/observation?wait=600 HTTP/1.1\r\nhost: {place.netloc}\r\n\r\n"
    connection.sendall(line.encode())
    return connection


def _under_way(url: str) -> int:
    """Requests that the service holds."""
    return int(metric(url, "bss_held_requests"))
