"""The HTTP interface: each endpoint takes a message, calls the host once, and returns what it answers."""

from typing import Annotated, Final, Literal

from fastapi import APIRouter, Body, Depends, Header, Path, Query, Request, Response
from pydantic import StringConstraints
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive

from bss_service.core.samples.table import MAX_STEP
from bss_service.errors import OldClientError
from bss_service.host import Host
from bss_service.host.host import ANSWER_ROWS, JSON_ROWS
from bss_service.http.auth import Needs
from bss_service.http.bodies import BINARY, JSON, InPieces, MessageResponse, tagged
from bss_service.http.endpoints import GuardedRoute
from bss_service.http.limits import AtMost
from bss_service.http.openapi import BINARY_SCHEMA, Responses, binary, example, failures
from bss_service.http.tokens import Scope
from bss_service.job.lock import Leaving
from bss_service.job.snapshot import Snapshot
from bss_service.journal.descriptions import MEDIA_TYPES
from bss_service.protocol import frames
from bss_service.protocol.actions import MAX_WAIT, ActionAnswer, ActionRequest, ObservationAnswer
from bss_service.protocol.artefacts import ArtefactManifest
from bss_service.protocol.decisions import DecisionLog
from bss_service.protocol.jobs import (
    MAX_POINTS,
    AccessAnswer,
    GroupsAnswer,
    JobChange,
    JobList,
    JobSpec,
    JobState,
    SampleGroups,
    SeriesAnswer,
    SeriesOf,
)
from bss_service.protocol.message import (
    INCARNATION_HEADER,
    INCARNATION_PATTERN,
    NAME_PATTERN,
    OLDEST_PROTOCOL,
    PROTOCOL,
    PROTOCOL_HEADER,
    SHA256_PATTERN,
)
from bss_service.protocol.policies import PolicyAnswer, PolicyList, SwapRequest
from bss_service.protocol.samples import (
    MAX_LISTED,
    DensityAnswer,
    DescriptionList,
    HistogramList,
    KeysAnswer,
    Order,
    SampleDescriptions,
    SampleKeys,
    SampleList,
    SampleState,
    csv_of,
)
from bss_service.protocol.training import (
    MAX_COUNT,
    AttachAnswer,
    AttachRequest,
    Batches,
    FeedbackAnswer,
    FeedbackRequest,
    LocalBatchesAnswer,
    LocalBatchesRequest,
    Scores,
    ScoresAnswer,
    StepsAnswer,
    StepsRequest,
    Window,
    WindowAnswer,
)
from bss_service.protocol.validation import Comparison, ValidationAnswer, ValidationLog, ValidationReport

MAX_COMPARED: Final = 100  # jobs in one comparison
MAX_START: Final = 10**6  # of a list of samples: whoever wants them all reads them as CSV, part by part
UNCHANGED: Final[Responses] = {304: {"description": "Nothing has changed since the answer of that ETag"}}
IfNoneMatch = Annotated[str | None, Header(max_length=200, description="The ETag of the answer that is there")]
CSV: Final[Responses] = {200: {"content": {"text/csv": {"schema": {"type": "string"}}}}}


async def host_of(request: Request) -> Host:
    """The application's host; async, since a sync dependency would cost every request a thread."""
    host: Host = request.app.state.host
    return host


def leaving(receive: Receive) -> Leaving:
    """What returns once the client of a request has gone, whose body is read."""

    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    return gone


def answer_rows(request: Request) -> int:
    """How many rows of batches an answer has at most: JSON has few, since writing it holds up all others."""
    return ANSWER_ROWS if frames.CONTENT_TYPE in request.headers.get("accept", "") else JSON_ROWS


async def check_protocol(
    protocol: Annotated[
        int | None,
        Header(
            alias=PROTOCOL_HEADER,
            ge=0,
            lt=2**31,
            description="The version of this interface that the client speaks; may be left out.",
            examples=[PROTOCOL],
            json_schema_extra={"minimum": OLDEST_PROTOCOL},  # another status says that than one out of a range
        ),
    ] = None,
) -> None:
    """Raises OldClientError. A client that is newer is let in: what it asks beyond this version is refused by name."""
    if protocol is not None and protocol < OLDEST_PROTOCOL:
        raise OldClientError(
            f"{PROTOCOL_HEADER} must be at least {OLDEST_PROTOCOL}, got {protocol}: the client is too old for this "
            f"service, which speaks {PROTOCOL}; upgrade bss-scheduler where you train",
            field=PROTOCOL_HEADER,
            value=protocol,
        )


