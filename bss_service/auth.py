"""Who may call: a bearer token, where one is set."""

import hmac

from fastapi import Request

from bss_service.errors import BssError


class UnauthorisedError(BssError):
    """The token is missing or wrong."""

    status = 401
    title = "Unauthorised"


async def authorised(request: Request) -> None:
    """Raises UnauthorisedError unless the request carries the service's token; loopback may do without one."""
    token = request.app.state.settings.token
    if token is None:
        return
    given = request.headers.get("authorization", "").removeprefix("Bearer ")
    if not hmac.compare_digest(given.encode(), token.get_secret_value().encode()):
        raise UnauthorisedError("authorization must be 'Bearer' and this service's token", field="authorization")
