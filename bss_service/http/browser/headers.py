"""Headers that browsers keep to: whom a request is for, and what may be made of an answer."""

import re
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bss_service.errors import HostHeaderError, MisdirectedError
from bss_service.http import problems
from bss_service.settings import Settings, is_loopback

_HOST: Final = re.compile(rb"(?:([A-Za-z0-9._-]+)|\[([0-9A-Fa-f:.]+)\])(?::[0-9]{0,5})?")  # a name or address, a port

SECURITY: Final = {
    b"x-content-type-options": b"nosniff",
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-resource-policy": b"same-origin",
    b"cache-control": b"no-store",
}


def host_of(scope: Scope) -> str | None:
    """The name or address in the Host header, as it was sent but for its port; None where there is none.

    Raises HostHeaderError where there are several, MisdirectedError where it is no such thing.
    """
    sent = [value for name, value in scope["headers"] if name == b"host"]
    if len(sent) > 1:
        shown = ", ".join(value.decode("latin-1") for value in sent)
        raise HostHeaderError(f"host must come once, got {len(sent)} of them: {shown!r}", field="host", value=shown)
    if not sent:
        return None
    match = _HOST.fullmatch(sent[0])
    if match is None:
        shown = sent[0].decode("latin-1")
        raise MisdirectedError(f"host must be a name or an address, got {shown!r}", field="host", value=shown)
    return (match[1] or match[2]).decode().lower()


class HostCheck:
    """ASGI middleware that lets through only what is addressed to this service by a name of its own.

    These are loopback, the address that the connection leads to, and what is set as `hosts`. So a web page whose name
    was made to point here gets nothing. A service on another address than loopback, which asks everyone for a token,
    takes any name unless `hosts` is set: its own it can't know.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._names = settings.host_names
        self._takes_any = not is_loopback(settings.host) and not self._names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if scope["type"] == "http":
                self.check(scope)
        except HostHeaderError as error:
            await problems.answer(error)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def check(self, scope: Scope) -> None:
        """Raises HostHeaderError for what is addressed to somebody else, or to nobody."""
        host = host_of(scope)
        if host is None:
            if scope["http_version"] == "1.0":  # which browsers do not speak
                return
            raise HostHeaderError("host must be there, got none", field="host")
        reached = (scope.get("server") or ("", 0))[0]
        if not (self._takes_any or is_loopback(host) or host == reached or host in self._names):
            shown = next(value for name, value in scope["headers"] if name == b"host").decode("latin-1")
            raise MisdirectedError(
                f"host must be loopback, the service's own address or one of its hosts, got {shown!r}: set BSS_HOSTS "
                "(bss serve --hosts) to the names by which it is reached",
                field="host",
                value=shown,
            )


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
