"""What both clients say to the service, without input or output.

An exchange is a generator: it yields `Step`s, is sent the response to each, or thrown the
`httpx.TransportError` that came instead, and returns its result.
A batch over the limits goes in parts, one after the other.
"""

import ssl
import time
from collections.abc import Generator, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import httpx
import numpy.typing as npt

from tritserve.model.sequences import Sequences
from tritserve.service.client.batch import Batch
from tritserve.service.client.parts import Limits, Load
from tritserve.service.client.replies import Answer, RequestError, check, join, read, read_info
from tritserve.service.forms.choices import Channels, Overlong, Precision
from tritserve.service.forms.media import SAFETENSORS

RETRIED = (httpx.codes.TOO_MANY_REQUESTS, httpx.codes.SERVICE_UNAVAILABLE)
# A request meets them that crosses the closing of its connection, or comes during a restart.
DISCONNECTED = (httpx.NetworkError, httpx.RemoteProtocolError)
PASSING = (ssl.SSLEOFError, ssl.SSLZeroReturnError)
MAX_PAUSE = 2.0

# A batch of no more is sent without asking for the limits first: few services take less. For a
# larger one another round trip does not count.
SMALL_SEQUENCES = 1_024
SMALL_BYTES = 1024 * 1024

T = TypeVar("T")


class ModelChangedError(Exception):
    """Twice, another model answered before a batch was answered whole."""


@dataclass(frozen=True)
class Step:
    """A request, as arguments of `httpx.Client.request`, and how many seconds to wait before it."""

    method: str
    url: str
    options: dict[str, Any] = field(default_factory=dict)
    delay: float = 0.0


Exchange = Generator[Step, httpx.Response, T]


