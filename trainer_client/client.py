"""The service's interface as Python calls."""

import os
import socket
import ssl
import threading
from collections.abc import Sequence
from contextlib import suppress
from copy import copy
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeVar
from urllib.parse import quote
from weakref import WeakSet

import httpx
import numpy as np
import pydantic

from bss_service.protocol import frames
from bss_service.protocol.actions import ActionAnswer, ActionRequest, ObservationAnswer
from bss_service.protocol.artefacts import JudgeManifest, PolicyManifest
from bss_service.protocol.decisions import DecisionLog
from bss_service.protocol.jobs import JobChange, JobList, JobSpec, JobState
from bss_service.protocol.message import PROTOCOL, PROTOCOL_HEADER, UNKNOWN_CALL, Message
from bss_service.protocol.policies import PolicyAnswer, PolicyList, PolicySpec, SwapRequest
from bss_service.protocol.samples import DescriptionList, Order, SampleDescriptions, SampleList, SampleState
from bss_service.protocol.training import (
    AttachAnswer,
    AttachRequest,
    Batches,
    FeedbackAnswer,
    FeedbackRequest,
    LocalBatches,
    LocalBatchesAnswer,
    Scores,
    ScoresAnswer,
    StepsAnswer,
    StepsRequest,
)
from bss_service.protocol.validation import ValidationAnswer, ValidationReport
from trainer_client.errors import (
    CertificateError,
    ConflictError,
    OutageError,
    SchedulerError,
    StrangeAnswerError,
    UnknownJobError,
    refusal,
)
from trainer_client.retry import Backoff
from trainer_client.trust import Verify, is_expired, objection, tls_error, trust

DEFAULT_URL: Final = "http://127.0.0.1:8765"
MAX_PAUSE: Final = 60.0  # seconds, whatever a Retry-After says
LONG_JSON: Final = 2 * 2**20  # bytes; of longer JSON the service may have too much, so it goes as a frame
_PASSING: Final = {408, 429, 502, 503, 504}
_JSON: Final = "application/json"
_BYTES: Final = "application/octet-stream"
_PROBLEM: Final = "application/problem+json"
A = TypeVar("A", bound=Message)


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


def checked_url(url: str) -> httpx.URL:
    """The URL, if a service can be there; else ValueError."""
    try:
        parsed = httpx.URL(url.rstrip("/"))
    except httpx.InvalidURL as error:
        raise ValueError(f"url must be like {DEFAULT_URL}, got {url!r}: {error}") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ValueError(f"url must be like {DEFAULT_URL}, got {url!r}")
    return parsed


