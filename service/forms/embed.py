"""How requests and answers of `POST /embed` are written, as HTTP headers and the query say."""

from typing import Protocol
from urllib.parse import parse_qsl

from tritserve.service.errors import InvalidError
from tritserve.service.forms.media import JSON, NPY, SAFETENSORS, negotiate
from tritserve.service.forms.wire import EmbedAnswer, EmbedRequest, Limits, decode, encode
from tritserve.service.http.incoming import Incoming


class Form(Protocol):
    """A way to write a request and its answer; `tritserve.service.oip.rest.form` has another.

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

    def __init__(self, incoming: Incoming) -> None:
        self.content_type = incoming.headers.get("content-type")
        self.answer_type = negotiate(incoming.headers.get("accept"))
        self._query = incoming.query

    def decode(self, body: bytes, limits: Limits) -> EmbedRequest:
        """See `tritserve.service.forms.wire.decode`; int8 as npy is wrong too."""
        query = _parse_query(self._query) if self._query else {}
        request = decode(body, self.content_type, query, limits)
        if request.options.precision == "int8" and self.answer_type == NPY:
            raise InvalidError(
                f"npy has no place for the scales of int8; accept {JSON} or {SAFETENSORS}"
            )
        return request

    def encode(self, answer: EmbedAnswer) -> tuple[bytes, dict[str, str]]:
        """See `tritserve.service.forms.wire.encode`."""
        return encode(answer, self.answer_type)


def _parse_query(text: str) -> dict[str, str]:
    pairs = parse_qsl(text, keep_blank_values=True)
    query = dict(pairs)
    if len(query) < len(pairs):
        raise InvalidError(f"a query parameter is given twice: {text}", field="query")
    return query
