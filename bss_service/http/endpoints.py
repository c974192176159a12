"""What all endpoints share: each names the scope that it needs, and takes and returns messages as JSON or frames."""

import inspect
from collections.abc import Callable
from functools import cached_property, partial, wraps
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from fastapi import Depends, Response
from fastapi.routing import APIRoute

from bss_service.http.auth import Needs
from bss_service.http.bodies import MessageResponse, message_reader, read_artefact
from bss_service.protocol.message import Message


class GuardedRoute(APIRoute):
    """A route that says what it needs; one that forgot to can't be made.

    Its endpoint may have a parameter that is a message, or bytes, for the body, and may return a message. FastAPI would
    read the body before it looks at the token, without bounds, and as JSON alone: so a dependency reads it instead.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        self._declare = partial(APIRoute, path, endpoint, **options)
        super().__init__(path, _served(endpoint, options.get("status_code") or 200), **options)
        needs = [dependency.call for dependency in self.dependant.dependencies if isinstance(dependency.call, Needs)]
        if not needs:
            raise TypeError(f"route {path} must name the scope that it needs, or that it needs none")
        if self.body_field is not None:
            raise TypeError(f"route {path} must take its body as a message, or as bytes")
        self.scope = needs[0].scope

    @cached_property
    def declared(self) -> APIRoute:
        """The route as FastAPI understands the endpoint, for the OpenAPI document."""
        return self._declare()


def _served(endpoint: Callable[..., Any], status: int) -> Callable[..., Any]:
    """The endpoint with its body from a dependency, and a response for the message that it returns."""
    signature = inspect.signature(endpoint)
    parameters = [_from_dependency(parameter) for parameter in signature.parameters.values()]
    if parameters == [*signature.parameters.values()] and not is_message(signature.return_annotation):
        return endpoint

    @wraps(endpoint)
    async def served(**arguments: Any) -> Any:
        answer = await endpoint(**arguments)
        return MessageResponse(answer, status) if isinstance(answer, Message) else answer

    served.__signature__ = inspect.Signature(parameters, return_annotation=Response)  # type: ignore[attr-defined]
    return served


def _from_dependency(parameter: inspect.Parameter) -> inspect.Parameter:
    annotation = parameter.annotation
    kind = annotation.__origin__ if get_origin(annotation) is Annotated else annotation
    if kind is bytes:
        return parameter.replace(annotation=Annotated[bytes, Depends(read_artefact)])
    if is_message(kind):
        return parameter.replace(annotation=Annotated[kind, Depends(message_reader(kind))])
    return parameter


def is_message(kind: Any) -> bool:
    """Whether a type is one of messages, or a union of them."""
    if get_origin(kind) is Annotated:
        kind = kind.__origin__
    if get_origin(kind) in (Union, UnionType):
        return all(map(is_message, get_args(kind)))
    return isinstance(kind, type) and issubclass(kind, Message)
