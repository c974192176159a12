"""Where the parts meet."""

import asyncio
import gc
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version
from typing import Final

from fastapi import FastAPI, Request, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.types import ASGIApp

from bss_service.host import Host
from bss_service.http import openapi, problems
from bss_service.http import routes as api
from bss_service.http.auth import Gate
from bss_service.http.browser.headers import HostCheck, SecurityHeaders
from bss_service.http.browser.page import PageFile, page_files
from bss_service.http.endpoints import GuardedRoute
from bss_service.http.hot import HotCalls
from bss_service.http.limits import BodyBudget, RateLimiter
from bss_service.http.tokens import Tokens
from bss_service.journal.store import Store
from bss_service.settings import Settings, is_loopback
from bss_service.telemetry.metrics import Metrics, RequestMetrics, watch_loop
from bss_service.telemetry.tracing import TracedSteps

BODIES: Final = 2  # of the largest size, in memory at a time


def create_app(settings: Settings, store: Store, *, traced: bool = False) -> FastAPI:
    """The service over a store, which it closes at the end."""
    metrics = Metrics()
    metrics.store_lost.set_function(lambda: store.is_lost)
    if (membership := store.membership) is not None:
        metrics.shards.set_function(lambda: len(membership.view.epochs))
    tokens = Tokens(settings.store)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.host = Host(
            store, metrics, settings.max_samples, memory=settings.max_memory, stored=settings.max_stored_bytes
        )
        gc.collect()
        gc.freeze()  # what is loaded stays: to look through it again and again would hold the loop
        beside = [asyncio.create_task(watch_loop(metrics)), asyncio.create_task(app.state.host.share())]
        yield
        for task in beside:
            task.cancel()
        await app.state.host.close()
        tokens.close()
        store.close()

    app = FastAPI(
        title="BSS scheduler",
        version=version("bss-scheduler"),
        description="Serves the order and choice of training samples to multi-modal training jobs.",
        lifespan=lifespan,
        openapi_url=None,  # FastAPI would write it on the event loop
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
        telemetry=None if traced else {"tracing": False, "metrics": False, "logs": False},  # it would look at each call
        redirect_slashes=False,  # the place would be made of the Host header, and of this scheme, not of a proxy's
    )
    app.state.settings = settings
    app.state.under_way = Counter()
    limiter = None if settings.rate_limit is None else RateLimiter(settings.rate_limit)
    app.state.gate = Gate(tokens, settings.token, limiter, local=is_loopback(settings.host))
    problems.install(app, api.router.routes)
    app.include_router(api.router)
    _add_operations(app, store, metrics)
    _add_page(app)
    app.add_middleware(BodyBudget, limit=BODIES * settings.max_body_bytes)
    app.add_middleware(HostCheck, settings=settings)
    app.add_middleware(RequestMetrics, metrics=metrics)
    openapi.install(app, api.router.routes)
    long_way = app.build_middleware_stack()
    guarded = SecurityHeaders(long_way)  # as one of the stack, it would miss status 500
    served: ASGIApp = HotCalls(guarded, HostCheck(long_way, settings), metrics)
    app.middleware_stack = TracedSteps(served) if traced else served
    return app


def _add_operations(app: FastAPI, store: Store, metrics: Metrics) -> None:
    app.router.route_class = GuardedRoute

    @app.get(
        "/healthz", summary="Is the process alive?", dependencies=api.OPEN, responses=openapi.failures(400, 421, 503)
    )
    async def healthz() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/readyz", summary="Can it serve?", dependencies=api.OPEN, responses=openapi.failures(400, 421, 503))
    def readyz() -> dict[str, str]:
        store.check()
        return {"status": "ready"}

    @app.get(
        "/metrics",
        summary="Prometheus metrics",
        dependencies=api.READ,
        response_class=PlainTextResponse,
        responses=openapi.failures(400, 401, 403, 421, 429, 503),
    )
    def read_metrics() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)


def _add_page(app: FastAPI) -> None:
    """The page, which holds no data: whoever opens it asks for that with a token of his own."""
    for path, file in page_files().items():
        app.router.add_route(path, partial(_serve, file), include_in_schema=False)


async def _serve(file: PageFile, request: Request) -> Response:
    known = request.headers.get("if-none-match") == file.headers["etag"]
    return Response(b"" if known else file.body, 304 if known else 200, file.headers)
