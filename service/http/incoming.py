"""A request over HTTP before its body is read: the little that answering it takes."""

from typing import Self

from starlette.requests import Request
from starlette.types import Receive, Scope

from tritserve.service.errors import InvalidError


class Incoming:
    """What a request says of itself.

    Starlette's own `Request` parses each part when it is asked for, again and again for headers.

    Attributes:
        headers: by their names in lower case; several of one name are one list (RFC 9110, 5.3).
        query: the query string as it came.
        receive: gives the next ASGI message, a piece of the body or the client's leaving.
    """

    __slots__ = ("headers", "query", "receive")

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.headers: dict[str, str] = {}
        for name, value in scope["headers"]:
            key, text = name.decode("latin-1"), value.decode("latin-1")
            self.headers[key] = f"{self.headers[key]}, {text}" if key in self.headers else text
        self.query: str = scope["query_string"].decode("latin-1")
        self.receive = receive

    @classmethod
    async def of(cls, request: Request) -> Self:
        """The same of Starlette's request, for FastAPI to inject."""
        return cls(request.scope, request.receive)


def read_deadline(text: str | None, received: float) -> float | None:
    """`X-Request-Timeout-Ms`, where it is given, as a time on the clock of `time.monotonic`.

    Raises:
        InvalidError: it is not a number of milliseconds above zero.
    """
    if text is None:
        return None
    if not text.isdecimal() or len(text) > 10 or not int(text):
        raise InvalidError(
            f"X-Request-Timeout-Ms is {text[:20]!r}; it must be whole milliseconds above 0"
        )
    return received + int(text) / 1e3
