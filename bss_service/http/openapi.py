"""The OpenAPI document: bodies as JSON or frames, with examples that the tests send."""

from typing import Any, Final

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from bss_service import protocol as wire
from bss_service.http import problems
from bss_service.http.auth import Needs
from bss_service.http.bodies import BINARY
from bss_service.http.problems import Problem
from bss_service.http.tokens import Scope
from bss_service.protocol import frames

_PREFIX: Final = "#/components/schemas/{model}"
_FRAME: Final = {"schema": {"type": "string", "format": "binary"}}
_TOKEN: Final = (
    "Made by `bss token create`. Each operation names the scope that it needs; `train` includes `read`, and `admin` "
    "both. None is needed on loopback while the service has none."
)

ANSWERS: Final[dict[str, type[wire.Message]]] = {
    "create_job": wire.JobState,
    "list_jobs": wire.JobList,
    "read_job": wire.JobState,
    "steps": wire.StepsAnswer,
    "read_batches": wire.Batches,
    "feedback": wire.FeedbackAnswer,
    "validation": wire.ValidationAnswer,
    "scores": wire.ScoresAnswer,
    "local_batches": wire.LocalBatchesAnswer,
    "read_policy": wire.PolicyAnswer,
    "swap_policy": wire.PolicyAnswer,
    "read_observation": wire.ObservationAnswer,
    "set_action": wire.ActionAnswer,
    "read_decisions": wire.DecisionLog,
    "read_sample": wire.SampleState,
    "put_snapshot": wire.JobState,
    "list_policies": wire.PolicyList,
    "upload_policy": wire.PolicyManifest,
    "read_policy_manifest": wire.PolicyManifest,
}

EXAMPLES: Final[dict[str, Any]] = {
    "create_job": {
        "name": "run-1",
        "samples": 6,
        "modalities": ["audio", "video"],
        "batch_size": 2,
        "seed": 0,
        "policy": {"name": "balance", "parameters": {"refresh_every": 2}},
    },
    "steps": {"start": 0, "count": 3},
    "feedback": {"feedback": {"step": [0], "similarity": [[0.9, 0.2]], "loss": [[0.3, 2.1]]}},
    "validation": {
        "step": 3,
        "loss": 1.2,
        "accuracy": 0.55,
        "modalities": {
            "audio": {"accuracy": 0.5, "probability": 0.41},
            "video": {"accuracy": 0.3, "probability": 0.24},
        },
    },
    "scores": {"indices": [0, 1], "similarity": [0.8, 0.4], "loss": [0.5, 1.9]},
    "local_batches": {"start": 0, "indices": [[3, 1]]},
    "swap_policy": {"policy": {"name": "curriculum", "parameters": {"growth_epochs": 20}}, "at": "now"},
    "set_action": {"first_step": 3, "action": "balance", "propensity": 0.5},
}


def install(app: FastAPI, router: APIRouter) -> None:
    """Let an application describe the bodies that its endpoints read by themselves."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app, router)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _document(app: FastAPI, router: APIRouter) -> dict[str, Any]:
    described = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    routes = [route for route in (*router.routes, *app.routes) if isinstance(route, APIRoute)]
    models: set[type[BaseModel]] = {model for route in routes if (model := _message(route))}
    models |= {*ANSWERS.values(), Problem}
    _, schemas = models_json_schema([(m, "validation") for m in sorted(models, key=str)], ref_template=_PREFIX)
    described["components"] = {
        "schemas": schemas["$defs"],
        "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "description": _TOKEN}},
    }
    for route in routes:
        for method in route.methods or ():
            _complete(described["paths"][route.path_format][method.lower()], route)
    return described


def _message(route: APIRoute) -> type[wire.Message] | None:
    for dependency in route.dependant.dependencies:
        model: type[wire.Message] | None = getattr(dependency.call, "message", None)
        if model is not None:
            return model
    return None


def _scope(route: APIRoute) -> Scope | None:
    """The scope of token that a route needs; None where it is open."""
    calls = (dependency.call for dependency in route.dependant.dependencies)
    return next((call.scope for call in calls if isinstance(call, Needs)), None)


def _complete(operation: dict[str, Any], route: APIRoute) -> None:
    operation["operationId"] = route.name
    scope = _scope(route)
    operation["security"] = [] if scope is None else [{}, {"token": [scope.value]}]
    model = _message(route)
    if model is not None:
        content: dict[str, Any] = {"application/json": {"schema": _ref(model)}, frames.CONTENT_TYPE: _FRAME}
        if route.name in EXAMPLES:
            content["application/json"]["example"] = EXAMPLES[route.name]
        operation["requestBody"] = {"required": True, "content": content}
    if route.name == "upload_policy":
        operation["requestBody"] = {"required": True, "content": {BINARY: _FRAME, frames.CONTENT_TYPE: _FRAME}}
    operation["responses"] = _responses(route)


def _responses(route: APIRoute) -> dict[str, Any]:
    problem = {"description": "What was wrong", "content": {problems.CONTENT_TYPE: {"schema": _ref(Problem)}}}
    if not route.path.startswith("/v1"):
        kind = "text/plain" if route.path == "/metrics" else "application/json"
        failures = ["503"] if _scope(route) is None else ["401", "403", "429", "503"]
        return {"200": {"description": "Yes", "content": {kind: {}}}} | dict.fromkeys(failures, problem)
    if route.status_code == 204:
        done: dict[str, Any] = {"description": "Done"}
    elif route.name == "read_snapshot":
        done = {"description": "The job's state", "content": {frames.CONTENT_TYPE: _FRAME}}
    elif route.name == "read_policy_file":
        done = {"description": "The artefact", "content": {BINARY: _FRAME}}
    else:
        done = {
            "description": "Done",
            "content": {"application/json": {"schema": _ref(ANSWERS[route.name])}, frames.CONTENT_TYPE: _FRAME},
        }
    codes = ["200", "201"] if route.name in ("create_job", "upload_policy") else [str(route.status_code or 200)]
    failures = ["400", "401", "403", "404", "409", "413", "415", "422", "425", "429", "500", "503"]
    return dict.fromkeys(codes, done) | dict.fromkeys(failures, problem)


def _ref(model: type) -> dict[str, str]:
    return {"$ref": _PREFIX.format(model=model.__name__)}
