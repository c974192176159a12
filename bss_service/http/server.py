"""Run the service: signals and the listening socket."""

import gc
import os
import socket
import sys
import time

import structlog
import uvicorn
from fastapi import FastAPI

from bss_service.errors import UnguardedError
from bss_service.http.app import create_app
from bss_service.http.limits import BoundedProtocol
from bss_service.http.tokens import Tokens
from bss_service.journal.owning.membership import Member
from bss_service.journal.store import Store
from bss_service.settings import Settings, is_loopback, service_links
from bss_service.telemetry import logs, tracing

DRAIN_SECONDS = 5  # for requests under way at a stop


def serve(settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM.

    Raises UnguardedError, StoreError, or OSError where the address can't be had.
    """
    os.umask(0o077)  # the store is for this user alone
    sys.setswitchinterval(0.001)  # seconds: threads that compute let the event loop have its turn
    logs.set_up(settings.log_format)
    for name, value in service_links().items():
        structlog.get_logger().info("passed over: a Kubernetes service link, not a setting", name=name, value=value)
    _check_guarded(settings)
    listener = socket.create_server((settings.host, settings.port), family=_family(settings.host))
    store = Store(settings.store, _member(settings))
    structlog.get_logger().info("listening", url=_url(listener), store=store.shown_url)
    app = create_app(settings, store, traced=_traced())
    config = uvicorn.Config(
        app,
        http=BoundedProtocol,
        ws="none",
        proxy_headers=False,  # anyone can write them: a client's address is that of its connection
        server_header=False,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=DRAIN_SECONDS,
        timeout_keep_alive=75,  # longer than a client's pause between two epochs should cost a new connection
    )
    gc.freeze()  # what is loaded stays: to go through it again takes the loop tens of milliseconds
    _Server(config, app).run(sockets=[listener])


class _Server(uvicorn.Server):
    """Lets go of the requests that wait for feedback before it waits for all requests to end."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._app = app

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._app.state.host.release()
        await super().shutdown(sockets)


def _traced() -> bool:
    """Whether the environment asks for traces, and gets them: it may ask for those of all programs of a machine."""
    try:
        return tracing.start()
    except tracing.UntraceableError as error:
        structlog.get_logger().warning("nothing is traced", reason=error.detail)
        return False


def _member(settings: Settings) -> Member | None:
    return None if settings.advertise is None else Member(settings.advertise, settings.term)


def _check_guarded(settings: Settings) -> None:
    if is_loopback(settings.host) or settings.token is not None:
        return
    tokens = Tokens(settings.store)
    try:
        if not any(token.valid(time.time()) for token in tokens.all()):
            raise UnguardedError(
                f"host {settings.host} is not loopback: make a token with `bss token create`, or set BSS_TOKEN"
            )
    finally:
        tokens.close()


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
