"""One engine as a service: what `POST /embed`, `GET /info` and readiness come down to.

decode -> submit -> encode
"""

import asyncio
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, TypeVar

from fastapi import Request, Response

from model.engine import Engine
from model.sequences import SequenceError, Sequences
from service.batcher import Batcher, Refused
from service.body import read_body, while_connected
from service.errors import InvalidError, UnavailableError
from service.jobs import Result
from service.media import negotiate
from service.metrics import Metrics
from service.options import finish, truncate
from service.settings import Settings
from service.wire import EmbedAnswer, EmbedRequest, Limits, decode, encode, invalid

# Decoding and encoding of more than this leaves the event loop to other requests.
INLINE_BYTES = 64 * 1024

T = TypeVar("T")


class EmbeddingService:
    """An engine behind a queue, with its limits and metrics."""

    def __init__(self, settings: Settings, engine: Engine, metrics: Metrics) -> None:
        model = engine.model
        self.settings = settings
        self.engine = engine
        self.limits = Limits(
            embed_dim=model.config.embed_dim,
            max_timesteps=model.config.max_timesteps,
            max_sequences=settings.max_sequences,
        )
        self.about = {
            "name": model.name,
            "revision": model.revision,
            "output_size": model.config.hidden_size,
            "quantize": model.config.quantize,
            "bits_per_weight": model.bits_per_weight,
        }
        self.metrics = metrics
        self.batcher = Batcher(
            engine.embed,
            refused=(SequenceError,),
            queue_timesteps=settings.queue_timesteps,
            batch_timesteps=settings.batch_timesteps,
            on_batch=self.metrics.count_batch,
        )
        metrics.queue_requests.set_function(lambda: self.batcher.admitted_requests)
        metrics.queue_timesteps.set_function(lambda: self.batcher.admitted_timesteps)
        self.started = False

    def start(self) -> None:
        """Starts answering; call it inside the event loop."""
        self.batcher.start()
        self.started = True

    async def stop(self) -> None:
        """Says that it is not ready, finishes what was accepted, and stops."""
        self.started = False
        await self.batcher.drain(self.settings.drain_seconds)

    def check_ready(self) -> None:
        """Raises UnavailableError, with the reason, unless requests can be answered."""
        if not self.started:
            raise UnavailableError("the service is starting or stopping")
        if self.batcher.failure:
            raise UnavailableError(f"the engine has failed: {self.batcher.failure}")
        busy = self.batcher.busy_seconds
        if busy > self.settings.stuck_seconds:
            raise UnavailableError(f"the engine has been in one call for {busy:.0f} seconds")

    async def embed(self, request: Request) -> Response:
        """One `POST /embed`."""
        received = time.monotonic()
        self.check_ready()
        media_type = negotiate(request.headers.get("accept"))
        deadline = read_deadline(request, received)
        body = await read_body(request, self.settings.max_body_bytes)
        asked, sequences, truncated = await self._aside(
            len(body), lambda: self._decode(request, body)
        )
        result = await while_connected(request, self._submit(sequences, deadline))
        content, headers = await self._aside(
            result.rows.nbytes,
            lambda: self._encode(asked, result, truncated, received, media_type),
        )
        self.metrics.timesteps.inc(len(sequences.values))
        return Response(content, headers=headers)

    def _decode(self, request: Request, body: bytes) -> tuple[EmbedRequest, Sequences, list[int]]:
        """What was asked for, the sequences cut as asked, and which rows were cut."""
        query = request.query_params
        if len(query) < len(query.multi_items()):
            raise InvalidError(f"a query parameter is given twice: {query}", field="query")
        asked = decode(body, request.headers.get("content-type"), query, self.limits)
        overlong, max_timesteps = asked.options.overlong, self.limits.max_timesteps
        return asked, *truncate(asked.sequences, overlong, max_timesteps)

    async def _submit(self, sequences: Sequences, deadline: float | None) -> Result:
        try:
            result = await self.batcher.submit(sequences, deadline)
        except Refused as refused:
            cause = refused.__cause__
            assert isinstance(cause, SequenceError)
            raise invalid(cause, refused.first_row) from cause
        self.metrics.queue_seconds.observe(result.queue_seconds)
        self.metrics.compute_seconds.observe(result.compute_seconds)
        return result

    def _encode(
        self,
        asked: EmbedRequest,
        result: Result,
        truncated: list[int],
        received: float,
        media_type: str,
    ) -> tuple[bytes, dict[str, str]]:
        start = time.monotonic()
        answer = EmbedAnswer(
            embeddings=finish(result.rows, asked.options),
            model=self.about,
            usage={
                "sequences": len(asked.sequences),
                "timesteps": len(asked.sequences.values),
                "truncated": truncated,
            },
            timing_ms={
                "queue": round(1e3 * result.queue_seconds, 3),
                "compute": round(1e3 * result.compute_seconds, 3),
                "total": round(1e3 * (start - received), 3),
            },
        )
        encoded = encode(answer, media_type)
        self.metrics.encode_seconds.observe(time.monotonic() - start)
        return encoded

    async def _aside(self, size: int, work: Callable[[], T]) -> T:
        """Runs `work` here if it is small, in a thread if it would hold up other requests."""
        return work() if size <= INLINE_BYTES else await asyncio.to_thread(work)

    def info(self) -> dict[str, Any]:
        """The answer of `GET /info`."""
        model = self.engine.model
        return {
            "name": model.name,
            "revision": model.revision,
            "version": version("tritserve"),
            "config": model.config.model_dump(),
            "output_size": model.config.hidden_size,
            "bits_per_weight": model.bits_per_weight,
            "nominal_bits_per_weight": model.nominal_bits_per_weight,
            "bits_per_parameter": model.bits_per_parameter,
            "parameters": model.parameters,
            "packed_bytes": sum(layer.packed.nbytes for layer in model.layers.values()),
            "kernel": self.engine.kernel,
            "threads": self.engine.threads,
            "limits": {
                "max_body_bytes": self.settings.max_body_bytes,
                "max_sequences": self.settings.max_sequences,
                "max_timesteps": self.limits.max_timesteps,
                "queue_timesteps": self.settings.queue_timesteps,
                "batch_timesteps": self.settings.batch_timesteps,
            },
        }


def read_deadline(request: Request, received: float) -> float | None:
    """`X-Request-Timeout-Ms` as a time on the clock of `time.monotonic`.

    Raises:
        InvalidError: it is not a number of milliseconds above zero.
    """
    text = request.headers.get("x-request-timeout-ms")
    if text is None:
        return None
    if not text.isdecimal() or len(text) > 10 or not int(text):
        raise InvalidError(
            f"X-Request-Timeout-Ms is {text[:20]!r}; it must be whole milliseconds above 0"
        )
    return received + int(text) / 1e3