class SchedulerClient:
    """Calls a scheduler service. Thread-safe. Every call may be retried: asked twice, the service answers the same.

    url: of the service; None: BSS_URL in the environment, else http://127.0.0.1:8765. token: None: BSS_TOKEN in the
    environment, if set; "": none. timeout: seconds for a connection or an answer; a call that waits for feedback gets
    the job's patience on top. retries: how often a call is tried again after an outage, with growing pauses, before
    OutageError is raised. wire: how arrays travel; long requests always do as frames. verify: whose certificates are
    good; True: those that the system trusts, or SSL_CERT_FILE and SSL_CERT_DIR in the environment; a file of CA
    certificates (PEM); an ssl.SSLContext, which may hold a certificate of the client's own; False: anyone's. Proxies
    of the environment (HTTP_PROXY …) are not used.

    ValueError names the argument that is wrong. What waiting can't mend is raised by the first try of a call:
    CertificateError, StrangeAnswerError, and the refusals.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        token: str | None = None,
        timeout: float = 10.0,
        retries: int = 5,
        wire: Literal["frame", "json"] = "frame",
        verify: Verify = True,
    ) -> None:
        url, token = service_url(url), service_token(token)
        base_url = checked_url(url)
        context = trust(base_url, verify)
        headers = {PROTOCOL_HEADER: str(PROTOCOL)} | ({"authorization": f"Bearer {token}"} if token else {})
        self._made_of: dict[str, Any] = {
            "url": url,
            "token": token,
            "timeout": timeout,
            "wire": wire,
            "verify": context,
        }
        self._media_type = frames.CONTENT_TYPE if wire == "frame" else _JSON
        self._http = httpx.Client(base_url=base_url, headers=headers, timeout=timeout, verify=context, trust_env=False)
        self._met = threading.Event()  # the scheduler has answered here; those made of this client share it
        self._timeout = timeout
        self._retries = retries
        self._sockets: WeakSet[socket.socket] = WeakSet()
        self._aborted = False

    def without_retries(self) -> "SchedulerClient":
        """A client over the same connections that tries each call once."""
        once = copy(self)
        once._retries = 0
        return once

    def apart(self) -> "SchedulerClient":
        """A client of the same service that tries each call once, over connections of its own."""
        other = SchedulerClient(**self._made_of, retries=0)
        other._met = self._met
        return other

    def create_job(self, spec: JobSpec) -> JobState:
        """Create the job, or attach to it; ConflictError names the field in which a known job of the name differs.

        What `change_job` may change may differ, and stays as it is.
        """
        return self._call(JobState, "POST", "/v1/jobs", spec)

    def jobs(self) -> JobList:
        """All jobs by name."""
        return self._call(JobList, "GET", "/v1/jobs")

    def job(self, name: str) -> JobState:
        """Where a job is."""
        return self._call(JobState, "GET", f"/v1/jobs/{_quoted(name)}")

    def change_job(self, name: str, change: JobChange) -> JobState:
        """Change a job's horizon or patience."""
        return self._call(JobState, "PATCH", f"/v1/jobs/{_quoted(name)}", change)

    def delete_job(self, name: str) -> None:
        """Delete a job and all that is known of it."""
        try:
            self._send("DELETE", f"/v1/jobs/{_quoted(name)}")
        except UnknownJobError as error:
            if not error.after_retry:
                raise

    def attach(self, name: str, request: AttachRequest) -> AttachAnswer:
        """Take the place of a rank, or keep it; ConflictError where another has it (`field` "client") or had it."""
        return self._call(AttachAnswer, "PUT", f"/v1/jobs/{_quoted(name)}/trainers", request)

    def detach(self, name: str, client: str) -> None:
        """Give up a place: whoever comes next need not wait."""
        self._send("DELETE", f"/v1/jobs/{_quoted(name)}/trainers/{_quoted(client)}")

    def steps(self, name: str, request: StepsRequest, patience: float = 30.0) -> StepsAnswer:
        """Give feedback, take batches. patience: the job's, for which the service may hold the call."""
        return self._call(
            StepsAnswer, "POST", f"/v1/jobs/{_quoted(name)}/steps", request, timeout=self._timeout + patience
        )

    def batches(self, name: str, start: int, count: int = 1) -> Batches:
        """Batches handed out before; possibly fewer than `count`."""
        return self._call(Batches, "GET", f"/v1/jobs/{_quoted(name)}/batches?start={start}&count={count}")

    def feedback(self, name: str, request: FeedbackRequest) -> FeedbackAnswer:
        """Give feedback alone."""
        return self._call(FeedbackAnswer, "POST", f"/v1/jobs/{_quoted(name)}/feedback", request)

    def validation(self, name: str, report: ValidationReport) -> ValidationAnswer:
        """Report a validation."""
        return self._call(ValidationAnswer, "POST", f"/v1/jobs/{_quoted(name)}/validation", report)

    def scores(self, name: str, scores: Scores) -> ScoresAnswer:
        """Send a part of a measuring pass."""
        return self._call(ScoresAnswer, "PUT", f"/v1/jobs/{_quoted(name)}/scores", scores)

    def local_batches(self, name: str, local: LocalBatches) -> LocalBatchesAnswer:
        """Tell what was drawn while the service was out of reach."""
        return self._call(LocalBatchesAnswer, "POST", f"/v1/jobs/{_quoted(name)}/local-batches", local)

    def policy(self, name: str) -> PolicyAnswer:
        """The policy in force."""
        return self._call(PolicyAnswer, "GET", f"/v1/jobs/{_quoted(name)}/policy")

    def swap(
        self,
        name: str,
        policy: str,
        parameters: dict[str, Any] | None = None,
        at: Literal["now", "next_interval"] = "next_interval",
        *,
        shadow: bool = False,
    ) -> PolicyAnswer:
        """Swap the policy; the answer names the version and the first step that it draws.

        shadow: it draws nothing, and what it would have done stands beside each later decision.
        """
        request = SwapRequest(policy=PolicySpec(name=policy, parameters=parameters or {}), at=at, shadow=shadow)
        return self._call(PolicyAnswer, "PUT", f"/v1/jobs/{_quoted(name)}/policy", request)

    def end_shadow(self, name: str) -> None:
        """Let no policy watch the job any more."""
        try:
            self._send("DELETE", f"/v1/jobs/{_quoted(name)}/policy/shadow")
        except UnknownJobError as error:
            if not error.after_retry:
                raise

    def policies(self) -> PolicyList:
        """Installed policies, and the artefacts that were uploaded."""
        return self._call(PolicyList, "GET", "/v1/policies")

    def upload_policy(self, artefact: bytes) -> PolicyManifest:
        """Upload a trained policy; a job runs it as the policy `artefact` with the parameter `sha256`."""
        return self._read(PolicyManifest, self._send("POST", "/v1/policies", artefact, _BYTES))

    def upload_judge(self, artefact: bytes) -> JudgeManifest:
        """Upload a judge, which the policy `evidence` reads by where its parameter `judge` is the sha256."""
        return self._read(JudgeManifest, self._send("POST", "/v1/policies", artefact, _BYTES))

    def policy_file(self, sha256: str) -> bytes:
        """An artefact as it was uploaded."""
        return self._send("GET", f"/v1/policies/{_quoted(sha256)}/file").content

    def samples(self, name: str, order: Order = "label", limit: int = 100) -> SampleList:
        """The first samples in an order: "label" or "pair" (least likely right), "loss" or "draws" (highest)."""
        return self._call(SampleList, "GET", f"/v1/jobs/{_quoted(name)}/samples?order={order}&limit={limit}")

    def describe(self, name: str, told: SampleDescriptions) -> DescriptionList:
        """Let people see what samples show; which are described by now."""
        return self._call(DescriptionList, "PUT", f"/v1/jobs/{_quoted(name)}/descriptions", told)

    def observation(self, name: str, wait: float = 0.0) -> ObservationAnswer:
        """What the policy sees that draws the next interval. wait: seconds to be held until an action is awaited."""
        path = f"/v1/jobs/{_quoted(name)}/observation?wait={wait}"
        return self._call(ObservationAnswer, "GET", path, timeout=self._timeout + wait)

    def set_action(
        self,
        name: str,
        first_step: int,
        action: Sequence[float] | np.ndarray | str | dict[str, float | str],
        *,
        propensity: float = 1.0,
        detail: dict[str, Any] | None = None,
    ) -> ActionAnswer:
        """Act from outside, in the interval that begins at `first_step`, on a job whose policy is `external`.

        action: a vector (DIMENSION,), the name of an action, or fields of one. ConflictError: the interval is planned,
        or it is not the next one. pydantic.ValidationError names what is no action.
        """
        sent = action if isinstance(action, str | dict) else np.asarray(action, dtype=np.float64).tolist()
        request = ActionRequest(first_step=first_step, action=sent, propensity=propensity, detail=detail or {})
        return self._call(ActionAnswer, "PUT", f"/v1/jobs/{_quoted(name)}/action", request)

    def decisions(self, name: str, start: int = 0, count: int = 100) -> DecisionLog:
        """A part of the decision log."""
        return self._call(DecisionLog, "GET", f"/v1/jobs/{_quoted(name)}/decisions?start={start}&count={count}")

    def sample(self, name: str, index: int, draws: int = 10) -> SampleState:
        """Why a sample is drawn as it is."""
        return self._call(SampleState, "GET", f"/v1/jobs/{_quoted(name)}/samples/{index}?draws={draws}")

    def snapshot(self, name: str) -> bytes:
        """A job's whole state, for `put_snapshot`."""
        return self._send("GET", f"/v1/jobs/{_quoted(name)}/snapshot").content

    def put_snapshot(self, name: str, snapshot: bytes) -> JobState:
        """Create a job of this name from a snapshot."""
        try:
            response = self._send("PUT", f"/v1/jobs/{_quoted(name)}/snapshot", snapshot, frames.CONTENT_TYPE)
        except ConflictError as error:
            if not error.after_retry:
                raise
            return self.job(name)
        return self._read(JobState, response)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def abort(self) -> None:
        """Fail the calls that wait for an answer in other threads, and all later ones, with OutageError."""
        self._aborted = True
        for opened in list(self._sockets):
            _shut(opened)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _call(
        self, answer: type[A], method: str, path: str, message: Message | None = None, timeout: float | None = None
    ) -> A:
        content, media_type = None, self._media_type
        if message is not None and media_type == _JSON:
            content = message.model_dump_json().encode()
        if message is not None and (content is None or len(content) > LONG_JSON):
            content, media_type = message.to_frame(), frames.CONTENT_TYPE
        return self._read(answer, self._send(method, path, content, media_type, timeout))

    def _send(
        self,
        method: str,
        path: str,
        content: bytes | None = None,
        media_type: str | None = None,
        timeout: float | None = None,
    ) -> httpx.Response:
        headers = {"accept": self._media_type}
        if content is not None and media_type is not None:
            headers["content-type"] = media_type
        request = self._http.build_request(
            method,
            path,
            content=content,
            headers=headers,
            timeout=httpx.Timeout(timeout or self._timeout, connect=self._timeout),
            extensions={"trace": self._note_socket},
        )
        backoff = Backoff(tries=self._retries + 1)
        while True:
            try:
                return _accepted(self._answer(request), retried=backoff.failures > 0)
            except OutageError as outage:
                if not backoff.pause(outage.retry_after):
                    raise

    def _answer(self, request: httpx.Request) -> httpx.Response:
        """The service's answer to one try, a refusal perhaps. Raises OutageError where it gave none."""
        try:
            response = self._http.send(request)
        except httpx.RequestError as failure:
            raise self._no_answer(failure) from failure
        if response.status_code in _PASSING:
            outage = OutageError(f"{self._http.base_url} answered {response.status_code}: {_problem(response)[0]}")
            outage.retry_after = _retry_after(response)
            raise outage
        if not _is_the_schedulers(response):
            raise self._strange(response)
        return response

    def _no_answer(self, failure: httpx.RequestError) -> SchedulerError:
        error = tls_error(failure)
        if isinstance(error, ssl.SSLCertVerificationError) and not (self._met.is_set() and is_expired(error)):
            return CertificateError(f"{self._http.base_url} has a certificate that is {objection(error)}")
        if error is not None and not self._met.is_set():
            return StrangeAnswerError(f"{self._http.base_url} does not speak TLS as this client does: {error}")
        outage = OutageError(f"{self._http.base_url} did not answer: {type(failure).__name__} {failure}")
        outage.silent = isinstance(failure, httpx.TimeoutException)
        return outage

    def _read(self, answer: type[A], response: httpx.Response) -> A:
        try:
            message = answer.from_answer(response.content, response.headers.get("content-type", ""))
        except frames.FrameError as error:
            raise self._strange(response, f" ({error})") from None
        except pydantic.ValidationError as error:
            raise self._strange(response, f" ({_first_mistake(error)})") from None
        self._met.set()
        return message

    def _strange(self, response: httpx.Response, why: str = "") -> SchedulerError:
        """The error of an answer that is not the scheduler's: will it pass, because the scheduler is there?"""
        kind = OutageError if self._met.is_set() else StrangeAnswerError
        to = f" to {response.headers['location']}" if response.has_redirect_location else ""
        return kind(
            f"{self._http.base_url} gave an answer that is not the scheduler's, of status {response.status_code}{to}: "
            f"{response.content[:80]!r}{why}"
        )

    def _note_socket(self, event: str, details: dict[str, Any]) -> None:
        """Called by httpx as a request goes on."""
        if event in ("connection.connect_tcp.complete", "connection.start_tls.complete"):  # which has taken it over
            opened = details["return_value"].get_extra_info("socket")
            self._sockets.add(opened)
            if self._aborted:
                _shut(opened)


