"""What both clients say to the service, without input or output.

An exchange is a generator: it yields `Step`s, is sent the response to each, or thrown the
`httpx.TransportError` that came instead, and returns its result.
A batch over the service's limits goes in parts, one after the other.
"""

import socket
import ssl
import time
from collections.abc import Generator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import httpx
import numpy as np

from tritserve.model.packed.tensors import save_tensors
from tritserve.model.sequences import Sequences
from tritserve.service.client.replies import Answer, RequestError, check, join, read, read_info
from tritserve.service.forms.media import SAFETENSORS
from tritserve.service.forms.options import Overlong, Precision

RETRIED = (httpx.codes.TOO_MANY_REQUESTS, httpx.codes.SERVICE_UNAVAILABLE)
# A request meets them that crosses the closing of its connection, or comes during a restart.
DISCONNECTED = (httpx.NetworkError, httpx.RemoteProtocolError)
LASTING = (ssl.SSLError, socket.gaierror)
PASSING = (ssl.SSLEOFError, ssl.SSLZeroReturnError)
MAX_PAUSE = 2.0

# A batch of no more is sent without asking for the limits first: few services take less. For a
# larger one another round trip does not count.
SMALL_SEQUENCES = 1_024
SMALL_BYTES = 1024 * 1024

# So that a part finds room in the queue, and leaves some to others.
PARTS_IN_QUEUE = 4

# More than the header that safetensors writes.
HEADER_BYTES = 256

T = TypeVar("T")


class ModelChangedError(Exception):
    """Twice, a batch in parts met another model before its last part."""


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
        retry_seconds: how long to go on trying each request when the service is full, not ready or
            not there.
    """

    def __init__(self, retry_seconds: float) -> None:
        self._retry_seconds = retry_seconds
        self._limits: dict[str, int] | None = None

    def info(self) -> Exchange[dict[str, Any]]:
        """`GET /info`.

        Raises:
            RequestError: the service refused.
        """
        response = yield from self._send(Step("GET", "/info"))
        content = read_info(response)
        self._limits = content["limits"]
        return content

    def embed(
        self, batch: Sequences, normalize: bool, overlong: Overlong, precision: Precision
    ) -> Exchange[Answer]:
        """`POST /embed`, as often as the limits need.

        Raises:
            RequestError: the service refused; its row is one of the whole batch.
            ModelChangedError: see there.
        """
        params = {
            "normalize": str(normalize).lower(),
            "overlong": overlong,
            "precision": precision,
        }
        headers = {"Content-Type": SAFETENSORS, "Accept": SAFETENSORS}
        step = Step("POST", "/embed", {"headers": headers, "params": params})
        small = len(batch) <= SMALL_SEQUENCES and batch.values.nbytes <= SMALL_BYTES
        if self._limits is None and not small:
            # Where they cannot be had, the batch's own refusal says more.
            with suppress(RequestError):
                yield from self.info()
        parts = self._split(batch)
        try:
            return (yield from self._embed_parts(batch, parts, step))
        except RequestError as refused:
            if not _is_about_size(refused):
                raise
            try:
                yield from self.info()
            except (RequestError, httpx.TransportError):
                raise refused from None
            smaller = self._split(batch)
            if smaller == parts:
                raise
        return (yield from self._embed_parts(batch, smaller, step))

    def _embed_parts(self, batch: Sequences, parts: list[range], step: Step) -> Exchange[Answer]:
        # Rows of two models must not mix: when it changes, all are asked for once more.
        for _ in range(2):
            answers: list[Answer] = []
            for rows in parts:
                answers.append((yield from self._embed_part(batch, rows, step)))
                if answers[-1].model != answers[0].model:
                    break
            else:
                return join(answers, [rows.start for rows in parts])
        raise ModelChangedError(
            f"the model changed twice between the {len(parts)} parts of a batch, last from "
            f"revision {answers[0].model.revision} to {answers[-1].model.revision}"
        )

    def _embed_part(self, batch: Sequences, rows: range, step: Step) -> Exchange[Answer]:
        first, last = batch.offsets[[rows.start, rows.stop]]
        lengths = batch.lengths[rows.start : rows.stop]
        content = save_tensors({"values": batch.values[first:last], "lengths": lengths})
        part = replace(step, options=step.options | {"content": content})
        try:
            return read((yield from self._send(part)))
        except RequestError as refused:
            if not rows.start:
                raise
            raise refused.counted_from(rows.start) from refused

    def _split(self, batch: Sequences) -> list[range]:
        """The rows of each part. A sequence that is over the limits by itself is one."""
        count, limits = len(batch), self._limits
        if limits is None:
            return [range(count)]
        timesteps = batch.offsets
        width = batch.values.itemsize * batch.values.shape[1]
        size = width * timesteps + batch.lengths.itemsize * np.arange(count + 1)
        room = limits["max_body_bytes"] - HEADER_BYTES
        most = min(limits["max_request_timesteps"], limits["queue_timesteps"] // PARTS_IN_QUEUE)
        parts = []
        first = 0
        while first < count:
            fitting = min(
                first + limits["max_sequences"],
                int(np.searchsorted(timesteps, timesteps[first] + most, "right")) - 1,
                int(np.searchsorted(size, size[first] + room, "right")) - 1,
            )
            last = min(count, max(first + 1, fitting))
            parts.append(range(first, last))
            first = last
        return parts

    def _send(self, step: Step) -> Exchange[httpx.Response]:
        until = time.monotonic() + self._retry_seconds
        pause = 0.0
        while True:
            try:
                response = yield step
            except DISCONNECTED as error:
                if _is_lasting(error) or time.monotonic() + pause > until:
                    raise
                step = replace(step, delay=pause)
                pause = min(2 * pause or 1.0, MAX_PAUSE)
                continue
            seconds = _wait(response, until)
            if seconds is None:
                return check(response)
            step = replace(step, delay=seconds)


def _is_about_size(refused: RequestError) -> bool:
    # A proxy may refuse a large body too, and tells no limit.
    return refused.status == httpx.codes.REQUEST_ENTITY_TOO_LARGE or (
        refused.status == httpx.codes.UNPROCESSABLE_ENTITY and "limit" in refused.details
    )


def _wait(response: httpx.Response, until: float) -> float | None:
    """Seconds to wait before trying again, or None if the response is to be taken as it is."""
    if response.status_code not in RETRIED:
        return None
    try:
        seconds = max(0.0, float(response.headers.get("retry-after", "1")))
    except ValueError:
        seconds = 1.0
    return seconds if time.monotonic() + seconds <= until else None


def _is_lasting(error: BaseException | None) -> bool:
    """Whether TLS, its certificate or a host's name is at fault: trying again would not help."""
    while error and not isinstance(error, LASTING):
        error = error.__cause__ or error.__context__
    return error is not None and not isinstance(error, PASSING)
