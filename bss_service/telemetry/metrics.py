"""What Prometheus sees. No label names a job: jobs come and go without bound."""

import asyncio
import time
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

ASKED_EVERY: Final = 0.02  # seconds


class Metrics:
    """The service's counters, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._counted: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}  # as many as there are series
        ProcessCollector(registry=self._registry)  # memory, processor time, open files
        self.requests = self._counter("bss_requests_total", "Requests answered", "route", "method", "status")
        self.request_seconds = self._histogram("bss_request_seconds", "Time to answer", "route", "method")
        self.live_jobs = Gauge("bss_live_jobs", "Jobs in memory", registry=self._registry)
        self.memory = Gauge("bss_jobs_bytes", "Memory that jobs may take by their sizes", registry=self._registry)
        self.most_memory = Gauge("bss_jobs_bytes_limit", "Memory that jobs may take together", registry=self._registry)
        self.batches = self._counter("bss_batches_total", "Global batches handed out for the first time")
        self.feedback = self._counter("bss_feedback_total", "Feedback received, one a step and rank", "outcome")
        self.plan_seconds = self._histogram("bss_plan_seconds", "Time to draw an interval")
        self.held = Gauge("bss_held_requests", "Requests that wait for something to come true", registry=self._registry)
        self.hold_seconds = self._histogram("bss_hold_seconds", "Wait of a request for feedback of the interval before")
        self.impatient_plans = self._counter("bss_impatient_plans_total", "Intervals drawn without all feedback")
        self.policy_failures = self._counter("bss_policy_failures_total", "Acts of a policy that raised an error")
        self.journal_recoveries = self._counter("bss_journal_recoveries_total", "Damaged journals that were recovered")
        self.shadow_failures = self._counter("bss_shadow_failures_total", "Acts of a shadow that raised an error")
        self.store_lost = Gauge(
            "bss_store_lost",
            "1: the store was deleted, moved, replaced or taken over, and nothing is stored any more",
            registry=self._registry,
        )
        self.shards = Gauge(
            "bss_shards",
            "Shards of jobs that this service owns, of a store that several share",
            registry=self._registry,
        )
        self.loop_lag = self._histogram("bss_loop_lag_seconds", "By how much the event loop was late, asked often")
        self.longest_hold = Gauge(
            "bss_loop_longest_hold_seconds",
            "The longest that the event loop was late so far while the service itself computed",
            registry=self._registry,
        )
        self.store_failures = self._counter("bss_store_failures_total", "Changes that were not stored")

    def count_request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count a request that was answered."""
        counted = self._counted.get((route, method, status))
        if counted is None:
            counted = self.requests.labels(route, method, status), self.request_seconds.labels(route, method)
            self._counted[route, method, status] = counted
        counted[0].inc()
        counted[1].observe(seconds)

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self._registry)

    def _counter(self, name: str, description: str, *labels: str) -> Counter:
        return Counter(name, description, labels, registry=self._registry)

    def _histogram(self, name: str, description: str, *labels: str) -> Histogram:
        return Histogram(name, description, labels, registry=self._registry, buckets=_SECONDS)


async def watch_loop(metrics: Metrics) -> None:
    """Measure by how much the event loop is late, until it is cancelled: so long nobody was answered.

    It was held as far as the service used a processor meanwhile; the rest is for want of one.
    """
    longest = 0.0
    while True:
        due, used = time.perf_counter() + ASKED_EVERY, time.process_time()
        await asyncio.sleep(ASKED_EVERY)
        late = max(0.0, time.perf_counter() - due)
        metrics.loop_lag.observe(late)
        held = min(late, time.process_time() - used)
        if held > longest:
            longest = held
            metrics.longest_hold.set(held)


class RequestMetrics:
    """ASGI middleware that counts and times requests by route, never by path: paths hold job names.

    What is no route of the service counts as `none`, and what is no usual method as `other`: a client that makes them
    up makes no new series.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            method = scope["method"] if scope["method"] in _METHODS else "other"
            self._metrics.count_request(route, method, status, time.perf_counter() - started)
