"""Bodies in and out: every message goes as JSON or as a frame, as the headers say."""

import asyncio
import io
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Final, TypeVar

import numpy as np
import pydantic
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from bss_service.errors import CutBodyError, MalformedError, SlowBodyError, TooLargeError, UnsupportedMediaTypeError
from bss_service.job.shown.summaries import Summary
from bss_service.job.snapshot import Snapshot
from bss_service.policies.artefact import MAX_BYTES
from bss_service.protocol import frames, text
from bss_service.protocol.message import Message
from bss_service.protocol.training import StepsRequest
from bss_service.telemetry import tracing

JSON: Final = "application/json"
BINARY: Final = "application/octet-stream"
MAX_JSON: Final = 2 * 2**20  # bytes, 20 ms in which nobody else is served; frames carry more, at a hundredth of that
MAX_MEMBERS: Final = 10_000  # of all objects of a JSON body together
MAX_ROWS: Final = 200_000  # arrays in a JSON body, or about twice those in a snapshot
MAX_VALUES: Final = 2_000_000  # in a snapshot, but for those of its arrays
MAX_HEADER: Final = 256 * 2**10  # bytes of a frame before its arrays
WHOLE: Final = "bss.whole"  # in the scope of a request all of which has come
LONG: Final = 2**18  # bytes; such bodies are parsed beside the event loop
BODY_SECONDS: Final = 30.0  # for a body to come
SLOWEST: Final = 2**16  # bytes a second: so much longer may a long one take
FEW_NUMBERS: Final = 2**15  # of an answer; more are written beside the event loop
MAX_NUMBERS: Final = 2**18  # of an answer in JSON: writing it holds up all others
ITEM: Final = 10  # numbers of an object in a list, about
PIECE: Final = 2**20  # bytes
M = TypeVar("M", bound=Message)


def message_reader(model: type[M]) -> Callable[[Request], Coroutine[Any, Any, M]]:
    """A dependency that reads a message from the request, and names the wrong field if it does not fit."""

    async def read(request: Request) -> M:
        content_type = _content_type(request, JSON, frames.CONTENT_TYPE)
        limit: int = request.app.state.settings.max_body_bytes
        data = await _read_bounded(request, limit if content_type != JSON else min(limit, MAX_JSON))
        if len(data) > LONG:
            return await run_in_threadpool(parse, data, content_type, model, job_of(request))
        return parse(data, content_type, model, job_of(request))

    return read


def job_of(request: Request) -> str:
    """The job that a path names; "" for none."""
    return str(request.path_params.get("job", ""))


def parse(data: bytes, content_type: str, model: type[M], job: str) -> M:
    """The message of a body that has been read. Raises RequestValidationError, or the error of a malformed one."""
    _check_count(data, content_type, model)
    with tracing.span("parse", job=job) as parsing:
        message = _parse(data, content_type, model)
        if parsing is not None and isinstance(message, StepsRequest):
            parsing.set_attributes(tracing.named({"step": message.start}))
    return message


def _parse(data: bytes, content_type: str, model: type[M]) -> M:
    try:
        fields = frames.decode(data) if content_type == frames.CONTENT_TYPE else text.parse_json(data)
        return model.from_wire(fields)
    except pydantic.ValidationError as error:
        raise RequestValidationError(error.errors(include_url=False)) from None
    except ValueError as error:
        raise MalformedError(f"body can't be read: {error}") from None
    except RecursionError:
        raise MalformedError("body can't be read: it is nested too deep") from None


def _check_count(data: bytes, content_type: str, model: type[M]) -> None:
    """Raises TooLargeError where a body has more parts than any message; parsers take seconds over millions."""
    if model is Snapshot:  # which has more parts the longer its job has run
        parts = frames.parts(data) if content_type == frames.CONTENT_TYPE else frames.values(data)
        for name, count, most in (("values", parts.values, MAX_VALUES), ("arrays", parts.arrays, MAX_ROWS)):
            _require_few(name, count, most)
        return
    if content_type == frames.CONTENT_TYPE:
        header = int.from_bytes(data[:8], "little")  # as safetensors begins
        if MAX_HEADER < header <= len(data):
            raise TooLargeError(
                f"body must have a header of at most {MAX_HEADER} bytes, got {header}", field="body", value=header
            )
        return
    for sign, name, most in ((b":", "fields", MAX_MEMBERS), (b"[", "arrays", MAX_ROWS)):
        _require_few(name, data.count(sign), most)  # in a text it counts too, which no message has as many of


def _require_few(name: str, count: int, most: int) -> None:
    if count > most:
        raise TooLargeError(f"body must have at most {most} {name}, got {count}", field="body", value=count)


async def read_artefact(request: Request) -> bytes:
    """A dependency that reads the bytes of an artefact; what they are is judged by artefact.read."""
    _content_type(request, BINARY, frames.CONTENT_TYPE)
    return await _read_bounded(request, min(MAX_BYTES, request.app.state.settings.max_body_bytes))