JobName = Annotated[str, Path(alias="job", pattern=NAME_PATTERN, examples=["run-1"])]
SampleIndex = Annotated[int, Path(alias="i", ge=0, lt=2**40, examples=[0])]
ClientName = Annotated[str, Path(pattern=NAME_PATTERN, examples=["c0ffee"])]
Incarnation = Annotated[
    str | None,
    Header(
        alias=INCARNATION_HEADER,
        pattern=INCARNATION_PATTERN,
        description="The incarnation of the job that the trainer trains with: 409 where the job is another one by now "
        "(`field` is `incarnation`). Without it, whichever job has the name.",
    ),
]
JobNames = Annotated[
    list[Annotated[str, StringConstraints(pattern=NAME_PATTERN)]],
    Query(alias="job", min_length=2, max_length=MAX_COMPARED, examples=[["run-1", "run-1-control"]]),
]
Sha256 = Annotated[str, Path(pattern=SHA256_PATTERN, examples=["0" * 64])]
TheHost = Annotated[Host, Depends(host_of)]

# The scope of token that a route needs; each of them has one of these.
OPEN = [Depends(Needs(None))]
READ = [Depends(Needs(Scope.READ))]
TRAIN = [Depends(Needs(Scope.TRAIN))]  # what a trainer does
ADMIN = [Depends(Needs(Scope.ADMIN))]

LOOK = [*READ, Depends(AtMost(8, "looks at samples and decisions"))]  # what takes a thread of those who look
WATCH = [*READ, Depends(AtMost(256, "requests for observations"))]  # what may be held

router = APIRouter(
    prefix="/v1",
    route_class=GuardedRoute,
    dependencies=[Depends(check_protocol)],
    responses=failures(307, 400, 401, 403, 404, 408, 409, 410, 413, 415, 421, 422, 425, 426, 429, 500, 503, 507),
)


@router.post(
    "/jobs",
    summary="Create a job, or attach to it",
    dependencies=TRAIN,
    response_model=JobState,
    responses={201: {"model": JobState}},
    openapi_extra=example(
        name="run-1",
        samples=6,
        modalities=["audio", "video"],
        batch_size=2,
        interval=3,
        policy={"name": "balance", "parameters": {"refresh_every": 2}},
    ),
)
async def create_job(host: TheHost, spec: JobSpec) -> MessageResponse:
    """The same spec gives the same job (200); another spec of the same name is a conflict that names the field."""
    state = await host.create(spec)
    return MessageResponse(state, 201 if state.created else 200)


@router.get("/jobs", summary="All jobs", dependencies=READ, response_model=JobList)
async def list_jobs(host: TheHost) -> Response:
    """All jobs, by name; always as JSON."""
    jobs = await host.jobs()
    return InPieces(await run_in_threadpool(jobs.to_json), JSON)


@router.get("/jobs/{job}", summary="Where a job is", dependencies=READ)
async def read_job(host: TheHost, name: JobName) -> JobState:
    """The job's spec, its next step, its policy and its latest rewards."""
    return await host.state(name)


@router.patch("/jobs/{job}", summary="Change a job", dependencies=TRAIN, openapi_extra=example(horizon=1000))
async def change_job(host: TheHost, name: JobName, message: JobChange, incarnation: Incarnation = None) -> JobState:
    """More steps to come than were planned, another patience, or more samples; what was handed out and planned stays.

    New samples come from the first epoch on of which nothing is drawn yet; `spec.earlier` of the answer tells which it
    is. 409 for fewer samples than there are, 413 or 507 where there is no room for them.
    """
    return await host.change(name, message, incarnation)


@router.delete("/jobs/{job}", status_code=204, summary="Delete a job", dependencies=ADMIN, response_class=Response)
async def delete_job(host: TheHost, name: JobName) -> None:
    """The job, its journal and its batches are gone for good."""
    await host.delete(name)


