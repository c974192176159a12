"""Run the service: logs, signals and the listening socket."""

import logging
import socket
import sys

import structlog
import uvicorn
from fastapi import FastAPI

from bss_service.app import create_app
from bss_service.settings import Settings
from bss_service.store import Store

DRAIN_SECONDS = 5  # for requests under way at a stop


def serve(settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM. Raises StoreError or OSError where the store or the address can't be had."""
    _set_up_logs(settings.log_format)
    listener = socket.create_server((settings.host, settings.port), family=_family(settings.host))
    store = Store(settings.store)
    structlog.get_logger().info("listening", url=_url(listener), store=store.shown_url)
    app = create_app(settings, store)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=DRAIN_SECONDS,
        timeout_keep_alive=75,  # longer than a client's pause between two epochs should cost a new connection
    )
    _Server(config, app).run(sockets=[listener])


class _Server(uvicorn.Server):
    """Lets go of the requests that wait for feedback before it waits for all requests to end."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._app = app

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._app.state.host.release()
        await super().shutdown(sockets)


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _set_up_logs(log_format: str) -> None:
    """Structured logs on standard error; uvicorn's own warnings go the same way."""
    shared: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: structlog.typing.Processor
    if log_format == "json":
        frames = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)  # they may hold tokens
        shared.append(structlog.processors.ExceptionRenderer(frames))
        renderer = structlog.processors.JSONRenderer()
    else:
        plain = structlog.dev.plain_traceback
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain)
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processor=renderer, foreign_pre_chain=shared))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
