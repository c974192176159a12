"""What can go wrong with the scheduler, as one tree."""

from typing import Any

from bss_service.protocol.text import printable


class SchedulerError(Exception):
    """Base of all failures of the trainer's client. Its text may hold what others wrote, and is safe to print."""

    def __str__(self) -> str:
        return printable(super().__str__())


class OutageError(SchedulerError):
    """The service could not be reached, or could not answer for now; asking again later may help."""

    retry_after = 0.0  # seconds after which the service wants to be asked again
    at_work = False  # whether the service says that it is there, and works on what this waits for
    silent = False  # whether no answer came in time: then the service may have been away for all of the call


class StrangeAnswerError(SchedulerError):
    """What answered is not the scheduler: most likely the URL is wrong. Waiting won't help.

    A client that had a right answer from the same URL before raises OutageError instead: then it is a box between here
    and there, and will pass.
    """


class BrokenAnswerError(SchedulerError):
    """The service's answer can't be right: `field` and `value` say what is wrong with it.

    It was asked again, and answered so each time. That is no outage: neither waiting nor going on without it would be
    what the user chose, so a run ends by this error whatever `on_outage` says. Its checkpoint holds what was not sent.
    """

    def __init__(self, detail: str, field: str, value: Any = None) -> None:
        super().__init__(detail)
        self.field = field
        self.value = value


class CertificateError(SchedulerError):
    """The service's certificate is not trusted, or not for the host of the URL. Waiting won't help."""


class RefusedError(SchedulerError):
    """The service refused a request; asking again won't help. `field` and `value` say what was wrong."""

    def __init__(self, status: int, detail: str, field: str | None = None, value: Any = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.field = field
        self.value = value
        self.after_retry = False  # an earlier try of the same call may have done what it asked


class UnknownJobError(RefusedError):
    """404: there is no such job."""


class ConflictError(RefusedError):
    """409: the request contradicts what the service knows."""


class GoneError(RefusedError):
    """410: a step's batch is kept no longer, by the job's `keep_epochs`; the sentence names the first that is."""


class JobExistsError(ConflictError):
    """The job was handed out to an earlier run, and this one did not say that it goes on with that."""

    def __init__(self, error: ConflictError, job: str) -> None:
        super().__init__(
            error.status,
            f"{error.detail}: give this run another name, or if_exists='new' for a job of its own ({job}-2, …), or go "
            "on with the earlier one by if_exists='resume' or load_state_dict of its checkpoint",
            error.field,
            error.value,
        )


class OtherJobError(ConflictError):
    """The job is another than the run or the checkpoint is of, or its store was restored from an earlier backup."""


class InvalidValueError(RefusedError):
    """400, 413, 415 or 422: a value the service can't take."""


class UnauthorisedError(RefusedError):
    """401: the token is missing, wrong, revoked or expired."""


class ForbiddenError(RefusedError):
    """403: the token is good, but its scope is not enough; the sentence names the one that is needed."""


class OldClientError(RefusedError):
    """426: the service no longer speaks the protocol of this client, which is to be upgraded."""


class TooEarlyError(RefusedError):
    """425: rank 0 has not asked for this interval yet; asking again helps."""


class LagError(SchedulerError):
    """The loader has pulled more batches ahead than the job's `lag` allows for."""


class DoubleShardingError(SchedulerError, ValueError):
    """The sampler's batches, which are its rank's share already, were about to be shared out once more."""


class DoubleSkipError(SchedulerError, ValueError):
    """A framework was about to skip batches that the sampler has skipped already."""

    def __init__(self, batches: int) -> None:
        super().__init__(
            f"the loop skips {batches} batches, but this sampler goes on where training is: give transformers' "
            "TrainingArguments ignore_data_skip=True, and keep accelerate.skip_first_batches away from its loader"
        )


class SecondIterationError(SchedulerError):
    """An iteration went on after another one over the same sampler had begun."""


class LabelError(SchedulerError, ValueError):
    """A label is neither a class nor the `ignore_index` of samples that have none."""


_OF_STATUS: dict[int, type[RefusedError]] = {
    401: UnauthorisedError,
    403: ForbiddenError,
    404: UnknownJobError,
    409: ConflictError,
    410: GoneError,
    425: TooEarlyError,
    426: OldClientError,
}


def refusal(status: int, detail: str, field: str | None, value: Any) -> RefusedError:
    """The error of a status."""
    kind = _OF_STATUS.get(status, InvalidValueError if status < 500 else RefusedError)
    if kind is ConflictError and field == "incarnation":
        kind = OtherJobError
    return kind(status, detail, field, value)
