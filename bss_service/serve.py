"""Run the service: logs, signals and the listening socket."""

import logging
import socket
import sys

import structlog
import uvicorn

from bss_service.app import create_app
from bss_service.settings import Settings
from bss_service.store import Store

DRAIN_SECONDS = 5  # for requests under way at a stop; one that waits for feedback is cut off and asked again


def serve(settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM. Raises StoreError or OSError where the store or the address can't be had."""
    _set_up_logs(settings.log_format)
    listener = socket.create_server((settings.host, settings.port), family=_family(settings.host))
    store = Store(settings.store)
    host, port = listener.getsockname()[:2]
    structlog.get_logger().info("listening", url=f"http://{host}:{port}", store=settings.store)
    config = uvicorn.Config(
        create_app(settings, store),
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=DRAIN_SECONDS,
        timeout_keep_alive=75,  # longer than a client's pause between two epochs should cost a new connection
    )
    uvicorn.Server(config).run(sockets=[listener])


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
        shared.append(structlog.processors.dict_tracebacks)
        renderer = structlog.processors.JSONRenderer()
    else:
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processor=renderer, foreign_pre_chain=shared))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
