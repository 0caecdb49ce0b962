"""A client: numpy arrays in, numpy arrays out.

    with Client("http://127.0.0.1:8000") as client:
        embeddings = client.embed([first, second])  # arrays [seq_len, embed_dim]
        answer = client.embed_detailed([first, second], overlong="keep_last")
        answer.embeddings, answer.truncated, answer.model.revision, answer.timing_ms.compute

A batch over the service's limits is sent in parts, one after the other; if the model changes in
between, all of it is sent once more. Answers 429 and 503 are retried as their Retry-After tells; a
request whose connection breaks or is refused is sent again, as during a restart of the service.
"""

import asyncio
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
import numpy.typing as npt

from tritserve.model.sequences import Sequences
from tritserve.service.client.exchange import Exchange, Exchanges, ModelChangedError
from tritserve.service.client.replies import Answer, Model, RequestError, Timing
from tritserve.service.forms.options import Overlong, Precision

__all__ = [
    "Answer",
    "AsyncClient",
    "Client",
    "Model",
    "ModelChangedError",
    "RequestError",
    "Timing",
]

SequencesLike = npt.NDArray[Any] | Iterable[npt.ArrayLike]

T = TypeVar("T")


class Client:
    """A blocking client.

    Args:
        base_url: of the service.
        retry_seconds: how long to go on trying each request when the service is full, not ready
            or not there. A batch in parts makes several requests, and each has this time of its
            own, as it has the `timeout`.
        **options: of `httpx.Client`: `headers`, `timeout`, `transport`, ...
    """

    def __init__(self, base_url: str, *, retry_seconds: float = 30.0, **options: Any) -> None:
        self._http = httpx.Client(base_url=base_url, **({"timeout": 60.0} | options))
        self._exchanges = Exchanges(retry_seconds)

    def embed(
        self,
        sequences: SequencesLike,
        *,
        normalize: bool = False,
        overlong: Overlong = "error",
        precision: Precision = "float32",
    ) -> npt.NDArray[Any]:
        """Embeds sequences.

        Args:
            sequences: arrays `[seq_len, embed_dim]`, of any lengths, or one array
                `[batch, seq_len, embed_dim]`.
            normalize: whether to scale embeddings to unit length.
            overlong: what to do with sequences longer than the model takes; `embed_detailed`
                tells which were shortened.
            precision: of the numbers on the wire. `int8` comes back as float32, its scales
                applied; `binary` as bits, uint8 `[batch, hidden_size / 8]`.

        Returns:
            `[batch, hidden_size]`, float32 or float16 as asked.

        Raises:
            RequestError: the service refused.
            ModelChangedError: the batch went in parts, and met another model twice.
            SequenceError: `sequences` are not of this form.
            httpx.TransportError: the service could not be reached in time.
        """
        return self.embed_detailed(
            sequences, normalize=normalize, overlong=overlong, precision=precision
        ).embeddings

    def embed_detailed(
        self,
        sequences: SequencesLike,
        *,
        normalize: bool = False,
        overlong: Overlong = "error",
        precision: Precision = "float32",
    ) -> Answer:
        """As `embed`; also tells which rows were shortened, the model, and the time it took."""
        batch = Sequences.from_list(sequences)
        return self._run(self._exchanges.embed(batch, normalize, overlong, precision))

    def info(self) -> dict[str, Any]:
        """What `GET /info` tells."""
        return self._run(self._exchanges.info())

    def _run(self, exchange: Exchange[T]) -> T:
        try:
            step = next(exchange)
            while True:
                if step.delay:
                    time.sleep(step.delay)
                try:
                    response = self._http.request(step.method, step.url, **step.options)
                except httpx.TransportError as error:
                    step = exchange.throw(error)
                else:
                    step = exchange.send(response)
        except StopIteration as end:
            result: T = end.value
            return result

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class AsyncClient:
    """The same for asyncio; see `Client`."""

    def __init__(self, base_url: str, *, retry_seconds: float = 30.0, **options: Any) -> None:
        self._http = httpx.AsyncClient(base_url=base_url, **({"timeout": 60.0} | options))
        self._exchanges = Exchanges(retry_seconds)

    async def embed(
        self,
        sequences: SequencesLike,
        *,
        normalize: bool = False,
        overlong: Overlong = "error",
        precision: Precision = "float32",
    ) -> npt.NDArray[Any]:
        """See `Client.embed`."""
        answer = await self.embed_detailed(
            sequences, normalize=normalize, overlong=overlong, precision=precision
        )
        return answer.embeddings

    async def embed_detailed(
        self,
        sequences: SequencesLike,
        *,
        normalize: bool = False,
        overlong: Overlong = "error",
        precision: Precision = "float32",
    ) -> Answer:
        """See `Client.embed_detailed`."""
        batch = Sequences.from_list(sequences)
        return await self._run(self._exchanges.embed(batch, normalize, overlong, precision))

    async def info(self) -> dict[str, Any]:
        """See `Client.info`."""
        return await self._run(self._exchanges.info())

    async def _run(self, exchange: Exchange[T]) -> T:
        try:
            step = next(exchange)
            while True:
                if step.delay:
                    await asyncio.sleep(step.delay)
                try:
                    response = await self._http.request(step.method, step.url, **step.options)
                except httpx.TransportError as error:
                    step = exchange.throw(error)
                else:
                    step = exchange.send(response)
        except StopIteration as end:
            result: T = end.value
            return result

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()