def _shut(opened: socket.socket) -> None:
    """Wake whoever waits for this socket; to close it would not."""
    with suppress(OSError):
        socket.socket.shutdown(opened, socket.SHUT_RDWR)  # TLS's own would let who waits read on, without TLS


def _is_the_schedulers(response: httpx.Response) -> bool:
    if response.status_code == httpx.codes.NO_CONTENT:
        return True
    kind = response.headers.get("content-type", "").partition(";")[0]
    return kind in ((_JSON, frames.CONTENT_TYPE, _BYTES) if response.is_success else (_PROBLEM,))


def _accepted(response: httpx.Response, retried: bool) -> httpx.Response:
    if response.is_success:
        return response
    detail, field, value = _problem(response)
    if field == UNKNOWN_CALL:
        raise StrangeAnswerError(f"{response.url} is no call of the service there: {detail}")
    error = refusal(response.status_code, detail, field, value)
    error.after_retry = retried
    raise error


def _problem(response: httpx.Response) -> tuple[str, str | None, Any]:
    """Detail, field and value of a problem; whatever else was answered, shortened."""
    try:
        problem = response.json()
        return problem["detail"], problem.get("field"), problem.get("value")
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"status {response.status_code}: {response.text[:200]}", None, None


def _first_mistake(error: pydantic.ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False)[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}, got {first['input']!r:.80}"


def _retry_after(response: httpx.Response) -> float:
    """Seconds that the service asks to wait, as far as that is sensible."""
    text = response.headers.get("retry-after", "")
    return min(float(text), MAX_PAUSE) if text.isdecimal() else 0.0


def _quoted(name: str) -> str:
    return quote(name, safe="")
