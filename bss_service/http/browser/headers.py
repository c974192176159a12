"""Headers that keep browsers from making anything of an answer but what it is."""

from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

SECURITY: Final = {
    b"x-content-type-options": b"nosniff",
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-resource-policy": b"same-origin",
    b"cache-control": b"no-store",
}


class SecurityHeaders:
    """ASGI middleware that adds them to every answer that does not set them itself."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(message.get("headers", ()))
                own = {name.lower() for name, _ in headers}
                message["headers"] = headers + [pair for pair in SECURITY.items() if pair[0] not in own]
            await send(message)

        await self._app(scope, receive, guarded if scope["type"] == "http" else send)
