"""Hostile clients beside honest ones: each asks, as fast as it is answered, for the dearest that its scope allows."""

import socket
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import cycle
from multiprocessing import get_context
from typing import Any, Final, Self
from urllib.parse import urlsplit

import httpx
import numpy as np

from bss_service.protocol import frames
from bss_service.protocol.jobs import JobSpec
from bss_service.protocol.policies import PolicySpec
from bss_service.protocol.training import LocalBatchesRequest, Scores, StepsRequest

AS_FRAME: Final = {"content-type": frames.CONTENT_TYPE, "accept": frames.CONTENT_TYPE}
READS: Final = (
    "/v1/jobs/{job}/samples/5?draws=100",
    "/v1/jobs/{job}/samples?order=draws&limit=10000",
    "/v1/jobs/{job}/samples?order=loss&limit=10000",
    "/v1/jobs/{job}/observation",
    "/v1/jobs/{job}/batches?start=0&count=2",
    "/v1/jobs/{job}/decisions?count=1000",
    "/v1/jobs",
    "/metrics",
)
ROWS: Final = 2**20  # of a hostile job's plans


class Hostile:
    """Clients in processes of their own, every second of scope `read` and every second of scope `train`.

    They are ready when the context begins, and attack from `go` to its end.
    """

    def __init__(self, url: str, jobs: Sequence[str], clients: int) -> None:
        context = get_context("spawn")
        self._go, self._over = context.Event(), context.Event()
        self._answers, self._ready = context.Queue(), context.Semaphore(0)
        self._processes = [
            context.Process(
                target=_attack, args=(url, list(jobs), k, self._ready, self._go, self._over, self._answers), daemon=True
            )
            for k in range(clients)
        ]
        self.statuses: Counter[int] = Counter()

    def __enter__(self) -> Self:
        for process in self._processes:
            process.start()
        for _ in self._processes:
            self._ready.acquire(timeout=120)
        return self

    def go(self) -> None:
        """Begin."""
        self._go.set()

    def stop(self) -> None:
        """End, and tell what they were answered; those that began nothing are passed over."""
        self._over.set()
        self._go.set()
        for process in self._processes:
            with suppress(Exception):  # it was killed, or hangs: the figure lacks it
                self.statuses.update(self._answers.get(timeout=60))
            process.join(10)
            process.kill()
        self._processes = []

    def __exit__(self, *_: object) -> None:
        self.stop()


def _attack(url: str, jobs: list[str], number: int, ready: Any, go: Any, over: Any, answers: Any) -> None:
    statuses: Counter[int] = Counter()
    with httpx.Client(base_url=url, timeout=60) as client:
        calls = _training(client, number) if number % 2 else _reading(client, jobs)
        ready.release()
        go.wait()
        for call in cycle(calls):
            if over.is_set():
                break
            with suppress(httpx.HTTPError):
                statuses[call().status_code] += 1
            if not number % 2:
                _leave_behind(url, jobs[0])
    answers.put(statuses)


def _reading(client: httpx.Client, jobs: list[str]) -> list[Callable[[], httpx.Response]]:
    return [lambda path=path, job=job: client.get(path.format(job=job)) for job in jobs for path in READS]


def _training(client: httpx.Client, number: int) -> list[Callable[[], httpx.Response]]:
    """A job whose plans are a million rows in passes over a few samples, measured, and drawn by itself again."""
    name, samples = f"hostile-{number}", 50_000
    policy = PolicySpec(name="fixed", parameters={"coverage": "subset", "share": 0.001})
    job = JobSpec(
        name=name,
        samples=samples,
        modalities=["audio", "video"],
        batch_size=1024,
        interval=ROWS // 1024,
        policy=policy,
        patience=0,
    )
    x = np.linspace(0, 1, samples, dtype=np.float32)
    scores = Scores(indices=np.arange(samples), similarity=x, loss=1 - x)
    local = LocalBatchesRequest(start=0, indices=np.arange(48 * 1024).reshape(48, 1024))
    made = client.post("/v1/jobs", content=job.model_dump_json(), headers={"content-type": "application/json"})
    assert made.status_code < 300, made.text
    step = 0

    def steps() -> httpx.Response:
        nonlocal step
        answer = client.post(f"/v1/jobs/{name}/steps", content=StepsRequest(start=step).to_frame(), headers=AS_FRAME)
        step += 1 if answer.status_code == 200 else 0
        return answer

    def skip() -> httpx.Response:
        """Be handed out all of an interval, so that the next call draws another."""
        nonlocal step
        ask = StepsRequest(start=step, count=4096)
        answer = client.post(f"/v1/jobs/{name}/steps", content=ask.to_frame(), headers=AS_FRAME)
        if answer.status_code == 200:
            step += len(frames.decode(answer.content)["batches"]["indices"])
        return answer

    return [
        lambda: client.put(f"/v1/jobs/{name}/scores", content=scores.to_frame(), headers=AS_FRAME),
        steps,
        lambda: client.post(f"/v1/jobs/{name}/local-batches", content=local.to_frame(), headers=AS_FRAME),
        *[skip] * 8,
    ]


def _leave_behind(url: str, job: str) -> None:
    """A request that is to be held, on a connection that is closed at once."""
    place = urlsplit(url)
    with suppress(OSError), socket.create_connection((place.hostname or "", place.port or 0), 10) as connection:
        line = f"GET /v1/jobs/{job}/observation?wait=600 HTTP/1.1\r\nhost: {place.netloc}\r\n\r\n"
        connection.sendall(line.encode())
