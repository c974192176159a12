"""The service's interface as Python calls."""

import os
import ssl
import sys
import threading
import time
from collections.abc import Callable, Sequence
from copy import copy
from functools import partial
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeVar
from urllib.parse import quote

import httpx
import numpy as np
import pydantic
import pydantic_core

from bss_service.core.arrays import Int64, UInt16
from bss_service.protocol import frames
from bss_service.protocol.actions import ActionAnswer, ActionRequest, ObservationAnswer
from bss_service.protocol.artefacts import JudgeManifest, PolicyManifest
from bss_service.protocol.decisions import DecisionLog
from bss_service.protocol.jobs import GroupsAnswer, JobChange, JobList, JobSpec, JobState, SampleGroups
from bss_service.protocol.message import AT_WORK, INCARNATION_HEADER, PROTOCOL, PROTOCOL_HEADER, UNKNOWN_CALL, Message
from bss_service.protocol.policies import PolicyAnswer, PolicyList, PolicySpec, SwapRequest
from bss_service.protocol.samples import (
    DescriptionList,
    KeysAnswer,
    Order,
    SampleDescriptions,
    SampleKeys,
    SampleList,
    SampleState,
)
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
    Window,
    WindowAnswer,
)
from bss_service.protocol.validation import Comparison, ValidationAnswer, ValidationLog, ValidationReport
from trainer_client import answers
from trainer_client.errors import (
    BrokenAnswerError,
    CertificateError,
    ConflictError,
    OutageError,
    SchedulerError,
    StrangeAnswerError,
    TooEarlyError,
    UnknownJobError,
    refusal,
)
from trainer_client.http.owners import Owners
from trainer_client.http.transport import FAILURES, Answer
from trainer_client.http.trust import Verify, is_expired, objection, tls_error, trust
from trainer_client.retry import PAUSES, Backoff

DEFAULT_URL: Final = "http://127.0.0.1:8765"
MAX_PAUSE: Final = 60.0  # seconds, whatever a Retry-After says
MAX_ANSWER: Final = 256 * 2**20  # bytes, as the service takes by default
TRIES: Final = 3  # of a call whose answer can't be right, before that is told
DETAIL: Final = 2000  # characters of a refusal that are told
MISTAKES: Final = 1000  # in an answer, above which they are but counted
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
    labels = parsed.raw_host.removesuffix(b".").split(b".")
    if parsed.scheme not in ("http", "https") or not all(0 < len(label) < 64 for label in labels):
        raise ValueError(f"url must be like {DEFAULT_URL}, got {url!r}")
    return parsed


