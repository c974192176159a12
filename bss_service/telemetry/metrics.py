"""What Prometheus sees. No label names a job: jobs come and go without bound."""

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """The service's counters, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)  # memory, processor time, open files
        self.requests = self._counter("bss_requests_total", "Requests answered", "route", "method", "status")
        self.request_seconds = self._histogram("bss_request_seconds", "Time to answer", "route", "method")
        self.live_jobs = Gauge("bss_live_jobs", "Jobs in memory", registry=self._registry)
        self.batches = self._counter("bss_batches_total", "Global batches handed out for the first time")
        self.feedback = self._counter("bss_feedback_total", "Feedback received, one a step and rank", "outcome")
        self.plan_seconds = self._histogram("bss_plan_seconds", "Time to draw an interval")
        self.hold_seconds = self._histogram("bss_hold_seconds", "Wait of a request for feedback of the interval before")
        self.impatient_plans = self._counter("bss_impatient_plans_total", "Intervals drawn without all feedback")
        self.policy_failures = self._counter("bss_policy_failures_total", "Acts of a policy that raised an error")
        self.journal_recoveries = self._counter("bss_journal_recoveries_total", "Damaged journals that were recovered")
        self.shadow_failures = self._counter("bss_shadow_failures_total", "Acts of a shadow that raised an error")
        self.store_failures = self._counter("bss_store_failures_total", "Changes that were not stored")

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self._registry)

    def _counter(self, name: str, description: str, *labels: str) -> Counter:
        return Counter(name, description, labels, registry=self._registry)

    def _histogram(self, name: str, description: str, *labels: str) -> Histogram:
        return Histogram(name, description, labels, registry=self._registry, buckets=_SECONDS)


class RequestMetrics:
    """ASGI middleware that counts and times requests by route, never by path: paths hold job names."""

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
            self._metrics.requests.labels(route, scope["method"], status).inc()
            self._metrics.request_seconds.labels(route, scope["method"]).observe(time.perf_counter() - started)
