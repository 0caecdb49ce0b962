"""The service around a model: requests for embeddings, readiness, reloading and the end.

decode -> submit -> encode
"""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any, TypeVar

from fastapi import Response

from tritserve.model.engine.engine import Engine
from tritserve.model.errors import UserError
from tritserve.model.sequences import Sequences
from tritserve.service.embedding.accepted import Accepted, AcceptedRequests, HeldAnswer
from tritserve.service.embedding.jobs import Result
from tritserve.service.embedding.served import ServedModel, load_engine
from tritserve.service.errors import UnavailableError
from tritserve.service.forms.choices import truncate
from tritserve.service.forms.embed import Form
from tritserve.service.forms.media import BINARY_TYPES, JSON, OCTETS
from tritserve.service.forms.options import finish
from tritserve.service.forms.wire import EmbedAnswer, EmbedRequest
from tritserve.service.http.body import BodyBudget, read_body, while_connected
from tritserve.service.http.compression import decompress
from tritserve.service.http.credentials import Credentials, CredentialsError
from tritserve.service.http.incoming import Incoming, read_deadline
from tritserve.service.observing.metrics import Metrics
from tritserve.service.observing.tracing import stage
from tritserve.service.settings import Settings

# Decoding and encoding of more than this leaves the event loop to other requests; either takes
# about a millisecond for so much.
INLINE_JSON_BYTES = 64 * 1024
INLINE_BINARY_BYTES = 2 * 1024 * 1024

FLOAT_BYTES = 4
# The most that a float32 takes, with a comma: -1.17549435e-38
JSON_NUMBER_BYTES = 16

REFRESH_SECONDS = 1.0

INLINE_TYPES = (*BINARY_TYPES, OCTETS)

T = TypeVar("T")

log = logging.getLogger("tritserve")


async def _wait(work: Coroutine[Any, Any, Result]) -> Result:
    return await work