def _content_type(request: Request, *allowed: str) -> str:
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type not in allowed:
        raise UnsupportedMediaTypeError(
            f"content-type must be {' or '.join(allowed)}, got {content_type!r}",
            field="content-type",
            value=content_type,
        )
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise UnsupportedMediaTypeError(
            f"content-encoding must be identity, got {encoding!r}", field="content-encoding", value=encoding
        )
    return content_type


async def _read_bounded(request: Request, limit: int) -> bytes:
    """The body, if it is at most `limit` bytes; no more than that is ever held."""
    declared = request.headers.get("content-length", "0")
    return await read_bounded(request.scope, request.receive, int(declared) if declared.isdecimal() else 0, limit)


async def read_bounded(scope: Scope, receive: Receive, declared: int, limit: int) -> bytes:
    """The same of a request whose body is said to have `declared` bytes."""
    if declared > limit:
        raise TooLargeError(f"body must have at most {limit} bytes, got {declared}", field="body", value=declared)
    data = io.BytesIO()  # which gives its bytes without another copy: of hundreds of MB that would hold the loop
    if WHOLE in scope:  # then nothing is waited for, and no timer needed
        await _read_piece(receive, data, limit)
        return data.getvalue()
    started = asyncio.get_running_loop().time()
    try:
        async with asyncio.timeout(BODY_SECONDS) as bound:
            while await _read_piece(receive, data, limit):
                bound.reschedule(started + BODY_SECONDS + data.tell() / SLOWEST)
    except TimeoutError:
        raise SlowBodyError(f"body must come within {BODY_SECONDS:g} seconds, got {data.tell()} bytes of it") from None
    return data.getvalue()


async def _read_piece(receive: Receive, data: io.BytesIO, limit: int) -> bool:
    """Add a piece of the body to what was read; whether there is more."""
    message = await receive()
    if message["type"] == "http.disconnect":
        raise CutBodyError(f"body ended after {data.tell()} bytes: the client has gone")
    data.write(message.get("body", b""))
    if data.tell() > limit:
        raise TooLargeError(f"body must have at most {limit} bytes, got more", field="body")
    return bool(message.get("more_body", False))


class MessageResponse(Response):
    """A message in the form that the request accepts: a frame where it names one, else JSON."""

    def __init__(self, message: Message, status_code: int = 200) -> None:
        super().__init__(status_code=status_code)
        self._message = message

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        as_frame = frames.CONTENT_TYPE in Headers(scope=scope).get("accept", "")
        numbers = _numbers(self._message)
        if numbers > MAX_NUMBERS and not as_frame:
            raise TooLargeError(
                f"accept must be {frames.CONTENT_TYPE} for an answer of {numbers} numbers, of which JSON has at most "
                f"{MAX_NUMBERS}",
                field="accept",
                value=numbers,
            )
        render = self._message.to_frame if as_frame else self._message.model_dump_json
        body: bytes | str = await run_in_threadpool(render) if numbers > FEW_NUMBERS else render()
        media_type = frames.CONTENT_TYPE if as_frame else JSON
        if isinstance(body, bytes) and len(body) > PIECE:
            response: Response = InPieces(body, media_type, self.status_code)
        else:
            response = Response(body, self.status_code, media_type=media_type)
        await response(scope, receive, send)


class InPieces(Response):
    """Large bytes, of which no more than a piece is copied at a time: whatever else is asked goes on meanwhile."""

    def __init__(self, data: bytes, media_type: str, status_code: int = 200) -> None:
        super().__init__(status_code=status_code, media_type=media_type)
        self._data = memoryview(data)
        self.headers["content-length"] = str(len(data))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        for start in range(0, len(self._data), PIECE):
            piece = self._data[start : start + PIECE]
            await send({"type": "http.response.body", "body": bytes(piece), "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _numbers(message: Message) -> int:
    """How many numbers a message holds, in its arrays and, about, in its lists."""
    return sum(
        value.size if isinstance(value, np.ndarray) else ITEM * len(value) if isinstance(value, list) else 0
        for value in _values(message)
    )


def _values(message: Message) -> Iterator[Any]:
    """Its fields, and those of messages in it."""
    for value in message.__dict__.values():
        yield from _values(value) if isinstance(value, Message) else (value,)


def tagged(request: Request, summary: Summary, known: str | None) -> Response:
    """A summary in the form that the request accepts; without its body where the client has that already."""
    framed = frames.CONTENT_TYPE in request.headers.get("accept", "")
    tag = f'"f-{summary.tag[1:]}' if framed else summary.tag
    headers = {"etag": tag, "vary": "accept"}
    if known is not None and tag in known:
        return Response(status_code=304, headers=headers)
    body, kind = (summary.message.to_frame(), frames.CONTENT_TYPE) if framed else (summary.json, JSON)
    return Response(body, headers=headers, media_type=kind)
