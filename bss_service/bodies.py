"""Bodies in and out: every message goes as JSON or as a frame, as the headers say."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

import pydantic
import pydantic_core
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.requests import ClientDisconnect

from bss_service import frames
from bss_service.artefact import MAX_BYTES
from bss_service.errors import BssError, TooLargeError
from bss_service.wire import Message

JSON: Final = "application/json"
BINARY: Final = "application/octet-stream"
BODY_SECONDS: Final = 30.0  # for a body to come
SLOWEST: Final = 2**16  # bytes a second: so much longer may a long one take
M = TypeVar("M", bound=Message)


class MalformedError(BssError):
    """The body is neither JSON nor a frame."""

    status = 400
    title = "Malformed body"


class UnsupportedMediaTypeError(BssError):
    """The body's type is neither JSON nor a frame."""

    status = 415
    title = "Unsupported media type"


class SlowBodyError(BssError):
    """The body does not come; whoever sends it holds a connection and memory."""

    status = 408
    title = "Request timeout"


class CutBodyError(BssError):
    """The client has gone before its body was here; nobody reads this answer."""

    status = 400
    title = "Incomplete body"


def body(model: type[M]) -> Callable[[Request], Coroutine[Any, Any, M]]:
    """A dependency that reads a message from the request, and names the wrong field if it does not fit."""

    async def read(request: Request) -> M:
        content_type = _content_type(request, JSON, frames.CONTENT_TYPE)
        data = await read_bounded(request, request.app.state.settings.max_body_bytes)
        try:
            fields = frames.decode(data) if content_type == frames.CONTENT_TYPE else pydantic_core.from_json(data)
        except ValueError as error:
            raise MalformedError(f"body can't be read: {error}") from None
        try:
            return model.model_validate(fields)
        except pydantic.ValidationError as error:
            raise RequestValidationError(error.errors(include_url=False)) from None

    read.__annotations__["return"] = model
    read.message = model  # type: ignore[attr-defined]  # for the OpenAPI document
    return read


async def artefact_body(request: Request) -> bytes:
    """A dependency that reads the bytes of an artefact; what they are is judged by artefact.read."""
    _content_type(request, BINARY, frames.CONTENT_TYPE)
    return await read_bounded(request, min(MAX_BYTES, request.app.state.settings.max_body_bytes))


def _content_type(request: Request, *allowed: str) -> str:
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type not in allowed:
        raise UnsupportedMediaTypeError(
            f"content-type must be {' or '.join(allowed)}, got {content_type!r}",
            field="content-type",
            value=content_type,
        )
    return content_type


async def read_bounded(request: Request, limit: int) -> bytes:
    """The body, if it is at most `limit` bytes; no more than that is ever held."""
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > limit:
        raise TooLargeError(f"body must have at most {limit} bytes, got {declared}", field="body", value=int(declared))
    data = bytearray()
    started = asyncio.get_running_loop().time()
    try:
        async with asyncio.timeout(BODY_SECONDS) as bound:
            async for chunk in request.stream():
                data += chunk
                if len(data) > limit:
                    raise TooLargeError(f"body must have at most {limit} bytes, got more", field="body")
                bound.reschedule(started + BODY_SECONDS + len(data) / SLOWEST)
    except TimeoutError:
        raise SlowBodyError(f"body must come within {BODY_SECONDS:g} seconds, got {len(data)} bytes of it") from None
    except ClientDisconnect:
        raise CutBodyError(f"body ended after {len(data)} bytes: the client has gone") from None
    return bytes(data)


def reply(request: Request, message: Message, status: int = 200) -> Response:
    """The message in the form that the request accepts: a frame where it names one, else JSON."""
    if frames.CONTENT_TYPE in request.headers.get("accept", ""):
        return Response(message.to_frame(), status, media_type=frames.CONTENT_TYPE)
    return Response(message.model_dump_json(), status, media_type=JSON)