class Exchanges:
    """All that a client can ask for, and the limits that it has learned of.

    Args:
        retry_seconds: how long to go on trying each request when the service is full or not
            ready, or the connection breaks.
        startup_seconds: the same when nothing listens, or the host's name is not known.
    """

    def __init__(self, retry_seconds: float, startup_seconds: float) -> None:
        self._retry_seconds = retry_seconds
        self._startup_seconds = startup_seconds
        self._limits = Limits()

    def info(self) -> Exchange[dict[str, Any]]:
        """`GET /info`.

        Raises:
            RequestError: the service refused.
        """
        content = read_info((yield from self._send(Step("GET", "/info"))))
        self._limits = self._limits.told_by(content)
        return content

    def embed(
        self,
        sequences: Iterable[npt.ArrayLike],
        normalize: bool,
        overlong: Overlong,
        precision: Precision,
        features: Sequence[str] | None = None,
        channels: Channels = "joined",
    ) -> Exchange[Answer]:
        """`POST /embed`, as often as the limits need.

        Raises:
            SequenceError: they are no batch.
            RequestError: the service refused; its row is one of the whole batch.
            ModelChangedError: see there.
        """
        batch = Batch.read(sequences, features)
        params = {
            "normalize": str(normalize).lower(),
            "overlong": overlong,
            "precision": precision,
            "channels": channels,
        }
        headers = {"Content-Type": SAFETENSORS, "Accept": SAFETENSORS}
        step = Step("POST", "/embed", {"headers": headers, "params": params})
        if self._limits.revision is None:
            if batch.of_tables:
                yield from self.info()
            elif not _is_small(batch.sequences):
                # Where they cannot be had, the batch's own refusal says more.
                with suppress(RequestError):
                    yield from self.info()
        try:
            return (yield from self._embed_parts(batch, overlong, step))
        except ModelChangedError:
            with suppress(RequestError):
                yield from self.info()
        return (yield from self._embed_parts(batch, overlong, step))

    def _embed_parts(self, batch: Batch, overlong: Overlong, step: Step) -> Exchange[Answer]:
        load = Load(batch, overlong, self._limits)
        answers: list[tuple[int, Answer]] = []
        first = 0
        while first < len(batch.sequences):
            rows = load.part(first)
            try:
                answer = yield from self._embed_part(load.body(rows), first, step)
            except RequestError as refused:
                yield from self._learn(refused, load.size(rows))
                other = Load(batch, overlong, self._limits)
                smaller = other.size(other.part(first)) < load.size(rows)
                if other.features == load.features and not smaller:
                    raise refused from None
                load = other
                continue
            answers.append((first, answer))
            # Rows of two models must not mix, nor may one see what was made for another.
            revision = answer.model.revision
            if not revision == (load.revision or revision) == answers[0][1].model.revision:
                raise ModelChangedError(
                    "twice, the model changed before a whole batch was answered, last to revision "
                    f"{revision}; ask again"
                )
            first = rows.stop
        return join(answers, load.truncated)

    def _embed_part(self, body: bytes, first: int, step: Step) -> Exchange[Answer]:
        options = step.options | {"content": body}
        try:
            return read((yield from self._send(replace(step, options=options))))
        except RequestError as refused:
            raise refused.counted_from(first) from refused

    def _learn(self, refused: RequestError, size: int) -> Exchange[None]:
        """The limits, or names, that a refusal of a body of `size` bytes tells of, if it does."""
        if _is_of_a_proxy(refused):
            self._limits = replace(self._limits, proxy_bytes=size // 2)
        elif "limit" in refused.details or refused.details.get("field") == "features":
            with suppress(RequestError, httpx.TransportError):
                yield from self.info()

    def _send(self, step: Step) -> Exchange[httpx.Response]:
        start = time.monotonic()
        pause = 0.0
        while True:
            try:
                response = yield step
            except DISCONNECTED as error:
                if time.monotonic() + pause >= start + self._patience(error):
                    if isinstance(error, httpx.ConnectError):
                        raise _explained(error) from error
                    raise
                step = replace(step, delay=pause)
                pause = min(2 * pause or 1.0, MAX_PAUSE)
                continue
            seconds = _wait(response, start + self._retry_seconds)
            if seconds is None:
                return check(response)
            step = replace(step, delay=seconds)

    def _patience(self, error: httpx.TransportError) -> float:
        """Seconds to go on trying after this.

        0 where TLS or its certificate is at fault: trying again would not help.
        """
        insecure = _first_cause(error, ssl.SSLError)
        if insecure and not isinstance(insecure, PASSING):
            return 0.0
        # Nothing listens, or the host's name is not known, as before its container has started.
        absent = not insecure and isinstance(error, httpx.ConnectError)
        return self._startup_seconds if absent else self._retry_seconds


def rows_of(exchange: Exchange[Answer]) -> Exchange[npt.NDArray[Any]]:
    """The same exchange, of whose answer only the embeddings are returned."""
    return (yield from exchange).embeddings


def _is_small(sequences: Sequences) -> bool:
    """Whether hardly a service refuses so little at once."""
    return len(sequences) <= SMALL_SEQUENCES and sequences.values.nbytes <= SMALL_BYTES


def _is_of_a_proxy(refused: RequestError) -> bool:
    """Whether something before the service found the body too large; it does not tell its limit."""
    return refused.status == httpx.codes.REQUEST_ENTITY_TOO_LARGE and "limit" not in refused.details


def _wait(response: httpx.Response, until: float) -> float | None:
    """Seconds to wait before trying again, or None if the response is to be taken as it is."""
    if response.status_code not in RETRIED:
        return None
    try:
        seconds = max(0.0, float(response.headers.get("retry-after", "1")))
    except ValueError:
        seconds = 1.0
    return seconds if time.monotonic() + seconds <= until else None


def _first_cause(error: BaseException | None, kind: type[Exception]) -> BaseException | None:
    while error and not isinstance(error, kind):
        error = error.__cause__ or error.__context__
    return error


def _explained(error: httpx.ConnectError) -> httpx.ConnectError:
    url = error.request.url
    message = f"no connection to {url.scheme}://{url.netloc.decode()}: {error}"
    if not _first_cause(error, ssl.SSLError):
        message += "; is the service started? startup_seconds= of the client waits until it is"
    return httpx.ConnectError(message, request=error.request)