@router.put(
    "/jobs/{job}/trainers",
    summary="Take, or keep, the place of a rank",
    dependencies=TRAIN,
    openapi_extra=example(client="c0ffee", host="gpu-1", process=4711),
)
async def attach(host: TheHost, name: JobName, message: AttachRequest, incarnation: Incarnation = None) -> AttachAnswer:
    """A trainer asks for the place of its rank before its first step, and again often enough to keep it.

    409 where another holds the place (`field` is `client`), or where an earlier run was handed out steps and this one
    does not `resume` that (`field` is `name`). Who sends steps without a `client` is not asked for a place.
    """
    return await host.attach(name, message, incarnation)


@router.delete(
    "/jobs/{job}/trainers/{client}",
    status_code=204,
    summary="Give up the place of a rank",
    dependencies=TRAIN,
    response_class=Response,
)
async def detach(host: TheHost, name: JobName, client: ClientName) -> None:
    """Whoever takes the place next need not wait for this client."""
    await host.detach(name, client)


@router.post(
    "/jobs/{job}/steps",
    summary="Give feedback, take batches: the hot call",
    dependencies=TRAIN,
    openapi_extra=example(start=0, count=3),
)
async def steps(
    host: TheHost, name: JobName, message: StepsRequest, request: Request, incarnation: Incarnation = None
) -> StepsAnswer:
    """Feedback for steps that are done, and the next batches from a step on, in one round trip.

    Asked again, it gives the same batches. A call for an interval that is not drawn yet waits for the feedback that
    belongs to it, at most the job's `patience`. Fewer batches than asked for is a normal answer.
    """
    return await host.steps(name, message, incarnation, leaving=leaving(request.receive), rows=answer_rows(request))


@router.get("/jobs/{job}/batches", summary="Batches handed out before", dependencies=LOOK)
async def read_batches(
    host: TheHost,
    name: JobName,
    request: Request,
    start: Annotated[int, Query(ge=0, le=MAX_STEP)],
    count: Annotated[int, Query(ge=1, le=MAX_COUNT)] = 1,
    incarnation: Incarnation = None,
) -> Batches:
    """The batches of past steps. It never hands out new ones: `POST …/steps` does."""
    return await host.batches(name, start, count, incarnation, rows=answer_rows(request))


@router.post(
    "/jobs/{job}/feedback",
    summary="Give feedback alone",
    dependencies=TRAIN,
    openapi_extra=example(feedback={"step": [0], "similarity": [[0.9, 0.2]], "loss": [[0.3, 2.1]]}),
)
async def feedback(
    host: TheHost, name: JobName, message: FeedbackRequest, incarnation: Incarnation = None
) -> FeedbackAnswer:
    """Feedback is counted once for each step and sample row: a repetition changes nothing, and the answer says so."""
    return await host.feedback(name, message, incarnation)


@router.post(
    "/jobs/{job}/validation",
    summary="Report a validation",
    dependencies=TRAIN,
    openapi_extra=example(
        step=3,
        loss=1.2,
        accuracy=0.55,
        modalities={
            "audio": {"accuracy": 0.5, "probability": 0.41},
            "video": {"accuracy": 0.3, "probability": 0.24},
        },
    ),
)
async def validation(
    host: TheHost, name: JobName, message: ValidationReport, incarnation: Incarnation = None
) -> ValidationAnswer:
    """The report becomes the reward of the decisions whose plans have ended."""
    return await host.validate(name, message, incarnation)


@router.get("/jobs/{job}/validation", summary="The validation reports", dependencies=READ)
async def read_validations(
    host: TheHost,
    name: JobName,
    start: Annotated[int, Query(ge=0, le=MAX_STEP)] = 0,
    count: Annotated[int, Query(ge=1, le=1000)] = 1000,
) -> ValidationLog:
    """The first `count` reports of step `start` or a later one, in order of step."""
    return await host.validations(name, start, count)


@router.put(
    "/jobs/{job}/scores",
    summary="Send a measuring pass",
    dependencies=TRAIN,
    openapi_extra=example(indices=[0, 1], similarity=[0.8, 0.4], loss=[0.5, 1.9]),
)
async def scores(host: TheHost, name: JobName, message: Scores, incarnation: Incarnation = None) -> ScoresAnswer:
    """A part of a measuring pass over the training set; it counts when the next interval is drawn."""
    return await host.measure(name, message, incarnation)


