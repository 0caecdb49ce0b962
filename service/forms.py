"""How requests and answers of `POST /embed` are written, as HTTP headers and the query say."""

from typing import Protocol

from fastapi import Request

from service.errors import InvalidError
from service.media import negotiate
from service.wire import EmbedAnswer, EmbedRequest, Limits, decode, encode


class Form(Protocol):
    """A way to write one request and its answer; another one is `service.oip.InferForm`.

    Attributes:
        content_type: of the request.
        answer_type: of the answer; asked for once the request is decoded.
    """

    @property
    def content_type(self) -> str | None: ...

    @property
    def answer_type(self) -> str: ...

    def decode(self, body: bytes, limits: Limits) -> EmbedRequest:
        """Reads and checks the request; raises ServiceError."""
        ...

    def encode(self, answer: EmbedAnswer) -> tuple[bytes, dict[str, str]]:
        """The answer's body and headers."""
        ...


class EmbedForm:
    """That of `POST /embed`.

    Raises:
        NotAcceptableError: no form of the answer is acceptable.
    """

    def __init__(self, request: Request) -> None:
        self.content_type = request.headers.get("content-type")
        self.answer_type = negotiate(request.headers.get("accept"))
        self._query = request.query_params

    def decode(self, body: bytes, limits: Limits) -> EmbedRequest:
        """See `service.wire.decode`."""
        if len(self._query) < len(self._query.multi_items()):
            raise InvalidError(f"a query parameter is given twice: {self._query}", field="query")
        return decode(body, self.content_type, self._query, limits)

    def encode(self, answer: EmbedAnswer) -> tuple[bytes, dict[str, str]]:
        """See `service.wire.encode`."""
        return encode(answer, self.answer_type)
