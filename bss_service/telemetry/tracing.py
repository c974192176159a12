"""Traces of the hot call by OpenTelemetry, where its variable OTEL_TRACES_EXPORTER asks for them; else no cost."""

import os
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import entry_points
from typing import Any, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bss_service.errors import BssError

EXPORTER: Final = "OTEL_TRACES_EXPORTER"
HOT: Final = re.compile(r"/v1/jobs/([A-Za-z0-9][A-Za-z0-9._-]{0,99})/steps")
ROUTE: Final = "/v1/jobs/{job}/steps"
PASSED_ON: Final = ("traceparent", "tracestate")  # W3C Trace Context
_NAMES: Final = {"otlp": "otlp_proto_http"}  # of exporters that are installed under another name
_NOTHING: Final = nullcontext()
_tracer: Any = None  # of this process, as the logger is; None: nothing is traced


class UntraceableError(BssError):
    """Traces are asked for, and what makes or takes them is not installed."""


def start(environment: Mapping[str, str] = os.environ) -> bool:
    """Trace from now on, if the environment asks for it; whether it does. Raises UntraceableError.

    OTEL_TRACES_EXPORTER: `console`, `otlp` (with the package opentelemetry-exporter-otlp-proto-http), or the name of
    another exporter that is installed. The exporter and the SDK read the other OTEL_ variables by themselves.
    """
    global _tracer
    wanted = environment.get(EXPORTER, "").strip() or "none"
    if wanted == "none":
        return False
    try:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise UntraceableError(
            f"{EXPORTER} is {wanted!r}, and opentelemetry-sdk is not installed: it comes with pip install "
            "'bss-scheduler[otel]'"
        ) from None
    found = entry_points(group="opentelemetry_traces_exporter", name=_NAMES.get(wanted, wanted))
    if not found:
        raise UntraceableError(f"{EXPORTER} must be none, console or an installed exporter, got {wanted!r}")
    resource = Resource.create({"service.name": environment.get("OTEL_SERVICE_NAME", "bss-scheduler")})
    provider = TracerProvider(resource=resource)  # not the global one, by which FastAPI would trace each of its steps
    provider.add_span_processor(BatchSpanProcessor(next(iter(found)).load()()))
    _tracer = provider.get_tracer("bss_service")
    return True


def span(name: str, **attributes: str | int) -> AbstractContextManager[Any]:
    """A part of the call that is being traced; None, and nothing, where none is."""
    if _tracer is None:
        return _NOTHING
    from opentelemetry import trace

    if not trace.get_current_span().is_recording():
        return _NOTHING
    part: AbstractContextManager[Any] = _tracer.start_as_current_span(name, attributes=named(attributes))
    return part


def named(attributes: Mapping[str, str | int]) -> dict[str, str | int]:
    """Attributes as spans have them."""
    return {f"bss.{name}": value for name, value in attributes.items()}


class TracedSteps:
    """ASGI middleware: a span for each hot call, below the client's where that sends `traceparent`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        hot = HOT.fullmatch(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if hot is None or _tracer is None:
            await self._app(scope, receive, send)
            return
        from opentelemetry.trace import SpanKind, StatusCode
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        above = TraceContextTextMapPropagator().extract({name: headers[name] for name in PASSED_ON if name in headers})
        attributes = {"http.request.method": "POST", "http.route": ROUTE, **named({"job": hot[1]})}
        with _tracer.start_as_current_span(
            f"POST {ROUTE}", context=above, kind=SpanKind.SERVER, attributes=attributes
        ) as whole:

            async def watched(message: Message) -> None:
                if message["type"] == "http.response.start":
                    whole.set_attribute("http.response.status_code", message["status"])
                    if message["status"] >= 500:
                        whole.set_status(StatusCode.ERROR)
                await send(message)

            await self._app(scope, receive, watched)