@router.put(
    "/jobs/{job}/groups",
    summary="Tell which group each sample is of",
    dependencies=TRAIN,
    openapi_extra=example(groups=[0, 0, 1, 1, 0, 1]),
)
async def set_groups(
    host: TheHost, name: JobName, message: SampleGroups, incarnation: Incarnation = None
) -> GroupsAnswer:
    """A class, domain or source of each, of as many as the job's spec declares; before the first step, and again at any
    time: plans that are drawn afterwards go by it.

    Without them no step of a job that declares groups is drawn (409, `field` is `groups`).
    """
    return await host.set_groups(name, message, incarnation)


@router.post(
    "/jobs/{job}/keys",
    summary="Register what samples are called",
    dependencies=TRAIN,
    openapi_extra=example(keys=["shard-0/000017", "shard-0/000018"]),
)
async def register_keys(
    host: TheHost, name: JobName, message: SampleKeys, incarnation: Incarnation = None
) -> KeysAnswer:
    """The index of each key: that which it has, or else the next; the first key of a job is that of sample 0.

    Asked again, it answers the same, whoever asks. Where a job has fewer samples than keys then, it grows as by a
    change of its `samples`: new ones come from the first epoch on of which nothing is drawn yet.
    """
    return await host.register(name, message, incarnation)


@router.put(
    "/jobs/{job}/window",
    summary="Say what was read ahead of a stream",
    dependencies=TRAIN,
    openapi_extra=example(first_step=0, samples=[0, 1, 2, 3]),
)
async def open_window(host: TheHost, name: JobName, message: Window, incarnation: Incarnation = None) -> WindowAnswer:
    """Of a job that is a `stream`: the next steps are drawn from these samples alone, each as often as it stands there.

    Asked again, it changes nothing; another takes its place until the first of its steps is drawn. 409 while steps of
    the window before are to be drawn yet.
    """
    return await host.open_window(name, message, incarnation)


@router.post(
    "/jobs/{job}/local-batches",
    summary="Report what was drawn during an outage",
    dependencies=TRAIN,
    openapi_extra=example(start=0, indices=[[3, 1]]),
)
async def local_batches(
    host: TheHost, name: JobName, message: LocalBatchesRequest, incarnation: Incarnation = None
) -> LocalBatchesAnswer:
    """Batches that the client drew by itself while the service was out of reach take the place of planned ones.

    409 (`field` is `start`) where steps were handed out and somebody else holds a place: they may be in use there.
    """
    return await host.adopt(name, message, incarnation)


@router.get("/jobs/{job}/policy", summary="The policy in force", dependencies=READ)
async def read_policy(host: TheHost, name: JobName) -> PolicyAnswer:
    """The policy that draws the next step to be handed out."""
    return await host.policy(name)


@router.put(
    "/jobs/{job}/policy",
    summary="Swap the policy",
    dependencies=ADMIN,
    openapi_extra=example(policy={"name": "curriculum", "parameters": {"growth_epochs": 20}}, at="now"),
)
async def swap_policy(host: TheHost, name: JobName, message: SwapRequest) -> PolicyAnswer:
    """The answer names the new policy version and the first step that it draws."""
    return await host.swap(name, message)


@router.delete(
    "/jobs/{job}/policy/shadow",
    status_code=204,
    summary="End the shadow",
    dependencies=ADMIN,
    response_class=Response,
)
async def end_shadow(host: TheHost, name: JobName) -> None:
    """The policy that watches the job stops watching; what it would have done stays in the decision log."""
    await host.end_shadow(name)


@router.get("/jobs/{job}/observation", summary="What the policy sees next", dependencies=WATCH)
async def read_observation(
    host: TheHost,
    name: JobName,
    request: Request,
    wait: Annotated[float, Query(ge=0, le=MAX_WAIT, allow_inf_nan=False)] = 0.0,
) -> ObservationAnswer:
    """The observation from which the next interval will be drawn, as far as it is known.

    With `wait` the call is held, at most so many seconds, until the job awaits an action: its policy is `external`,
    its trainer has asked for the interval, and the feedback that belongs to it is in.
    """
    may_act = request.state.scope.allows(Scope.TRAIN)
    return await host.observation(name, wait, leaving(request.receive), may_act=may_act)


