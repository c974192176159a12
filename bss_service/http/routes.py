"""The HTTP interface: each endpoint reads, calls the host once, and answers."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request, Response

from bss_service.core.table import MAX_STEP
from bss_service.host import Host
from bss_service.http.auth import GuardedRoute, Needs
from bss_service.http.bodies import BINARY, artefact_body, body, reply
from bss_service.http.tokens import Scope
from bss_service.job.snapshot import Snapshot
from bss_service.protocol import (
    MAX_COUNT,
    MAX_WAIT,
    NAME_PATTERN,
    SHA256_PATTERN,
    ActionRequest,
    FeedbackRequest,
    JobSpec,
    LocalBatches,
    Scores,
    StepsRequest,
    SwapRequest,
    ValidationReport,
    frames,
)


async def host_of(request: Request) -> Host:
    """The application's host; async, since a sync dependency would cost every request a thread."""
    host: Host = request.app.state.host
    return host


JobName = Annotated[str, Path(alias="job", pattern=NAME_PATTERN, examples=["run-1"])]
Sha256 = Annotated[str, Path(pattern=SHA256_PATTERN, examples=["0" * 64])]
TheHost = Annotated[Host, Depends(host_of)]

# The scope of token that a route needs; each of them has one of these.
OPEN = [Depends(Needs(None))]
READ = [Depends(Needs(Scope.READ))]
TRAIN = [Depends(Needs(Scope.TRAIN))]  # what a trainer does
ADMIN = [Depends(Needs(Scope.ADMIN))]

router = APIRouter(prefix="/v1", route_class=GuardedRoute)


@router.post("/jobs", summary="Create a job, or attach to it", dependencies=TRAIN)
async def create_job(request: Request, host: TheHost, spec: Annotated[Any, Depends(body(JobSpec))]) -> Response:
    """The same spec gives the same job (200); another spec of the same name is a conflict that names the field."""
    state = await host.create(spec)
    return reply(request, state, 201 if state.created else 200)


@router.get("/jobs", summary="All jobs", dependencies=READ)
async def list_jobs(request: Request, host: TheHost) -> Response:
    """All jobs, by name."""
    return reply(request, await host.jobs())


@router.get("/jobs/{job}", summary="Where a job is", dependencies=READ)
async def read_job(request: Request, host: TheHost, name: JobName) -> Response:
    """The job's spec, its next step, its policy and its latest rewards."""
    return reply(request, await host.state(name))


@router.delete("/jobs/{job}", status_code=204, summary="Delete a job", dependencies=ADMIN)
async def delete_job(host: TheHost, name: JobName) -> Response:
    """The job, its journal and its batches are gone for good."""
    await host.delete(name)
    return Response(status_code=204)


@router.post("/jobs/{job}/steps", summary="Give feedback, take batches: the hot call", dependencies=TRAIN)
async def steps(
    request: Request, host: TheHost, name: JobName, message: Annotated[Any, Depends(body(StepsRequest))]
) -> Response:
    """Feedback for steps that are done, and the next batches from a step on, in one round trip.

    Asked again, it gives the same batches. A call for an interval that is not drawn yet waits for the feedback that
    belongs to it, at most the job's `patience`. Fewer batches than asked for is a normal answer.
    """
    return reply(request, await host.steps(name, message))


@router.get("/jobs/{job}/batches", summary="Batches handed out before", dependencies=READ)
async def read_batches(
    request: Request,
    host: TheHost,
    name: JobName,
    start: Annotated[int, Query(ge=0, le=MAX_STEP)],
    count: Annotated[int, Query(ge=1, le=MAX_COUNT)] = 1,
) -> Response:
    """The batches of past steps. It never hands out new ones: `POST …/steps` does."""
    return reply(request, await host.batches(name, start, count))


@router.post("/jobs/{job}/feedback", summary="Give feedback alone", dependencies=TRAIN)
async def feedback(
    request: Request, host: TheHost, name: JobName, message: Annotated[Any, Depends(body(FeedbackRequest))]
) -> Response:
    """Feedback is counted once for each step and sample row: a repetition changes nothing and is told as one."""
    return reply(request, await host.feedback(name, message))


@router.post("/jobs/{job}/validation", summary="Report a validation", dependencies=TRAIN)
async def validation(
    request: Request, host: TheHost, name: JobName, message: Annotated[Any, Depends(body(ValidationReport))]
) -> Response:
    """The report becomes the reward of the decisions whose plans have ended."""
    return reply(request, await host.validate(name, message))


@router.put("/jobs/{job}/scores", summary="Send a measuring pass", dependencies=TRAIN)
async def scores(
    request: Request, host: TheHost, name: JobName, message: Annotated[Any, Depends(body(Scores))]
) -> Response:
    """A part of a measuring pass over the training set; it counts when the next interval is drawn."""
    return reply(request, await host.measure(name, message))


@router.post("/jobs/{job}/local-batches", summary="Tell what was drawn during an outage", dependencies=TRAIN)
async def local_batches(
    request: Request, host: TheHost, name: JobName, message: Annotated[Any, Depends(body(LocalBatches))]
) -> Response:
    """Batches that the client drew by itself while the service was out of reach take the place of planned ones."""
    return reply(request, await host.adopt(name, message))


