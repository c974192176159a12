"""The OpenAPI document: what FastAPI reads from the endpoints, beside what it can't know of frames and tokens."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any, Final

from fastapi import FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from starlette.routing import BaseRoute

from bss_service.http import problems
from bss_service.http.bodies import JSON
from bss_service.http.endpoints import GuardedRoute, is_message
from bss_service.http.problems import Problem
from bss_service.protocol import frames

BINARY_SCHEMA: Final = {"schema": {"type": "string", "format": "binary"}}
_TOKEN: Final = (
    "Made by `bss token create`. Each operation names the scope that it needs; `train` includes `read`, and `admin` "
    "both. None is needed on loopback while the service has none."
)

Responses = dict[int | str, dict[str, Any]]  # as a route's option of that name


def failures(*statuses: int) -> Responses:
    """That an operation may fail with these."""
    content = {problems.CONTENT_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": "What was wrong", "content": content} for status in statuses}


def binary(content_type: str) -> Responses:
    """That an operation gives bytes of this type alone."""
    return {200: {"content": {content_type: BINARY_SCHEMA}}}


def example(**fields: Any) -> dict[str, Any]:
    """What can be sent, as the option `openapi_extra` of a route."""
    return {"requestBody": {"content": {JSON: {"example": fields}}}}


def install(app: FastAPI, routes: Sequence[BaseRoute]) -> None:
    """Let an application describe these routes, beside its own."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app, [r for r in (*routes, *app.routes) if isinstance(r, GuardedRoute)])
        return app.openapi_schema

    written: asyncio.Task[bytes] | None = None

    async def serve(_: Request) -> Response:
        """Written once, beside the event loop: it takes a third of a second, and whoever asks needs no token."""
        nonlocal written
        written = written or asyncio.create_task(asyncio.to_thread(lambda: json.dumps(document()).encode()))
        return Response(await asyncio.shield(written), media_type=JSON)

    app.openapi = document  # type: ignore[method-assign]
    app.router.add_route("/openapi.json", serve, include_in_schema=False)


def _document(app: FastAPI, routes: Sequence[GuardedRoute]) -> dict[str, Any]:
    described = get_openapi(
        title=app.title,
        version=app.version,
        description=app.description,
        routes=[route.declared for route in routes],
        separate_input_output_schemas=False,
    )
    described["components"]["schemas"]["Problem"] = Problem.model_json_schema()
    described["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer", "description": _TOKEN}}
    for route in routes:
        for method in route.methods or ():
            _complete(described["paths"][route.path_format][method.lower()], route)
    return described


def _complete(operation: dict[str, Any], route: GuardedRoute) -> None:
    operation["operationId"] = route.name
    operation["security"] = [] if route.scope is None else [{}, {"token": [route.scope.value]}]
    bodies = [operation["requestBody"]] if "requestBody" in operation else []
    if is_message(route.declared.response_model):
        bodies += [answer for status, answer in operation["responses"].items() if status.startswith("2")]
    for body in bodies:
        body["content"][frames.CONTENT_TYPE] = BINARY_SCHEMA
