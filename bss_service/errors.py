"""What can go wrong with a request, as one tree: each error knows its status and says a sentence with the value."""

from typing import Any


class BssError(Exception):
    """Base of all expected failures. `field` and `value` name what was wrong, where one thing was."""

    status = 500
    title = "Internal error"

    def __init__(self, detail: str, *, field: str | None = None, value: Any = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.field = field
        self.value = value


class InvalidValueError(BssError):
    """A value does not fit the job it was sent to."""

    status = 422
    title = "Invalid value"


class ConflictError(BssError):
    """The request contradicts what the service already knows."""

    status = 409
    title = "Conflict"


class UnknownStepError(ConflictError):
    """A step that has not been handed out."""

    title = "Unknown step"


class GoneError(BssError):
    """The batches of a step are kept no longer, as its job asks for."""

    status = 410
    title = "Gone"


class TooEarlyError(BssError):
    """A rank other than 0 asks for an interval that rank 0 has not asked for; it may ask again at once."""

    status = 425
    title = "Too early"


class HostHeaderError(BssError):
    """The Host header is missing, or there are several."""

    status = 400
    title = "Bad request"


class MisdirectedError(HostHeaderError):
    """The Host header names nothing that the service answers for; a web page perhaps made its name point here."""

    status = 421
    title = "Misdirected request"


class NotFoundError(BssError):
    """There is no such job, policy or sample."""

    status = 404
    title = "Not found"


class TooLargeError(BssError):
    """The request would take more memory than the service gives to one."""

    status = 413
    title = "Too large"


class NoRoomError(BssError):
    """Memory or disk that the service may take is taken; nothing of the request was kept."""

    status = 507
    title = "Insufficient storage"


class NotReproducibleError(BssError):
    """The journal does not reproduce what was handed out: a policy is not a function of its inputs, or bytes rotted."""

    title = "Not reproducible"


class StoreError(BssError):
    """The store did not take or give what was asked; nothing of the request was kept."""

    status = 503
    title = "Store unavailable"


class StoreLostError(StoreError):
    """The store is not this service's any more: another has taken it over, or its file is not where it was.

    Nothing is stored or told from then on. It is an outage, which ends when somebody has restarted the service.
    """

    title = "Store lost"
    retry_after = 10.0  # nothing changes by itself

    def __init__(self, detail: str) -> None:
        super().__init__(detail, field="store")


class PlanningError(BssError):
    """The service draws an interval of the job, which takes long: it is there, and may be asked again."""

    status = 503
    title = "Planning"


class UnownedError(StoreError):
    """No service owns the job at the moment, as far as this one can know: soon one will."""

    title = "No owner"


class MovedError(BssError):
    """Another of the services that share the store owns the job."""

    status = 307
    title = "Temporary redirect"

    def __init__(self, job: str, address: str) -> None:
        """address: of the other, as it is set there; never a part of a request."""
        super().__init__(f"job {job!r} is served by {address}", field="owner", value=address)
        self.address = address


class StoppedError(StoreError):
    """The service stops, and what takes long is not done to its end; who asked asks again."""

    def __init__(self) -> None:
        super().__init__("the service stops: ask again")


class MalformedError(BssError):
    """The body is neither JSON nor a frame."""

    status = 400
    title = "Malformed body"


class UnsupportedMediaTypeError(BssError):
    """The body's type is neither JSON nor a frame."""

    status = 415
    title = "Unsupported media type"


class SlowBodyError(BssError):
    """The body does not come; whoever sends it holds a connection and memory."""

    status = 408
    title = "Request timeout"


class CutBodyError(BssError):
    """The client has gone before its body was here; nobody reads this answer."""

    status = 400
    title = "Incomplete body"


class UnauthorisedError(BssError):
    """The token is missing or wrong."""

    status = 401
    title = "Unauthorised"


class ForbiddenError(BssError):
    """The token's scope does not reach."""

    status = 403
    title = "Forbidden"


class OldClientError(BssError):
    """The client speaks a protocol that the service no longer understands."""

    status = 426
    title = "Upgrade required"


class TooManyError(BssError):
    """The client asks too often; after `retry_after` seconds it may ask again."""

    status = 429
    title = "Too many requests"

    def __init__(self, detail: str, retry_after: float) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class BusyError(BssError):
    """Other requests have the memory for bodies."""

    status = 503
    title = "Busy"


class UnsupportedSystemError(BssError):
    """The operating system lacks what the service needs."""


class UnguardedError(BssError):
    """Others could reach the service, and none of them would need a token."""
