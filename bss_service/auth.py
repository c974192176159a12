"""Who may call: a bearer token, where one is set; else only what this machine addresses to itself."""

import hmac

from fastapi import Request

from bss_service.errors import BssError
from bss_service.settings import is_loopback


class UnauthorisedError(BssError):
    """The token is missing or wrong."""

    status = 401
    title = "Unauthorised"


async def authorised(request: Request) -> None:
    """Raises UnauthorisedError unless the request carries the service's token; loopback may do without one.

    Without a token the Host header must name loopback: a web page whose name was made to point here does not.
    """
    token = request.app.state.settings.token
    if token is None:
        if not is_loopback(request.url.hostname or ""):
            raise UnauthorisedError("host must be a loopback address where no token is set", field="host")
        return
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    right = hmac.compare_digest(given.encode(), token.get_secret_value().encode())
    if scheme.lower() != "bearer" or not right:
        raise UnauthorisedError("authorization must be 'Bearer' and this service's token", field="authorization")