class SchedulerClient:
    """Calls a scheduler service. Thread-safe. Every call may be retried: asked twice, the service answers the same.

    url: of the service; None: BSS_URL in the environment, else http://127.0.0.1:8765. token: None: BSS_TOKEN in the
    environment, if set; "": none. timeout: seconds for a call with its whole answer, and one more for each 64 KiB of
    both; a call that waits for feedback gets the job's patience on top. retries: how often a call is tried again after
    an outage, with growing pauses, before OutageError is raised. wire: how arrays travel; long requests always do as
    frames. max_answer: bytes that any answer may have, as the service's `max_body_bytes`; most calls allow for less,
    and it matters for snapshots alone. verify: whose certificates are
    good; True: those that the system trusts, or SSL_CERT_FILE and SSL_CERT_DIR in the environment; a file of CA
    certificates (PEM); an ssl.SSLContext, which may hold a certificate of the client's own; False: anyone's. Proxies
    of the environment (HTTP_PROXY …) are not used.

    ValueError names the argument that is wrong. What waiting can't mend is raised by the first try of a call:
    CertificateError, StrangeAnswerError, and the refusals. Nothing in an answer is taken on trust: one that does not
    fit what was asked is asked for again at once, and raised as BrokenAnswerError if it still does not.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        token: str | None = None,
        timeout: float = 10.0,
        retries: int = 5,
        wire: Literal["frame", "json"] = "frame",
        max_answer: int = MAX_ANSWER,
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
            "max_answer": max_answer,
            "verify": context,
        }
        self._media_type = frames.CONTENT_TYPE if wire == "frame" else _JSON
        self._transport = Owners(base_url, headers, context, timeout)
        self._base_url = base_url
        self._met = threading.Event()  # the scheduler has answered here; those made of this client share it
        self._timeout = timeout
        self._retries = retries
        self._incarnation: str | None = None
        self._max_answer = max_answer

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

    def bind(self, incarnation: str | None) -> None:
        """Say with each call which job is trained with; another one of its name refuses it (`field` "incarnation")."""
        self._incarnation = incarnation

    def create_job(self, spec: JobSpec) -> JobState:
        """Create the job, or attach to it; ConflictError names the field in which a known job of the name differs.

        What `change_job` may change may differ, and stays as it is.
        """
        return self._call(JobState, "POST", "/v1/jobs", spec, check=partial(answers.of_job, name=spec.name, spec=spec))

    def jobs(self) -> JobList:
        """All jobs by name."""
        return self._call(JobList, "GET", "/v1/jobs", check=answers.of_jobs)

    def job(self, name: str) -> JobState:
        """Where a job is."""
        return self._call(JobState, "GET", f"/v1/jobs/{_quoted(name)}", check=partial(answers.of_job, name=name))

    def change_job(self, name: str, change: JobChange) -> JobState:
        """Change a job's horizon or patience, or let it have more samples; ConflictError where it had to shrink."""
        check = partial(answers.of_change, name=name, change=change)
        return self._call(JobState, "PATCH", f"/v1/jobs/{_quoted(name)}", change, check=check)

    def delete_job(self, name: str) -> None:
        """Delete a job and all that is known of it."""
        try:
            self._send("DELETE", f"/v1/jobs/{_quoted(name)}")
        except UnknownJobError as error:
            if not error.after_retry:
                raise

    def attach(self, name: str, request: AttachRequest) -> AttachAnswer:
        """Take the place of a rank, or keep it; ConflictError where another has it (`field` "client") or had it."""
        path = f"/v1/jobs/{_quoted(name)}/trainers"
        return self._call(AttachAnswer, "PUT", path, request, check=answers.of_attachment)

    def detach(self, name: str, client: str) -> None:
        """Give up a place: whoever comes next need not wait."""
        self._send("DELETE", f"/v1/jobs/{_quoted(name)}/trainers/{_quoted(client)}")

    def steps(
        self, name: str, request: StepsRequest, patience: float = 30.0, *, spec: JobSpec | None = None
    ) -> StepsAnswer:
        """Give feedback, take batches. patience: the job's, for which the service may hold the call.

        spec: the job's: samples, widths, weights and epochs are held against it. None: what can be without it.
        """
        fed = 0 if request.feedback is None else len(request.feedback.step)
        try:
            return self._call(
                StepsAnswer,
                "POST",
                f"/v1/jobs/{_quoted(name)}/steps",
                request,
                timeout=self._timeout + patience,
                most=answers.size_of_batches(request.count, spec, self._max_answer),
                check=partial(answers.of_steps, start=request.start, count=request.count, fed=fed, spec=spec),
            )
        except TooEarlyError:
            answers.require(request.rank != 0, "status", "must not be 425 for rank 0, which waits for no other", 425)
            raise

    def batches(self, name: str, start: int, count: int = 1, *, spec: JobSpec | None = None) -> Batches:
        """Batches handed out before; possibly fewer than `count`. spec: as of `steps`."""
        return self._call(
            Batches,
            "GET",
            f"/v1/jobs/{_quoted(name)}/batches?start={start}&count={count}",
            most=answers.size_of_batches(count, spec, self._max_answer),
            check=partial(answers.of_batches, start=start, count=count, spec=spec),
        )

    def feedback(self, name: str, request: FeedbackRequest) -> FeedbackAnswer:
        """Give feedback alone."""
        check = partial(answers.of_feedback, steps=len(request.feedback.step))
        return self._call(FeedbackAnswer, "POST", f"/v1/jobs/{_quoted(name)}/feedback", request, check=check)

    def validation(self, name: str, report: ValidationReport) -> ValidationAnswer:
        """Report a validation."""
        return self._call(ValidationAnswer, "POST", f"/v1/jobs/{_quoted(name)}/validation", report)

    def scores(self, name: str, scores: Scores) -> ScoresAnswer:
        """Send a part of a measuring pass."""
        sent = len(scores.indices)

        def check(answer: ScoresAnswer) -> None:
            answers.require(answer.accepted == sent, "accepted", f"must be {sent}, as sent", answer.accepted)

        return self._call(ScoresAnswer, "PUT", f"/v1/jobs/{_quoted(name)}/scores", scores, check=check)

    def set_groups(self, name: str, groups: UInt16) -> GroupsAnswer:
        """Tell which group each sample is of, (n,), of those that the job declares; plans from the next on go by it."""
        message = SampleGroups(groups=groups)
        path = f"/v1/jobs/{_quoted(name)}/groups"
        return self._call(GroupsAnswer, "PUT", path, message, check=answers.of_groups)

    def register_keys(self, name: str, keys: Sequence[str], *, spec: JobSpec | None = None) -> KeysAnswer:
        """The index of each of at most 4,096 keys, the same whenever and whoever asks; new ones get the next.

        A job that has fewer samples than keys then has grown. pydantic.ValidationError names a key that is too long.
        spec: as of `steps`.
        """
        path, check = f"/v1/jobs/{_quoted(name)}/keys", partial(answers.of_keys, keys=keys, spec=spec)
        return self._call(KeysAnswer, "POST", path, SampleKeys(keys=list(keys)), check=check)

    def open_window(self, name: str, first_step: int, samples: Int64) -> WindowAnswer:
        """Say what was read ahead of a stream: samples (w,), a whole number of batches, that come from a step on."""
        window = Window(first_step=first_step, samples=np.asarray(samples, dtype=np.int64))
        check = partial(answers.of_window, window=window)
        return self._call(WindowAnswer, "PUT", f"/v1/jobs/{_quoted(name)}/window", window, check=check)

    def local_batches(self, name: str, local: LocalBatches) -> LocalBatchesAnswer:
        """Tell what was drawn while the service was out of reach; as `LocalBatchesRequest` by who holds a place."""
        return self._call(LocalBatchesAnswer, "POST", f"/v1/jobs/{_quoted(name)}/local-batches", local)

    def policy(self, name: str) -> PolicyAnswer:
        """The policy in force."""
        return self._call(PolicyAnswer, "GET", f"/v1/jobs/{_quoted(name)}/policy", check=answers.of_policy)

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
        check = partial(answers.of_policy, request=request)
        return self._call(PolicyAnswer, "PUT", f"/v1/jobs/{_quoted(name)}/policy", request, check=check)

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
        check = partial(answers.of_upload, artefact=artefact)
        return self._asked(PolicyManifest, "POST", "/v1/policies", artefact, _BYTES, check=check)

    def upload_judge(self, artefact: bytes) -> JudgeManifest:
        """Upload a judge, which the policy `evidence` reads by where its parameter `judge` is the sha256."""
        check = partial(answers.of_upload, artefact=artefact)
        return self._asked(JudgeManifest, "POST", "/v1/policies", artefact, _BYTES, check=check)

    def policy_file(self, sha256: str) -> bytes:
        """An artefact as it was uploaded, if its content has that hash."""
        answer = self._send("GET", f"/v1/policies/{_quoted(sha256)}/file")
        answers.of_artefact(answer.content, sha256)
        return answer.content

    def samples(
        self, name: str, order: Order = "label", limit: int = 100, *, spec: JobSpec | None = None
    ) -> SampleList:
        """The first samples in an order: "label" or "pair" (least likely right), "loss" or "draws" (highest).

        spec: as of `steps`.
        """
        path = f"/v1/jobs/{_quoted(name)}/samples?order={_quoted(order)}&limit={limit}"
        check = partial(answers.of_samples, order=order, limit=limit, spec=spec)
        return self._call(SampleList, "GET", path, check=check)

    def describe(self, name: str, told: SampleDescriptions) -> DescriptionList:
        """Let people see what samples show; which are described by now."""
        path, check = f"/v1/jobs/{_quoted(name)}/descriptions", partial(answers.of_descriptions, told=told)
        return self._call(DescriptionList, "PUT", path, told, check=check)

    def observation(self, name: str, wait: float = 0.0) -> ObservationAnswer:
        """What the policy sees that draws the next interval. wait: seconds to be held until an action is awaited."""
        path = f"/v1/jobs/{_quoted(name)}/observation?wait={wait}"
        timeout = self._timeout + wait
        return self._call(ObservationAnswer, "GET", path, timeout=timeout, check=answers.of_observation)

    def set_action(
        self,
        name: str,
        first_step: int,
        action: Sequence[float] | np.ndarray | str | dict[str, Any],
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
        check = partial(answers.of_action, request=request)
        return self._call(ActionAnswer, "PUT", f"/v1/jobs/{_quoted(name)}/action", request, check=check)

    def decisions(self, name: str, start: int = 0, count: int = 100) -> DecisionLog:
        """A part of the decision log."""
        path = f"/v1/jobs/{_quoted(name)}/decisions?start={start}&count={count}"
        return self._call(DecisionLog, "GET", path, check=partial(answers.of_decisions, start=start, count=count))

    def validations(self, name: str, start: int = 0, count: int = 1000) -> ValidationLog:
        """The first `count` validation reports of step `start` or a later one."""
        path = f"/v1/jobs/{_quoted(name)}/validation?start={start}&count={count}"
        return self._call(ValidationLog, "GET", path, check=partial(answers.of_validations, start=start, count=count))

    def compare(self, *names: str) -> Comparison:
        """Whether the policies of jobs help; InvalidValueError names what keeps them from being compared."""
        query = "&".join(f"job={_quoted(name)}" for name in names)
        check = partial(answers.of_comparison, names=names)
        return self._call(Comparison, "GET", f"/v1/compare?{query}", check=check)

    def sample(self, name: str, index: int, draws: int = 10) -> SampleState:
        """Why a sample is drawn as it is."""
        path = f"/v1/jobs/{_quoted(name)}/samples/{index}?draws={draws}"
        return self._call(SampleState, "GET", path, check=partial(answers.of_sample, index=index, draws=draws))

    def snapshot(self, name: str) -> bytes:
        """A job's whole state, for `put_snapshot`."""
        return self._send("GET", f"/v1/jobs/{_quoted(name)}/snapshot", most=self._max_answer).content

    def put_snapshot(self, name: str, snapshot: bytes) -> JobState:
        """Create a job of this name from a snapshot."""
        path, check = f"/v1/jobs/{_quoted(name)}/snapshot", partial(answers.of_job, name=name)
        try:
            return self._asked(JobState, "PUT", path, snapshot, frames.CONTENT_TYPE, check=check)
        except ConflictError as error:
            if not error.after_retry:
                raise
            return self.job(name)

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def abort(self) -> None:
        """Fail the calls that wait for an answer in other threads, and all later ones, with OutageError."""
        self._transport.abort()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _call(
        self,
        answer: type[A],
        method: str,
        path: str,
        message: Message | None = None,
        timeout: float | None = None,
        most: int = answers.MAX_MESSAGE,
        check: Callable[[A], None] | None = None,
    ) -> A:
        content, media_type = None, self._media_type
        if message is not None and media_type == _JSON:
            content = message.model_dump_json().encode()
        if message is not None and (content is None or len(content) > LONG_JSON):
            content, media_type = message.to_frame(), frames.CONTENT_TYPE
        return self._asked(answer, method, path, content, media_type, timeout, most, check)

    def _asked(
        self,
        answer: type[A],
        method: str,
        path: str,
        content: bytes | None = None,
        media_type: str | None = None,
        timeout: float | None = None,
        most: int = answers.MAX_MESSAGE,
        check: Callable[[A], None] | None = None,
    ) -> A:
        """The message that answers a call. check: raises BrokenAnswerError where it can't be right."""
        backoff = Backoff(tries=TRIES)
        while True:
            try:
                message = self._read(answer, self._send(method, path, content, media_type, timeout, most), most)
                if check is not None:
                    check(message)
                return message
            except BrokenAnswerError as broken:
                if not backoff.pause():
                    detail = f"{self._base_url} answered {method} {path} by what can't be right: {broken.args[0]}"
                    raise BrokenAnswerError(detail, broken.field, broken.value) from None

    def _send(
        self,
        method: str,
        path: str,
        content: bytes | None = None,
        media_type: str | None = None,
        timeout: float | None = None,
        most: int = answers.MAX_MESSAGE,
    ) -> Answer:
        headers = {"accept": self._media_type, **traceparent()}
        if self._incarnation is not None:
            headers[INCARNATION_HEADER] = self._incarnation
        if content is not None and media_type is not None:
            headers["content-type"] = media_type
        seconds = timeout or self._timeout
        backoff = Backoff(tries=self._retries + 1)
        while True:
            try:
                answer = self._answer(partial(self._transport.request, method, path, content, headers), seconds, most)
                return _accepted(answer, retried=backoff.failures > 0)
            except OutageError as outage:
                if outage.at_work and self._retries:
                    time.sleep(max(PAUSES[-1], outage.retry_after))
                elif not backoff.pause(outage.retry_after):
                    raise

    def _answer(self, request: Callable[..., Answer], seconds: float, most: int) -> Answer:
        """The service's answer to one try, a refusal perhaps. Raises OutageError where it gave none."""
        try:
            answer = request(seconds=seconds, most=most)
        except FAILURES as failure:
            raise self._no_answer(failure) from failure
        if answer.status in _PASSING:
            detail, field, _ = _problem(answer)
            outage = OutageError(f"{self._base_url} answered {answer.status}: {detail}")
            outage.retry_after, outage.at_work = _retry_after(answer), field == AT_WORK
            raise outage
        if not _is_the_schedulers(answer):
            raise self._strange(answer)
        if answer.is_success and answer.fault is not None:
            field, rule, value = answer.fault
            raise BrokenAnswerError(f"{field} {rule}, got {value!r:.80}", field, value)
        return answer

    def _no_answer(self, failure: Exception) -> SchedulerError:
        error = tls_error(failure)
        if isinstance(error, ssl.SSLCertVerificationError) and not (self._met.is_set() and is_expired(error)):
            return CertificateError(f"{self._base_url} has a certificate that is {objection(error)}")
        if error is not None and not self._met.is_set():
            return StrangeAnswerError(f"{self._base_url} does not speak TLS as this client does: {error}")
        outage = OutageError(f"{self._base_url} did not answer: {type(failure).__name__} {failure}")
        outage.silent = isinstance(failure, TimeoutError)
        return outage

    def _read(self, kind: type[A], answer: Answer, most: int) -> A:
        try:
            answers.check_parts(answer.content, answer.media_type, most)
            message = kind.from_answer(answer.content, answer.media_type)
        except frames.FrameError as error:
            raise self._unreadable(answer, "body", str(error), answer.content[:80]) from None
        except pydantic.ValidationError as error:
            raise self._unreadable(answer, *_first_mistake(error)) from None
        self._met.set()
        return message

    def _unreadable(self, answer: Answer, field: str, reason: str, value: Any) -> SchedulerError:
        """The error of an answer that is of the scheduler's type, but none of its messages."""
        if not self._met.is_set():
            return self._strange(answer, f" ({field}: {reason}, got {value!r:.80})")
        return BrokenAnswerError(f"{field}: {reason}, got {value!r:.80}", field, value)

    def _strange(self, answer: Answer, why: str = "") -> SchedulerError:
        """The error of an answer that is not the scheduler's: will it pass, because the scheduler is there?"""
        kind = OutageError if self._met.is_set() else StrangeAnswerError
        to = f" to {answer.headers['location']}" if 300 <= answer.status < 400 and "location" in answer.headers else ""
        return kind(
            f"{self._base_url} gave an answer that is not the scheduler's, of status {answer.status}{to}: "
            f"{answer.content[:80]!r}{why}"
        )


def _is_the_schedulers(answer: Answer) -> bool:
    if answer.status == httpx.codes.NO_CONTENT:
        return True
    if answer.status < 200 or 300 <= answer.status < 400:  # to where nobody is followed
        return False
    return answer.media_type in ((_JSON, frames.CONTENT_TYPE, _BYTES) if answer.is_success else (_PROBLEM,))


def _accepted(answer: Answer, retried: bool) -> Answer:
    if answer.is_success:
        return answer
    detail, field, value = _problem(answer)
    if field == UNKNOWN_CALL or answer.status == httpx.codes.METHOD_NOT_ALLOWED:
        raise StrangeAnswerError(f"{answer.url} is no call of the service there: {detail}")
    error = refusal(answer.status, detail, field, value)
    error.after_retry = retried
    raise error


def _problem(answer: Answer) -> tuple[str, str | None, Any]:
    """Detail, field and value of a problem; whatever else was answered, shortened."""
    try:
        problem = pydantic_core.from_json(answer.content)  # nested at most 200 deep
    except ValueError:
        problem = None
    if not isinstance(problem, dict) or not isinstance(problem.get("detail"), str):
        return f"status {answer.status}: {answer.content[:200].decode(errors='replace')}", None, None
    field = problem.get("field")
    return problem["detail"][:DETAIL], field if isinstance(field, str) else None, problem.get("value")


def _first_mistake(error: pydantic.ValidationError) -> tuple[str, str, Any]:
    """Field, reason and value."""
    if (count := error.error_count()) > MISTAKES:  # each costs a thousand bytes to look at
        return error.title, f"{count} fields are wrong", count
    first = error.errors(include_url=False, include_context=False)[0]
    return ".".join(map(str, first["loc"])) or error.title, first["msg"], first["input"]


def _retry_after(answer: Answer) -> float:
    """Seconds that the service asks to wait, as far as that is sensible."""
    text = answer.headers.get("retry-after", "")
    return min(float(text), MAX_PAUSE) if text.isdecimal() else 0.0


def traceparent() -> dict[str, str]:
    """The header by which W3C Trace Context names the span of OpenTelemetry that is active here; empty if none is."""
    trace = sys.modules.get("opentelemetry.trace")  # who has a span has imported it
    if trace is None:
        return {}
    span = trace.get_current_span().get_span_context()
    if not span.is_valid:
        return {}
    return {"traceparent": f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}"}


def _quoted(name: str) -> str:
    return quote(name, safe="")