@router.put(
    "/jobs/{job}/action",
    summary="Act from outside",
    dependencies=TRAIN,
    openapi_extra=example(first_step=3, action="balance", propensity=0.5),
)
async def set_action(
    host: TheHost, name: JobName, message: ActionRequest, incarnation: Incarnation = None
) -> ActionAnswer:
    """The action for the next interval of a job whose policy is `external`; the interval is planned once it came.

    Asked again, it changes nothing; another action takes its place until the interval is planned.
    """
    return await host.act(name, message, incarnation)


@router.get("/jobs/{job}/decisions", summary="The decision log", dependencies=LOOK)
async def read_decisions(
    host: TheHost,
    name: JobName,
    start: Annotated[int, Query(ge=0, le=MAX_STEP)] = 0,
    count: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> DecisionLog:
    """What the policies saw and chose, how likely the choice was, and the reward."""
    return await host.decisions(name, start, count)


@router.get("/jobs/{job}/samples", summary="Which samples are suspect?", dependencies=LOOK, responses=CSV)
async def list_samples(
    host: TheHost,
    name: JobName,
    order: Order = "label",
    limit: Annotated[int, Query(ge=1, le=MAX_LISTED)] = 100,
    start: Annotated[int, Query(ge=0, le=MAX_START)] = 0,
    form: Annotated[Literal["json", "csv"], Query(alias="format")] = "json",
) -> SampleList:
    """Those first whose label, or whose pair of modalities, is the least likely right, or by loss or draws; `limit` of
    them from number `start` on.

    As CSV, a header and a line for each; a class is told by its number.
    """
    listed = await host.samples(name, order, limit, start)
    if form == "csv":
        text = await run_in_threadpool(csv_of, listed)
        return Response(text, media_type="text/csv; charset=utf-8")  # type: ignore[return-value]
    return listed


@router.get("/jobs/{job}/samples/{i}", summary="Why is this sample drawn?", dependencies=LOOK)
async def read_sample(
    host: TheHost,
    name: JobName,
    index: SampleIndex,
    draws: Annotated[int, Query(ge=1, le=100)] = 10,
) -> SampleState:
    """The sample's scores, and when and by which policy version it was drawn."""
    return await host.sample(name, index, draws)


@router.get("/jobs/{job}/series", summary="Lines over the steps of a job", dependencies=LOOK, responses=UNCHANGED)
async def read_series(
    request: Request,
    host: TheHost,
    name: JobName,
    of: SeriesOf = "validation",
    points: Annotated[int, Query(ge=2, le=MAX_POINTS)] = MAX_POINTS,
    if_none_match: IfNoneMatch = None,
) -> SeriesAnswer:
    """Of `validation` accuracy and loss by head; of `decisions` what each plan was drawn by and from; of `pace` speed
    and waits since the service has the job in memory. At most so many points, whatever the length of the run.
    """
    return tagged(request, await host.series(name, of, points), if_none_match)  # type: ignore[return-value]


@router.get("/jobs/{job}/density", summary="Samples over similarity × loss", dependencies=LOOK, responses=UNCHANGED)
async def read_density(
    request: Request, host: TheHost, name: JobName, if_none_match: IfNoneMatch = None
) -> DensityAnswer:
    """How many samples lie in each of 64 × 64 cells."""
    return tagged(request, await host.density(name), if_none_match)  # type: ignore[return-value]


@router.get("/jobs/{job}/histograms", summary="Coverage, staleness, loss", dependencies=LOOK, responses=UNCHANGED)
async def read_histograms(
    request: Request, host: TheHost, name: JobName, if_none_match: IfNoneMatch = None
) -> HistogramList:
    """How often samples were drawn, how many steps ago they were measured last, and what is known of them."""
    return tagged(request, await host.histograms(name), if_none_match)  # type: ignore[return-value]


@router.put(
    "/jobs/{job}/descriptions",
    summary="Tell what samples show",
    dependencies=TRAIN,
    openapi_extra=example(index=[0, 3], texts=["a dog that barks", "a siren"]),
)
async def describe_samples(
    host: TheHost, name: JobName, message: SampleDescriptions, incarnation: Incarnation = None
) -> DescriptionList:
    """A text or a small picture of each, for people who look at suspect samples; in place of what was told before.

    A picture is sent as pixels, best in a frame. Of more than 2,000 samples the earliest told are forgotten.
    """
    return await host.describe(name, message, incarnation)


@router.get("/jobs/{job}/descriptions", summary="Which samples are described", dependencies=LOOK)
async def list_descriptions(host: TheHost, name: JobName) -> DescriptionList:
    """By index, and whether by a text or a picture."""
    return await host.descriptions(name)


@router.get(
    "/jobs/{job}/samples/{i}/description",
    summary="What a sample shows",
    dependencies=LOOK,
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}, "image/png": BINARY_SCHEMA}}},
)
async def read_description(host: TheHost, name: JobName, index: SampleIndex) -> Response:
    """A text, or a PNG file that the service made."""
    found = await host.description(name, index)
    return Response(found.body, media_type=MEDIA_TYPES[found.kind])


