"""What a token of scope `read` may ask for, by many at once."""

import time
from collections import Counter
from threading import Event, Thread

import httpx
import numpy as np

from bss_service.core.signals import EVIDENCE
from tests.support.services import Service
from tests.whole.attacks.frame import Outcome, Trainer, longest_hold, ms

CROWD = 8  # at once


def scans(seconds: float) -> Outcome:
    """The draws of one sample over all that was ever planned, by eight at once."""
    return _crowd("samples/5?draws=100", seconds, samples=50_000, interval=5)


def lists(seconds: float) -> Outcome:
    """Lists of samples in all orders, of a job with evidence, by eight at once."""
    return _crowd("samples?order=draws&limit=10000", seconds, signals=list(EVIDENCE))


def old_batches(seconds: float) -> Outcome:
    """Batches of two epochs ago, which have left memory, by eight at once."""
    return _crowd("batches?start=0&count=2", seconds, samples=12_800, interval=50)


def _crowd(path: str, seconds: float, **fields: object) -> Outcome:
    codes: Counter[int] = Counter()
    with Service() as service, Trainer(service.url, **fields) as honest:
        honest.steps(150)
        usual = np.median(honest.steps(30))
        over = Event()
        crowd = [Thread(target=_look, args=(f"{service.url}/v1/jobs/honest/{path}", over, codes)) for _ in range(CROWD)]
        for one in crowd:
            one.start()
        begun, taken = time.monotonic(), []
        while time.monotonic() < begun + seconds or len(taken) < 20:
            taken += honest.steps(10)
        over.set()
        for one in crowd:
            one.join()
        hold = longest_hold(service.url)
    return Outcome(
        f"an honest step took {ms(float(np.median(taken)))} ({ms(float(usual))} without), {ms(max(taken))} at most, "
        f"hold {ms(hold)}; the crowd got {dict(codes)}",
        set(codes) <= {200, 429, 503},
        max(taken),
    )


def _look(url: str, over: Event, codes: Counter[int]) -> None:
    with httpx.Client(timeout=300) as client:
        while not over.is_set():
            codes[client.get(url).status_code] += 1
