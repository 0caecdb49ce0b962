"""One call of the Open Inference Protocol over gRPC, through the queue that HTTP has.

Requests and answers are streams of one message, which is the same on the wire: so the key and the
readiness are looked at before the message is read, a message that drips is given up, and what a
call holds is held until its answer has left.

Of gRPC's own health protocol there is `Check`, for probes and load balancers: it answers for the
whole service, whatever name it is given. `Watch`, which clients can do without, would let anybody
without a key hold calls for as long as they like.
"""

import logging
import time
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import TYPE_CHECKING

import grpc
import grpc.aio
import structlog
from structlog.types import FilteringBoundLogger

from tritserve.model.text import printable
from tritserve.service.embedding.accepted import Accepted
from tritserve.service.embedding.service import EmbeddingService
from tritserve.service.errors import (
    ClientGoneError,
    ServiceError,
    UnauthorizedError,
    UnavailableError,
    UnknownMethodError,
    UnparseableError,
)
from tritserve.service.http.observed import MAX_PATH
from tritserve.service.http.security import bearer, is_one_of
from tritserve.service.observing.notes import levels, name_request, note, note_refusal
from tritserve.service.observing.tracing import ServerSpan, ServerSpans
from tritserve.service.oip.grpc.describing import ASKING, Describer
from tritserve.service.oip.grpc.form import GrpcForm
from tritserve.service.oip.grpc.messages import SERVICE
from tritserve.service.oip.grpc.reading import Context, MessageReader
from tritserve.service.oip.tensors import METHODS, OTHER

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

# Clients take 8 KiB of headers with an answer, of which the message is one.
MAX_DETAILS = 1000
# Health is for probes, which have no key.
OPEN_METHODS = {"ServerLive", "ServerReady", "Check"}
MAX_DESCRIBE_BYTES = 4096

CODES = {
    200: grpc.StatusCode.OK,
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    499: grpc.StatusCode.CANCELLED,
    500: grpc.StatusCode.INTERNAL,
    501: grpc.StatusCode.UNIMPLEMENTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}

log = logging.getLogger("tritserve")


