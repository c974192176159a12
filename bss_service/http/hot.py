"""The hot call's short way: a small frame goes from the socket to the host with no framework between.

It takes `POST /v1/jobs/{job}/steps` where all that surrounds the frame is as the client sends it; whatever is not goes
the long way, through the middleware and FastAPI's route, and is refused or answered there. What comes of a call is the
same bytes either way: the Host header, the token, the origin, the rate, the body and the message are checked by the
very functions that check them there.
"""

import re
import time
from collections.abc import Mapping
from typing import Final

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.types import ASGIApp, Receive, Scope, Send

from bss_service.errors import BssError
from bss_service.host.host import ANSWER_ROWS
from bss_service.http import problems
from bss_service.http.auth import Gate
from bss_service.http.bodies import LONG, MessageResponse, message_reader
from bss_service.http.browser.headers import HostCheck
from bss_service.http.routes import host_of, leaving
from bss_service.http.tokens import Scope as TokenScope
from bss_service.protocol import frames
from bss_service.protocol.message import INCARNATION_HEADER, INCARNATION_PATTERN, PROTOCOL, PROTOCOL_HEADER
from bss_service.protocol.training import StepsRequest
from bss_service.telemetry.metrics import Metrics
from bss_service.telemetry.tracing import HOT, ROUTE

_FRAME: Final = frames.CONTENT_TYPE.encode()
_INCARNATION: Final = INCARNATION_HEADER.encode()
_read: Final = message_reader(StepsRequest)
_EXPECTED: Final[Mapping[bytes, re.Pattern[bytes]]] = {  # headers that are read, and how they are where all is plain
    b"accept": re.compile(re.escape(_FRAME)),
    b"content-type": re.compile(re.escape(_FRAME)),
    b"content-length": re.compile(rb"[0-9]{1,6}"),
    PROTOCOL_HEADER.encode(): re.compile(b"%d" % PROTOCOL),
    _INCARNATION: re.compile(INCARNATION_PATTERN.encode()),
}
_STRANGE: Final = frozenset({b"content-encoding", b"transfer-encoding", b"expect", b"trailer"})


class HotCalls:
    """ASGI middleware around all others but those that guard answers."""

    def __init__(self, app: ASGIApp, host_check: HostCheck, metrics: Metrics) -> None:
        """app: the long way."""
        self._app = app
        self._host_check = host_check
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        named = plain(scope)
        if named is None:
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        request = Request(scope, receive)
        status = 500
        try:
            response = await self._answer(request, *named)
            status = response.status_code
            await response(scope, receive, send)
        finally:
            self._metrics.count_request(ROUTE, "POST", status, time.perf_counter() - started)

    async def _answer(self, request: Request, job: str, incarnation: str | None) -> Response:
        try:
            self._host_check.check(request.scope)
            gate: Gate = request.app.state.gate
            await gate.admit(request, TokenScope.TRAIN)
            request.scope["path_params"] = {"job": job}
            message, host = await _read(request), await host_of(request)
            answer = await host.steps(job, message, incarnation, leaving=leaving(request), rows=ANSWER_ROWS)
            return MessageResponse(answer)
        except (BssError, RequestValidationError) as error:
            return problems.response(request, error)
        except Exception as error:
            return problems.unexpected(request, error)


def plain(scope: Scope) -> tuple[str, str | None] | None:
    """The job and the incarnation that a hot call names; None for what goes the long way."""
    if scope["type"] != "http" or scope["method"] != "POST" or scope["query_string"]:
        return None
    hot = HOT.fullmatch(scope["path"])
    if hot is None:
        return None
    found: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        expected = _EXPECTED.get(name)
        if expected is not None and (name in found or not expected.fullmatch(value)):
            return None
        if name in _STRANGE:
            return None
        found[name] = value
    if not found.keys() >= {b"accept", b"content-type", b"content-length"} or int(found[b"content-length"]) > LONG:
        return None
    incarnation = found.get(_INCARNATION)
    return hot[1], None if incarnation is None else incarnation.decode()
