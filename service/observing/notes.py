"""What the log lines of a request say of it: its ids, and what whoever handles it adds.

A client's `X-Request-ID` is kept if it is short and plain, otherwise one is made. The trace id of a
W3C `traceparent` is noted too.
"""

import logging
import re
from contextvars import ContextVar
from random import getrandbits
from typing import Any

from structlog.types import EventDict

from tritserve.service.errors import ServiceError

# What errors tell of a request beside their type. The message is none of them: it may quote what
# was sent.
_TOLD = ("field", "row", "timestep", "limit", "size")
# Of a field that a client made up, only a plain name is logged.
_FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")

# One dictionary for each request: a variable for each field would cost a good part of what
# answering a small request does.
_fields: ContextVar[dict[str, Any] | None] = ContextVar("fields", default=None)

# Says whether lines are wanted; where nobody has set up logging, none are.
levels = logging.getLogger("tritserve.access")


def note(**fields: Any) -> None:
    """Adds fields to the further log lines of the current request, if there is one."""
    noted = _fields.get()
    if noted is not None:
        noted.update(fields)


def note_refusal(error: ServiceError) -> None:
    """Notes why the current request is refused: the error's type, and where it was found."""
    told = {name: error.details[name] for name in _TOLD if name in error.details}
    if not _FIELD.fullmatch(str(told.get("field", ""))):
        told.pop("field", None)
    note(error=error.type, **told)


def add_noted(_: Any, __: str, event: EventDict) -> EventDict:
    """For structlog: what was noted of the current request, on each of its lines."""
    return {**(_fields.get() or {}), **event}


def name_request(headers: list[tuple[bytes, bytes]]) -> bytes:
    """Begins the notes of a request with its ids; returns the request id."""
    given = dict(headers)
    request_id = given.get(b"x-request-id", b"")
    if not _REQUEST_ID.fullmatch(request_id):
        request_id = b"%032x" % getrandbits(128)
    fields = {"request_id": request_id.decode()}
    trace = _TRACEPARENT.fullmatch(given.get(b"traceparent", b""))
    if trace:
        fields["trace_id"] = trace[1].decode()
    _fields.set(fields)
    return request_id
