"""What clusters put before a service: a reverse proxy, which speaks TLS where it has a certificate."""

import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import httpx
import trustme
import uvicorn

Answer = tuple[int, str, bytes]  # status, content type, body
PAGE: Answer = (404, "text/html", b"<html>default backend - 404</html>")


class _Server(uvicorn.Server):
    """Ends at once: to end TLS politely, both sides would have to."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.abort()  # type: ignore[union-attr]
        await super().shutdown(sockets)


class Ingress:
    """Passes requests on to a service, in a thread of its own.

    certificate: what it shows; None: it speaks plain HTTP. folder: for the certificate's file. prefix: of the paths
    that it knows. instead: an answer to all requests while it is set. change: makes another answer of the service's.
    """

    def __init__(
        self,
        service: str,
        certificate: trustme.LeafCert | None = None,
        folder: Path | None = None,
        *,
        prefix: str = "",
        change: Callable[[Answer], Answer] = lambda answer: answer,
    ) -> None:
        self.service, self.prefix, self.change = service, prefix, change
        self.instead: Answer | None = None
        self.asked = threading.Event()
        self._port = 0
        self._scheme = "http" if certificate is None else "https"
        self._file = folder / "certificate.pem" if folder else None
        self.start(certificate)

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self._port}{self.prefix}"

    def start(self, certificate: trustme.LeafCert | None = None) -> None:
        """Listen, on the same port as before."""
        listener = socket.create_server(("127.0.0.1", self._port))
        self._port = listener.getsockname()[1]
        options: dict[str, Any] = {}
        if certificate is not None:
            assert self._file is not None
            self._file.write_bytes(certificate.private_key_and_cert_chain_pem.bytes())
            options["ssl_certfile"] = str(self._file)
        plain = {"interface": "asgi3", "loop": "asyncio", "lifespan": "off", "log_config": None, "access_log": False}
        config = uvicorn.Config(self._serve, timeout_graceful_shutdown=1, **plain, **options)
        self._server = _Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [listener]}, daemon=True)
        self._thread.start()
        while not self._server.started:
            self._thread.join(0.01)

    def stop(self) -> None:
        """Take no more connections, and end those there are."""
        self._server.should_exit = True
        self._thread.join(10)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    async def _serve(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            part = await receive()
            body, more = body + part.get("body", b""), part.get("more_body", False)
        self.asked.set()
        status, content_type, content = self.instead or await self._answer(scope, body)
        headers = [(b"content-type", content_type.encode()), (b"content-length", str(len(content)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    async def _answer(self, scope: dict[str, Any], body: bytes) -> Answer:
        path = scope["raw_path"].decode()
        if not path.startswith(self.prefix):
            return PAGE
        url = f"{self.service}{path.removeprefix(self.prefix)}?{scope['query_string'].decode()}".rstrip("?")
        headers = [(name, value) for name, value in scope["headers"] if name not in (b"host", b"connection")]
        async with httpx.AsyncClient(trust_env=False, verify=False, timeout=60) as client:
            try:
                response = await client.request(scope["method"], url, content=body, headers=headers)
            except httpx.TransportError:
                return 502, "text/html", b"<html>bad gateway</html>"
        if not response.content:
            return response.status_code, "", b""
        return self.change((response.status_code, response.headers.get("content-type", ""), response.content))