@router.get("/jobs/{job}/policy", summary="The policy in force", dependencies=READ)
async def read_policy(request: Request, host: TheHost, name: JobName) -> Response:
    """The policy that draws the next step to be handed out."""
    return reply(request, await host.policy(name))


@router.put("/jobs/{job}/policy", summary="Swap the policy", dependencies=ADMIN)
async def swap_policy(
    request: Request, host: TheHost, name: JobName, message: Annotated[Any, Depends(body(SwapRequest))]
) -> Response:
    """The answer names the new policy version and the first step that it draws."""
    return reply(request, await host.swap(name, message))


@router.delete("/jobs/{job}/policy/shadow", status_code=204, summary="End the shadow", dependencies=ADMIN)
async def end_shadow(host: TheHost, name: JobName) -> Response:
    """The policy that watches the job stops watching; what it would have done stays in the decision log."""
    await host.end_shadow(name)
    return Response(status_code=204)


@router.get("/jobs/{job}/observation", summary="What the policy sees next", dependencies=READ)
async def read_observation(
    request: Request,
    host: TheHost,
    name: JobName,
    wait: Annotated[float, Query(ge=0, le=MAX_WAIT, allow_inf_nan=False)] = 0.0,
) -> Response:
    """The observation from which the next interval will be drawn, as far as it is known.

    With `wait` the call is held, at most so many seconds, until the job awaits an action: its policy is `external`,
    its trainer has asked for the interval, and the feedback that belongs to it is in.
    """
    return reply(request, await host.observation(name, wait))


@router.put("/jobs/{job}/action", summary="Act from outside", dependencies=TRAIN)
async def set_action(
    request: Request, host: TheHost, name: JobName, message: Annotated[Any, Depends(body(ActionRequest))]
) -> Response:
    """The action for the next interval of a job whose policy is `external`; the interval is planned once it came.

    Asked again, it changes nothing; another action takes its place until the interval is planned.
    """
    return reply(request, await host.act(name, message))


@router.get("/jobs/{job}/decisions", summary="The decision log", dependencies=READ)
async def read_decisions(
    request: Request,
    host: TheHost,
    name: JobName,
    start: Annotated[int, Query(ge=0, le=MAX_STEP)] = 0,
    count: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Response:
    """What the policies saw and chose, how likely the choice was, and the reward."""
    return reply(request, await host.decisions(name, start, count))


@router.get("/jobs/{job}/samples/{i}", summary="Why is this sample drawn?", dependencies=READ)
async def read_sample(
    request: Request,
    host: TheHost,
    name: JobName,
    index: Annotated[int, Path(alias="i", ge=0, lt=2**40, examples=[0])],
    draws: Annotated[int, Query(ge=1, le=100)] = 10,
) -> Response:
    """The sample's scores, and when and by which policy version it was drawn."""
    return reply(request, await host.sample(name, index, draws))


@router.get("/jobs/{job}/snapshot", summary="Take a job's state away", dependencies=TRAIN)
async def read_snapshot(host: TheHost, name: JobName) -> Response:
    """The whole state of the job as one frame, for `PUT` here or elsewhere, under this name or another."""
    return Response(await host.snapshot(name), media_type=frames.CONTENT_TYPE)


@router.put("/jobs/{job}/snapshot", status_code=201, summary="Create a job from a snapshot", dependencies=ADMIN)
async def put_snapshot(
    request: Request, host: TheHost, name: JobName, snapshot: Annotated[Any, Depends(body(Snapshot, counted=False))]
) -> Response:
    """The job goes on where the snapshot was taken. A job of that name must not exist."""
    return reply(request, await host.put_snapshot(name, snapshot), 201)


@router.get("/policies", summary="Policies that a job can have", dependencies=READ)
async def list_policies(request: Request, host: TheHost) -> Response:
    """Installed policies with the JSON Schema of their parameters, and uploaded artefacts."""
    return reply(request, await host.policies())


@router.post("/policies", summary="Upload a trained policy", dependencies=ADMIN)
async def upload_policy(request: Request, host: TheHost, data: Annotated[bytes, Depends(artefact_body)]) -> Response:
    """An artefact is one safetensors file of float32 tensors with a manifest (201); a known one changes nothing (200).

    A job runs it as the policy `artefact` with the parameter `sha256`.
    """
    manifest, new = await host.upload(data)
    return reply(request, manifest, 201 if new else 200)


@router.get("/policies/{sha256}", summary="What a trained policy is", dependencies=READ)
async def read_policy_manifest(request: Request, host: TheHost, sha256: Sha256) -> Response:
    """The manifest of an artefact."""
    return reply(request, await host.manifest(sha256))


@router.get("/policies/{sha256}/file", summary="Take a trained policy away", dependencies=READ)
async def read_policy_file(host: TheHost, sha256: Sha256) -> Response:
    """The artefact as it was uploaded."""
    return Response(await host.artefact_bytes(sha256), media_type=BINARY)