class EmbeddingService:
    """The served model, and the life of the service around it.

    Attributes:
        served: the model that new requests go to.
        credentials: the API keys and the certificate.
        finished: whether everything accepted was answered before the service stopped.
        address: where it is served, once that is known.
    """

    def __init__(self, settings: Settings, engine: Engine, metrics: Metrics) -> None:
        self.settings = settings
        self.metrics = metrics
        self.served = ServedModel(settings, engine, metrics)
        self.credentials = Credentials(settings)
        self.draining = False
        self.finished = True
        self.address: str | None = None
        self._started = False
        self._refusing = False
        self._reloading = asyncio.Lock()
        self._requests = AcceptedRequests(BodyBudget(settings.max_bodies_bytes))
        # Models that were replaced and still answer what they had accepted.
        self._retiring: dict[ServedModel, asyncio.Task[bool]] = {}
        self._refreshing: asyncio.Task[None] | None = None
        metrics.show_model(self._labels())

    def start(self) -> None:
        """Starts answering; call it inside the event loop."""
        self._started = True
        if self.metrics.shared:
            self._refreshing = asyncio.create_task(self._refresh())

    async def finish(self) -> None:
        """Says at once that it is not ready, then finishes everything accepted and stops.

        New requests are still answered for `drain_delay_seconds`, until load balancers know.
        """
        self.draining = True
        self.refresh_metrics()
        await asyncio.sleep(self.settings.drain_delay_seconds)
        self._refusing = True
        models = [self.served, *self._retiring]
        for retirement in self._retiring.values():
            retirement.cancel()
        seconds = self.settings.drain_seconds
        self.finished = all(await asyncio.gather(*(model.retire(seconds) for model in models)))
        if not self.finished:
            self._requests.give_up()
        if self._refreshing:
            self._refreshing.cancel()

    def check_ready(self) -> None:
        """Raises UnavailableError, with the reason, unless requests can be answered."""
        if not self._started:
            raise UnavailableError("the service is starting")
        if self.draining:
            raise UnavailableError("the service is stopping")
        self.check_live()

    def _is_ready(self) -> bool:
        with suppress(UnavailableError):
            self.check_ready()
            return True
        return False

    def check_live(self) -> None:
        """Raises UnavailableError if only a new process, or a reload, can help."""
        reason = None if self.draining else self.served.batcher.unavailable
        if reason:
            raise UnavailableError(reason)

    async def reload(self) -> dict[str, Any]:
        """Loads the packed file again and serves it; what was accepted is answered as before.

        First the API keys and the certificate are read again.

        Returns:
            The new model, as answers tell of it.

        Raises:
            OSError: the file cannot be read; the old model goes on.
            PackedFileError: it is not valid; the old model goes on.
            EngineError: it does not fit beside the old one, which goes on.
            CredentialsError: the new model is served, but keys or certificate stay the old ones.
        """
        async with self._reloading:
            wrong = await asyncio.to_thread(self.credentials.renew)
            engine = await asyncio.to_thread(load_engine, self.settings)
            fresh = ServedModel(self.settings, engine, self.metrics)
            old, self.served = self.served, fresh
            self.metrics.show_model(self._labels())
            fresh.announce(self.address)
            retirement = asyncio.create_task(old.retire())
            self._retiring[old] = retirement
            retirement.add_done_callback(lambda _: self._retiring.pop(old))
            if wrong:
                raise CredentialsError(f"the new model is served, but {wrong}")
            return fresh.about

    async def reload_or_log(self) -> None:
        """Reloads; where that fails, the log says why."""
        try:
            await self.reload()
        except CredentialsError:
            # Logged where they were read.
            pass
        except (OSError, UserError) as error:
            log.error("the old model goes on, the new one cannot be loaded: %s", error)

    def refresh_metrics(self) -> None:
        """Brings the gauges of the queue and of readiness up to date."""
        batchers = [served.batcher for served in (self.served, *self._retiring)]
        self.metrics.queue_requests.set(sum(b.admitted_requests for b in batchers))
        self.metrics.queue_timesteps.set(sum(b.admitted_timesteps for b in batchers))
        self.metrics.ready.set(self._is_ready())
        self.metrics.stuck.set(self.served.batcher.stuck)

    async def _refresh(self) -> None:
        # Another worker may be asked for them.
        while True:
            self.refresh_metrics()
            await asyncio.sleep(REFRESH_SECONDS)

    def _labels(self) -> dict[str, str]:
        engine = self.served.engine
        model = engine.model
        return {"name": model.name, "revision": model.revision, "kernel": engine.kernel}

    def accept(self) -> Accepted:
        """For the time of one request, from before its body is read until its answer is sent.

        Raises:
            UnavailableError: no requests are answered now.
        """
        if not (self.draining and not self._refusing):
            self.check_ready()
        return Accepted(self._requests, self.served)

    async def answer(self, incoming: Incoming, form: Form) -> Response:
        """One request for embeddings over HTTP, written in a form."""
        with ExitStack() as stack:
            accepted = stack.enter_context(self.accept())
            received = time.monotonic()
            deadline = read_deadline(incoming.headers.get("x-request-timeout-ms"), received)
            limit, seconds = self.settings.max_body_bytes, self.settings.body_seconds
            body = await read_body(incoming, limit, seconds, accepted.lease)
            encoding = incoming.headers.get("content-encoding")
            if encoding is not None:
                # In a thread, for a few bytes may become very many.
                work = partial(decompress, body, encoding, limit)
                body = await self._requests.in_thread(work)
                accepted.lease.grow(max(0, len(body) - accepted.lease.size))
            wait = partial(while_connected, incoming.receive)
            content, headers = await self.embed(body, form, accepted, received, deadline, wait)
            accepted.lease.shrink(len(content))
            return HeldAnswer(content, headers, stack.pop_all())

    async def embed(
        self,
        body: bytes,
        form: Form,
        accepted: Accepted,
        received: float,
        deadline: float | None,
        wait: Callable[[Coroutine[Any, Any, Result]], Awaitable[Result]] = _wait,
    ) -> tuple[bytes, dict[str, str]]:
        """The answer to a body, whatever brought it here.

        Args:
            body: written in the form.
            form: reads the body and writes the answer.
            accepted: the request's hold; in its lease is then room for the answer too.
            received: when the request came, on the clock of `time.monotonic`.
            deadline: on the same clock; after it, nothing is computed. The body may name another;
                the earlier one counts.
            wait: awaits the computation, for as long as somebody wants the answer.

        Returns:
            The answer's body and headers.

        Raises:
            ServiceError: the request is refused.
        """
        served = accepted.served

        def decode() -> tuple[EmbedRequest, Sequences, list[int], float]:
            start = time.monotonic()
            asked = form.decode(body, served.limits)
            max_timesteps = served.limits.max_timesteps
            kept = truncate(asked.sequences, asked.options.overlong, max_timesteps)
            seconds = time.monotonic() - start
            self.metrics.decode_seconds.observe(seconds)
            return asked, *kept, seconds

        with stage("decode"):
            decoded = await self._aside(len(body), form.content_type, decode)
        asked, sequences, truncated, decode_seconds = decoded
        about = served.about_answer(sequences.values.shape[1], asked.options.channels)
        accepted.lease.grow(len(sequences) * _most_answer_bytes(about["output_size"], form))
        if asked.timeout is not None:
            deadline = min(received + asked.timeout, math.inf if deadline is None else deadline)
        result = await wait(served.compute(sequences, deadline, asked.options.channels))

        def encode() -> tuple[bytes, dict[str, str]]:
            start = time.monotonic()
            embeddings = finish(result.rows, asked.options)
            usage = {
                "sequences": len(asked.sequences),
                "timesteps": len(asked.sequences.values),
                "truncated": truncated,
            }
            timing = _timing(result, start - received)
            encoded = form.encode(EmbedAnswer(embeddings, about, usage, timing))
            self.metrics.time_answer(
                decode=decode_seconds,
                queue=result.queue_seconds,
                compute=result.compute_seconds,
                encode=time.monotonic() - start,
            )
            return encoded

        with stage("encode"):
            encoded = await self._aside(result.rows.nbytes, form.answer_type, encode)
        self.metrics.timesteps.inc(len(sequences.values))
        return encoded

    async def _aside(self, size: int, media_type: str | None, work: Callable[[], T]) -> T:
        """Runs `work` here if it is quick, in a thread if it would hold up other requests."""
        limit = INLINE_BINARY_BYTES if media_type in INLINE_TYPES else INLINE_JSON_BYTES
        return work() if size <= limit else await self._requests.in_thread(work)


def _most_answer_bytes(output_size: int, form: Form) -> int:
    """Bytes that one sequence's embedding may take, as it is computed and as it is written."""
    written = JSON_NUMBER_BYTES if form.answer_type == JSON else FLOAT_BYTES
    return output_size * (FLOAT_BYTES + written)


def _timing(result: Result, total: float) -> dict[str, float]:
    seconds = {"queue": result.queue_seconds, "compute": result.compute_seconds, "total": total}
    return {name: round(1e3 * value, 3) for name, value in seconds.items()}
