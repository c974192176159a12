"""Failures as problem+json (RFC 9457), with the field and the value that were wrong."""

from collections.abc import Sequence
from http import HTTPStatus
from math import ceil
from reprlib import Repr
from typing import Any, Final
from urllib.parse import quote

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match, Route

from bss_service.errors import BssError, MovedError, StoreLostError, TooManyError
from bss_service.protocol.message import PROTOCOL, PROTOCOL_HEADER, UNKNOWN_CALL
from bss_service.protocol.text import printable_json

CONTENT_TYPE: Final = "application/problem+json"
SHOWN: Final = 200  # characters of a wrong value in the answer
DETAIL: Final = 2000

_HEADERS: Final = {  # that HTTP asks for with a status
    401: {"WWW-Authenticate": "Bearer"},
    426: {"Upgrade": f"{PROTOCOL_HEADER}/{PROTOCOL}", "Connection": "Upgrade"},
    503: {"Retry-After": "1"},
}

_QUERY: Final = b"/%:@!$&'()*+,;=~?"  # what stays as it is

_brief: Final = Repr()  # the whole of a long list would take a second to write
_brief.maxdict = _brief.maxlist = 20
_brief.maxstring = _brief.maxother = SHOWN

log = structlog.get_logger()


class Problem(BaseModel):
    """A failure."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str  # one sentence that holds the value
    field: str | None = None
    value: Any = None


def install(app: FastAPI, routes: Sequence[BaseRoute]) -> None:
    """Let an application with these routes answer its failures as problems."""
    app.state.routes = routes
    app.add_exception_handler(BssError, _expected)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, unexpected)


def _expected(request: Request, error: Exception) -> Response:
    assert isinstance(error, BssError)
    return response(request, error)


def response(request: Request, error: BssError | RequestValidationError) -> Response:
    """A failure as it is answered."""
    if isinstance(error, MovedError):
        return answer(error, {"Location": f"{error.address}{_target(request)}"})
    return answer(error) if isinstance(error, BssError) else _invalid(request, error)


def answer(error: BssError, headers: dict[str, str] | None = None) -> Response:
    """A failure as it is answered."""
    headers = headers or _HEADERS.get(error.status, {})
    if isinstance(error, TooManyError | StoreLostError):
        headers = {"Retry-After": str(ceil(error.retry_after))}
    return _answer(
        Problem(
            title=error.title, status=error.status, detail=error.detail, field=error.field, value=_shown(error.value)
        ),
        headers,
    )


def _target(request: Request) -> str:
    """What a request asks for, behind the address of who is asked: it begins with a slash, so it names no other."""
    path, query = request.scope["raw_path"], request.scope["query_string"]
    return quote(path, safe=_QUERY) + (f"?{quote(query, safe=_QUERY)}" if query else "")


def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"] if part not in ("path", "query", "header")) or None
    reason = first["msg"].removeprefix("Value error, ")
    if field is None:  # a rule over several fields: its sentence begins with the field's name
        field = reason.split(" ", 1)[0]
        detail, value = reason, None
    else:
        value = _shown(first.get("input"))
        detail = f"{field}: {reason}" if "got" in reason else f"{field}: {reason}, got {value!r}"
    detail += _newer(request) if first["type"] == "extra_forbidden" else ""
    return _answer(Problem(title="Invalid value", status=422, detail=detail, field=field, value=value))


def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    detail = f"{request.method} {request.url.path}: {error.detail}{_newer(request)}"
    title = HTTPStatus(error.status_code).phrase
    unknown = {"field": UNKNOWN_CALL, "value": _shown(request.url.path)} if error.status_code == 404 else {}
    headers = {"Allow": _allowed(request)} if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED else {}
    return _answer(Problem(title=title, status=error.status_code, detail=detail, **unknown), headers)


def _allowed(request: Request) -> str:
    """The methods of all routes of a path; the framework names those of the first alone."""
    methods = {
        method
        for route in (*request.app.state.routes, *request.app.routes)
        if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE
        for method in route.methods or ()
    }
    return ", ".join(sorted(methods))


def _newer(request: Request) -> str:
    """What may be behind a request for what is not known here: the client's version, if it tells that."""
    protocol = request.headers.get(PROTOCOL_HEADER, "")
    if not protocol.isdecimal() or int(protocol[:10]) <= PROTOCOL:
        return ""
    return f" (the client speaks {PROTOCOL_HEADER} {protocol[:10]}, this service {PROTOCOL}: upgrade the service)"


def unexpected(request: Request, error: Exception) -> Response:
    """The answer where the service failed, whose log says why."""
    log.error("request failed", method=request.method, path=request.url.path, exc_info=error)
    return _answer(Problem(title="Internal error", status=500, detail="the service failed; its log says more"))


def _answer(problem: Problem, headers: dict[str, str] | None = None) -> Response:
    problem.detail = _short(problem.detail, DETAIL)
    problem.field = problem.field and _short(problem.field)
    text = printable_json(to_json(problem, inf_nan_mode="strings").decode())
    return Response(text.encode(), problem.status, headers, CONTENT_TYPE)


def _shown(value: Any) -> Any:
    """A wrong value as JSON can hold it, shortened."""
    if value is None or isinstance(value, bool | float) or (isinstance(value, int) and abs(value) < 2**64):
        return value
    if isinstance(value, str):
        return _short(value)
    try:
        return _short(_brief.repr(value))
    except ValueError:  # an integer of thousands of digits
        return f"a value of type {type(value).__name__}"


def _short(text: str, limit: int = SHOWN) -> str:
    """A text of bounded length that UTF-8 can hold."""
    whole = text if len(text) <= limit else f"{text[:limit]}…"
    return whole.encode(errors="backslashreplace").decode()
