"""Who may call: a bearer token of the scope that the route needs.

A service on loopback of which nobody ever made a token lets this machine do anything, as long as the Host header names
loopback: a web page whose name was made to point here does not. Others write into that header what they like, so a
service that they can reach asks for a token whatever became of those in its store.
"""

import asyncio
import time
from collections.abc import Callable, Hashable
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from fastapi import Request
from pydantic import SecretStr
from starlette.concurrency import run_in_threadpool

from bss_service.errors import ForbiddenError, StoreError, UnauthorisedError
from bss_service.http.browser.headers import host_of
from bss_service.http.limits import RateLimiter
from bss_service.http.tokens import Scope, Token, Tokens, digest, find
from bss_service.settings import is_loopback

MAX_ALIKE: Final = 10_000
PATIENCE: Final = 5.0  # seconds that the store has to tell them
FRESH: Final = 1.0  # seconds after which the store is asked again; so long may a revoked token live


class _Admitted(NamedTuple):
    """A decision that stands for a while."""

    client: str
    until: float


class Gate:
    """Knows the tokens, those in the store as they were a second ago, and counts requests where a rate is set.

    local: only this machine reaches the service.
    """

    def __init__(
        self,
        tokens: Tokens,
        setting: SecretStr | None = None,
        limiter: RateLimiter | None = None,
        *,
        local: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stored = tokens
        self._setting = [] if setting is None else [_of_setting(setting)]
        self._limiter = limiter
        self._guarded = setting is not None or not local
        self._clock = clock
        self._cached: list[Token] = []
        self._failure: str | None = None  # why they could not be read the last time
        self._read_at = -FRESH
        self._reading = asyncio.Lock()
        self._asked: asyncio.Task[list[Token]] | None = None
        self._admitted: dict[Hashable, _Admitted] = {}

    def admits_again(self, alike: Hashable) -> bool:
        """Whether `admit` has just let a request pass that is the same in all that it asks. Counts it if so.

        Raises TooManyError.
        """
        known = self._admitted.get(alike)
        if known is None or self._clock() >= known.until:
            return False
        if self._limiter is not None:
            self._limiter.take(known.client)
        return True

    async def admit(self, request: Request, needed: Scope, alike: Hashable = None) -> None:
        """Raises UnauthorisedError, ForbiddenError or TooManyError where a request may not pass.

        alike: where another request has it too, that is asked for the same scope and passes as long as tokens are not
        read again.
        """
        token = await self._token(request)
        address = request.client.host if request.client else ""
        request.state.client = f"token {token.name}" if token else f"address {address}"
        if self._limiter is not None:
            self._limiter.take(request.state.client)
        request.state.scope = Scope.ADMIN if token is None else token.scope
        if token is None:
            await self._check_open(request)
        elif not token.scope.allows(needed):
            raise ForbiddenError(
                f"this needs a token of scope {needed}, got one of scope {token.scope}",
                field="authorization",
                value=token.scope.value,
            )
        if alike is not None:
            if len(self._admitted) >= MAX_ALIKE:
                self._admitted.clear()
            self._admitted[alike] = _Admitted(request.state.client, self._end_of(token))

    def _end_of(self, token: Token | None) -> float:
        """When it is to be asked again whether a token opens anything, or whether there is any."""
        now = self._clock()
        end = now + FRESH if token in self._setting else self._read_at + FRESH
        return end if token is None or token.expires is None else min(end, now + token.expires - time.time())

    async def _token(self, request: Request) -> Token | None:
        scheme, _, text = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not text:
            return None
        token = find(self._setting, text) or find(await self._tokens(), text)
        return token if token is not None and token.valid(time.time()) else None

    async def _check_open(self, request: Request) -> None:
        await self._tokens()
        if self._guarded:
            raise UnauthorisedError(
                "authorization must be 'Bearer' and a token of this service that is neither revoked nor expired",
                field="authorization",
            )
        if not is_loopback(host_of(request.scope) or ""):
            raise UnauthorisedError("host must be a loopback address where no token is set", field="host")
        _check_origin(request)

    async def _tokens(self) -> list[Token]:
        if self._clock() - self._read_at >= FRESH:
            async with self._reading:
                if self._clock() - self._read_at >= FRESH:
                    await self._read()
        if self._failure is not None:
            raise StoreError(self._failure)
        return self._cached

    async def _read(self) -> None:
        read_at = self._clock()
        # One at a time, and its end is waited for by none who asks: a server that hangs would keep all of them.
        self._asked = self._asked or asyncio.create_task(run_in_threadpool(self._stored.all))
        answered, _ = await asyncio.wait([self._asked], timeout=PATIENCE)
        try:
            if not answered:
                raise StoreError(f"the tokens can't be read: the store has not answered for {PATIENCE:g} s")
            asked, self._asked = self._asked, None
            self._cached, self._failure = asked.result(), None
        except StoreError as error:  # for all who ask within a second of now: a try may take longer than that
            self._failure, read_at = error.detail, self._clock()
        self._guarded = self._guarded or bool(self._cached)  # also when they are gone with their store
        self._read_at = read_at


class Needs:
    """A dependency that lets a request pass whose token has a scope; any request where it needs none."""

    def __init__(self, scope: Scope | None) -> None:
        self.scope = scope

    async def __call__(self, request: Request) -> None:
        gate: Gate = request.app.state.gate
        if self.scope is not None:
            await gate.admit(request, self.scope)


def _check_origin(request: Request) -> None:
    """Raises ForbiddenError for what a browser sends on behalf of another site's page, which need not show a token."""
    site = request.headers.get("sec-fetch-site", "none")
    if site not in ("none", "same-origin"):
        raise ForbiddenError(f"pages of other origins may not ask: sec-fetch-site is {site}", field="sec-fetch-site")
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        raise ForbiddenError(f"pages of other origins may not ask: origin is {origin}", field="origin", value=origin)


def _of_setting(setting: SecretStr) -> Token:
    return Token("BSS_TOKEN", digest(setting.get_secret_value()), Scope.ADMIN, created=0)
