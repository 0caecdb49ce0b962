"""Everything that can go wrong with a request; each class owns its status and its type."""

from typing import Any, ClassVar


class ServiceError(Exception):
    """An answer other than success.

    Attributes:
        status: the HTTP status.
        type: a stable word for programs.
        message: a sentence for people: what was wrong and what is right.
        details: further fields of the body, such as `row` and `timestep`.
    """

    status: ClassVar[int] = 500
    type: ClassVar[str] = "internal"

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details = {key: value for key, value in details.items() if value is not None}

    @property
    def headers(self) -> dict[str, str]:
        """Headers that go with the answer."""
        return {}

    def body(self) -> dict[str, Any]:
        """The answer as JSON."""
        return {"error": {"type": self.type, "message": self.message, **self.details}}


class UnparseableError(ServiceError):
    """The body is not of the form that its content type promises."""

    status = 400
    type = "unparseable"


class UnauthorizedError(ServiceError):
    """No key, or a wrong one."""

    status = 401
    type = "unauthorized"

    @property
    def headers(self) -> dict[str, str]:
        return {"WWW-Authenticate": "Bearer"}


class OriginError(ServiceError):
    """A page may not ask so: for its origin, its method or its headers."""

    status = 400
    type = "origin_not_allowed"


class UnknownPathError(ServiceError):
    """Nothing is served at this path."""

    status = 404
    type = "not_found"


class UnknownMethodError(ServiceError):
    """There is no such method of gRPC."""

    status = 501
    type = "unknown_method"


class WrongMethodError(ServiceError):
    """The path does not take this method."""

    status = 405
    type = "method_not_allowed"

    @property
    def headers(self) -> dict[str, str]:
        return {"Allow": self.details["allow"]} if "allow" in self.details else {}


class NotAcceptableError(ServiceError):
    """`Accept` names no form that the answer can have."""

    status = 406
    type = "not_acceptable"


class SlowBodyError(ServiceError):
    """The body did not arrive in time."""

    status = 408
    type = "body_too_slow"

    @property
    def headers(self) -> dict[str, str]:
        return {"Connection": "close"}


class SlowHeadersError(ServiceError):
    """The request's line and headers did not arrive in time."""

    status = 408
    type = "headers_too_slow"


class HeadersTooLargeError(ServiceError):
    """The request's line and headers are over the limit."""

    status = 431
    type = "headers_too_large"


class ReloadError(ServiceError):
    """The packed file cannot be loaded again; the old model goes on."""

    status = 409
    type = "reload_failed"


class BodyTooLargeError(ServiceError):
    """The body is over the limit."""

    status = 413
    type = "body_too_large"


class UnsupportedMediaTypeError(ServiceError):
    """`Content-Type` is none that the service reads."""

    status = 415
    type = "unsupported_media_type"


class InvalidError(ServiceError):
    """The body can be parsed, but its content is wrong."""

    status = 422
    type = "invalid"


class QueueFullError(ServiceError):
    """More is waiting than the queue takes; `retry_after` seconds will help."""

    status = 429
    type = "queue_full"

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message, retry_after=retry_after)
        self.retry_after = retry_after

    @property
    def headers(self) -> dict[str, str]:
        return {"Retry-After": str(self.retry_after)}


class UnavailableError(ServiceError):
    """The service is not ready, is draining, or its engine has failed."""

    status = 503
    type = "unavailable"

    @property
    def headers(self) -> dict[str, str]:
        return {"Retry-After": "1"}


class StoppedError(UnavailableError):
    """The service stops, and waits no longer for the request."""

    def __init__(self) -> None:
        super().__init__("the service stops, and this was not done in time")


class DeadlineError(ServiceError):
    """The request's own time limit passed before it was answered."""

    status = 504
    type = "deadline_passed"


class ClientGoneError(ServiceError):
    """The client left; nobody reads this answer."""

    status = 499
    type = "client_gone"