class Calls:
    """The methods of the service.

    Args:
        service: what they ask.
        traces: where spans go, if anywhere.
    """

    def __init__(self, service: EmbeddingService, traces: "TracerProvider | None") -> None:
        self._service = service
        self._describer = Describer(service)
        self._spans = ServerSpans(traces) if traces else None
        settings = service.settings
        # As many at once as the budget of bodies has room for.
        places = max(1, settings.max_bodies_bytes // settings.grpc_message_bytes)
        self._reader = MessageReader(places, settings.body_seconds)
        self._open = 0
        # HTTP has no such status, for which series would be there from the start.
        service.metrics.requests.labels(f"grpc/{OTHER}", str(UnknownMethodError.status))
        self._log: FilteringBoundLogger = structlog.get_logger().bind()

    async def answer(self, method: str, _: AsyncIterator[bytes], context: Context) -> None:
        """One call; every error ends it with its code."""
        start = time.perf_counter()
        metadata = _read_metadata(context)
        request_id = name_request(metadata).decode()
        trailing = [("x-request-id", request_id)]
        # Not the error itself, which would keep all that it came through, the message too.
        failure: tuple[int, str, dict[str, str]] | None = None
        status = ClientGoneError.status
        with self._trace(method, metadata) as server:
            try:
                with ExitStack() as hold:
                    answer = await self._answer(method, dict(metadata), context, hold)
                    await _send(context, answer)
                status = 200
            except ServiceError as error:
                note_refusal(error)
                failure = error.status, error.message, error.headers
            except Exception as error:
                log.error("a bug in answering %s", method, exc_info=error)
                failure = ServiceError.status, "a bug in the service; its log tells more", {}
            finally:
                status = failure[0] if failure else status
                self._count(method, status, time.perf_counter() - start)
                if server:
                    server.answered("rpc.grpc.status_code", CODES[status].value[0], status >= 500)
                    trailing.append(("traceresponse", server.traceresponse))
        if failure:
            trailing += [(k.lower(), v) for k, v in failure[2].items() if k == "Retry-After"]
        if failure and not context.done():
            await context.abort(CODES[status], _details(failure[1]), tuple(trailing))
        context.set_trailing_metadata(tuple(trailing))

    async def refuse(self, path: str, _: AsyncIterator[bytes], context: Context) -> None:
        """One call of a method that is not there; its message is not read."""
        trailing = (("x-request-id", name_request(_read_metadata(context)).decode()),)
        asked = printable(path[:MAX_PATH])[:MAX_PATH]
        there = "; ".join(f"{name}: {', '.join(methods)}" for name, methods in METHODS.items())
        error = UnknownMethodError(f"there is no method {asked}; there are, of {there}")
        note_refusal(error)
        note(path=asked)
        self._count(OTHER, error.status, 0.0)
        await context.abort(CODES[error.status], _details(error.message), trailing)

    def _trace(
        self, method: str, metadata: list[tuple[bytes, bytes]]
    ) -> AbstractContextManager[ServerSpan | None]:
        if self._spans is None or method in OPEN_METHODS:
            return nullcontext()
        attributes = {"rpc.system": "grpc", "rpc.service": SERVICE.full_name, "rpc.method": method}
        return self._spans.around(f"{SERVICE.full_name}/{method}", metadata, attributes)

    def _count(self, method: str, status: int, seconds: float) -> None:
        metrics, route = self._service.metrics, f"grpc/{method}"
        metrics.count_answer(route, status)
        metrics.time_request(route, seconds)
        level = logging.DEBUG if method in OPEN_METHODS else logging.INFO
        if levels.isEnabledFor(level):
            fields = {"route": route, "status": status, "ms": round(1e3 * seconds, 3)}
            self._log.log(level, "request", method="gRPC", **fields)

    async def _answer(
        self, method: str, metadata: dict[bytes, bytes], context: Context, hold: ExitStack
    ) -> bytes:
        if method in OPEN_METHODS:
            return await self._describer.describe(method, b"")
        limit = self._service.settings.max_connections
        if self._open >= limit:
            self._service.metrics.refused_connections.labels("too_many").inc()
            raise UnavailableError(f"{limit} calls are open; there are no more")
        self._open += 1
        hold.callback(self._end)
        keys = self._service.credentials.keys
        if keys and not is_one_of(bearer(metadata.get(b"authorization")), keys):
            raise UnauthorizedError("this needs an API key: authorization: Bearer <key>")
        if method == "ModelInfer":
            return await self._infer(context, hold.enter_context(self._service.accept()))
        message = await self._reader.read(context) if method in ASKING else b""
        if len(message) > MAX_DESCRIBE_BYTES:
            raise UnparseableError(
                f"the message has {len(message)} bytes; one of {method} has at most "
                f"{MAX_DESCRIBE_BYTES}"
            )
        return await self._describer.describe(method, message)

    def _end(self) -> None:
        self._open -= 1

    async def _infer(self, context: Context, accepted: Accepted) -> bytes:
        received = time.monotonic()
        remaining = context.time_remaining()
        body = await self._reader.read(context)
        accepted.lease.grow(len(body))
        deadline = None if remaining is None else received + remaining
        form = GrpcForm(accepted.served.about["name"])
        answer, _ = await self._service.embed(body, form, accepted, received, deadline)
        # gRPC makes a copy of its own.
        accepted.lease.shrink(2 * len(answer))
        return answer


async def _send(context: Context, answer: bytes) -> None:
    try:
        await context.write(answer)
    except grpc.aio.InternalError as error:
        raise ClientGoneError("the client left while its answer was on the way") from error


def _details(message: str) -> str:
    """What of a message fits among the headers, where other letters take several times theirs."""
    return message.encode("ascii", "backslashreplace").decode()[:MAX_DETAILS]


def _read_metadata(context: Context) -> list[tuple[bytes, bytes]]:
    return [
        (key.encode(), value.encode() if isinstance(value, str) else value)
        for key, value in context.invocation_metadata() or ()
    ]
