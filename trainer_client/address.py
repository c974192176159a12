"""Internal: where the service is and what token it asks for, if the environment is to say so."""

import os
from typing import Final

DEFAULT_URL: Final = "http://127.0.0.1:8765"


def service_url(url: str | None = None) -> str:
    """The URL as given, else BSS_URL, else that of a service with default settings on this machine."""
    return (os.environ.get("BSS_URL", "").strip() or DEFAULT_URL) if url is None else url


def service_token(token: str | None = None) -> str:
    """The token as given, else BSS_TOKEN; "" for none. ValueError where no header can hold it."""
    name = "BSS_TOKEN" if token is None else "token"
    token = os.environ.get("BSS_TOKEN", "").strip() if token is None else token
    if not (token.isascii() and token.isprintable()):
        raise ValueError(f"{name} must hold printable ASCII characters only")
    return token
