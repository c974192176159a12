"""The memory that bodies may take, all requests together."""

from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bss_service.errors import BssError

FREE: Final = 2**20  # bytes of each body that are not counted, so that large ones never keep feedback out


class BusyError(BssError):
    """Other requests have the memory for bodies."""

    status = 503
    title = "Busy"


class BodyBudget:
    """ASGI middleware that lets requests under way hold at most so many bytes of bodies together."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        mine = 0  # bytes counted for this request
        read = 0

        async def counted() -> Message:
            nonlocal mine, read
            message = await receive()
            read += len(message.get("body", b""))
            more = max(0, read - FREE) - mine
            if self._held + more > self._limit:
                raise BusyError(f"the bodies of other requests take {self._held} bytes of {self._limit}: try again")
            self._held += more
            mine += more
            return message

        try:
            await self._app(scope, counted, send)
        finally:
            self._held -= mine