@router.get("/access", summary="What this caller may do", dependencies=READ)
async def read_access(request: Request) -> AccessAnswer:
    """The scope of the token that was sent; `admin` on loopback where none is needed."""
    return AccessAnswer(scope=request.state.scope.value)


@router.get(
    "/jobs/{job}/snapshot",
    summary="Take a job's state away",
    dependencies=[*TRAIN, Depends(AtMost(2, "snapshots"))],
    response_class=Response,
    responses=binary(frames.CONTENT_TYPE),
)
async def read_snapshot(host: TheHost, name: JobName) -> Response:
    """The whole state of the job as one frame, for `PUT` here or elsewhere, under this name or another."""
    return InPieces(await host.snapshot(name), frames.CONTENT_TYPE)


@router.put("/jobs/{job}/snapshot", status_code=201, summary="Create a job from a snapshot", dependencies=ADMIN)
async def put_snapshot(host: TheHost, name: JobName, snapshot: Snapshot) -> JobState:
    """The job goes on where the snapshot was taken. A job of that name must not exist."""
    return await host.put_snapshot(name, snapshot)


@router.get("/compare", summary="Is it helping?", dependencies=READ)
async def compare_jobs(host: TheHost, names: JobNames) -> Comparison:
    """Whether policies help, by the validation accuracy of jobs that differ in policy and seed alone.

    They are compared with `uniform` where one of the jobs has it, else with the policy of the first, in pairs of the
    same seed. The first sentence says the result with its interval. 422 names what differs between jobs that can't be
    compared, and both values.
    """
    return await host.compare(names)


@router.get("/policies", summary="Policies that a job can have", dependencies=READ)
async def list_policies(host: TheHost) -> PolicyList:
    """Installed policies with the JSON Schema of their parameters, and uploaded artefacts."""
    return await host.policies()


@router.post(
    "/policies",
    summary="Upload a trained policy or judge",
    dependencies=ADMIN,
    response_model=ArtefactManifest,
    responses={201: {"model": ArtefactManifest}},
)
async def upload_policy(host: TheHost, data: Annotated[bytes, Body(media_type=BINARY)]) -> MessageResponse:
    """An artefact is one safetensors file of float32 tensors with a manifest (201); a known one changes nothing (200).

    A job runs a policy as the policy `artefact` with the parameter `sha256`, and a judge, which reads evidence of
    samples, by the parameter `judge` of the policy `evidence`.
    """
    manifest, new = await host.upload(data)
    return MessageResponse(manifest, 201 if new else 200)


@router.get("/policies/{sha256}", summary="What a trained policy is", dependencies=READ)
async def read_policy_manifest(host: TheHost, sha256: Sha256) -> ArtefactManifest:
    """The manifest of an artefact."""
    return await host.manifest(sha256)


@router.get(
    "/policies/{sha256}/file",
    summary="Take a trained policy away",
    dependencies=READ,
    response_class=Response,
    responses=binary(BINARY),
)
async def read_policy_file(host: TheHost, sha256: Sha256) -> Response:
    """The artefact as it was uploaded."""
    return Response(await host.artefact_bytes(sha256), media_type=BINARY)
