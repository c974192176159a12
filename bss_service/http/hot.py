"""The hot call's short way: a small frame goes from the socket to the host with no framework between.

It takes `POST /v1/jobs/{job}/steps` where all that surrounds the frame is as the client sends it; whatever is not goes
the long way, through the middleware and FastAPI's route, and is refused or answered there. What comes of a call is the
same bytes either way: the Host header, the token, the rate, the body and the message are checked by the very functions
that check them there. docs/decisions/0022-the-hot-call.md lists each check.
"""

import hashlib
import re
import time
from collections.abc import Mapping
from typing import Final, NamedTuple

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.types import ASGIApp, Receive, Scope, Send

from bss_service.errors import BssError
from bss_service.host.host import ANSWER_ROWS
from bss_service.http import problems
from bss_service.http.bodies import FEW_NUMBERS, LONG, MessageResponse, parse, read_bounded
from bss_service.http.browser.headers import SECURITY, HostCheck, SecurityHeaders
from bss_service.http.routes import leaving
from bss_service.http.tokens import Scope as TokenScope
from bss_service.protocol import frames
from bss_service.protocol.message import INCARNATION_HEADER, INCARNATION_PATTERN, PROTOCOL, PROTOCOL_HEADER
from bss_service.protocol.training import StepsAnswer, StepsRequest
from bss_service.telemetry.metrics import Metrics
from bss_service.telemetry.tracing import HOT, ROUTE

_FRAME: Final = frames.CONTENT_TYPE.encode()
_INCARNATION: Final = INCARNATION_HEADER.encode()
_EXPECTED: Final[Mapping[bytes, re.Pattern[bytes]]] = {  # headers that are read, and how they are where all is plain
    b"accept": re.compile(re.escape(_FRAME)),
    b"content-type": re.compile(re.escape(_FRAME)),
    b"content-length": re.compile(rb"[0-9]{1,6}"),
    PROTOCOL_HEADER.encode(): re.compile(b"%d" % PROTOCOL),
    _INCARNATION: re.compile(INCARNATION_PATTERN.encode()),
}
_ONCE: Final = frozenset({*_EXPECTED, b"host", b"authorization"})
_NEEDED: Final = frozenset({b"accept", b"content-type", b"content-length"})
_STRANGE: Final = frozenset(
    {b"content-encoding", b"transfer-encoding", b"expect", b"trailer", b"origin", b"sec-fetch-site"}
)
_SMALL: Final = FEW_NUMBERS // 8  # samples of an answer, of each of which it has some numbers
_HEADERS: Final = [(b"content-type", _FRAME), *SECURITY.items()]


class Call(NamedTuple):
    """A hot call whose surroundings are plain."""

    job: str
    incarnation: str | None
    length: int  # of the body, as it is said to be
    sender: tuple[object, ...]  # all that decides whether it is admitted


class HotCalls:
    """ASGI middleware around all others."""

    def __init__(self, app: ASGIApp, host_check: HostCheck, metrics: Metrics) -> None:
        """app: the long way."""
        self._app = app
        self._host_check = host_check
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = plain(scope)
        if call is None:
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 500
        try:
            answer = await self._answer(scope, receive, call)
            if isinstance(answer, bytes):
                status = 200
                await send({"type": "http.response.start", "status": 200, "headers": _headers(answer)})
                await send({"type": "http.response.body", "body": answer})
            else:
                status = answer.status_code
                await SecurityHeaders(answer)(scope, receive, send)
        finally:
            self._metrics.count_request(ROUTE, "POST", status, time.perf_counter() - started)

    async def _answer(self, scope: Scope, receive: Receive, call: Call) -> Response | bytes:
        """What is answered; bytes: a frame."""
        state = scope["app"].state
        try:
            if not state.gate.admits_again(call.sender):
                self._host_check.check(scope)
                await state.gate.admit(Request(scope, receive), TokenScope.TRAIN, call.sender)
            data = await read_bounded(scope, receive, call.length, state.settings.max_body_bytes)
            message = parse(data, frames.CONTENT_TYPE, StepsRequest, call.job)
            answer: StepsAnswer = await state.host.steps(
                call.job, message, call.incarnation, leaving=leaving(receive), rows=ANSWER_ROWS
            )
            return MessageResponse(answer) if answer.batches.indices.size > _SMALL else answer.to_frame()
        except (BssError, RequestValidationError) as error:
            return problems.response(Request(scope, receive), error)
        except Exception as error:
            return problems.unexpected(Request(scope, receive), error)


def plain(scope: Scope) -> Call | None:
    """What a hot call asks for; None for what goes the long way."""
    if scope["type"] != "http" or scope["method"] != "POST" or scope["query_string"]:
        return None
    hot = HOT.fullmatch(scope["path"])
    if hot is None:
        return None
    found: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        if name in _STRANGE or (name in _ONCE and name in found):
            return None
        found[name] = value
    if not all(expected.fullmatch(found[name]) for name, expected in _EXPECTED.items() if name in found):
        return None
    if not found.keys() >= _NEEDED or int(found[b"content-length"]) > LONG:
        return None
    incarnation = found.get(_INCARNATION)
    token = hashlib.sha256(found.get(b"authorization", b"")).digest()  # as the store has it: none is kept
    address = (scope.get("client") or [""])[0]
    sender = (token, found.get(b"host"), address, scope.get("server"), scope.get("http_version"))
    named = None if incarnation is None else incarnation.decode()
    return Call(hot[1], named, int(found[b"content-length"]), sender)


def _headers(body: bytes) -> list[tuple[bytes, bytes]]:
    return [(b"content-length", b"%d" % len(body)), *_HEADERS]
