"""A client: numpy arrays in, numpy arrays out.

    with Client("http://127.0.0.1:8000") as client:
        embeddings = client.embed([first, second])  # arrays [seq_len, embed_dim]
        answer = client.embed_detailed([first, second], overlong="keep_last")
        answer.embeddings, answer.truncated, answer.model.revision, answer.timing_ms.compute

A batch over the service's limits, or those of a proxy before it, is sent in parts, one after the
other; if the model changes in between, all of it is sent once more. Answers 429 and 503 are retried
as their Retry-After tells; a request whose connection breaks is sent again.
"""

import asyncio
import time
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
import numpy.typing as npt

from tritserve.service.client.base import BaseClient, SequencesLike
from tritserve.service.client.connections import Connections
from tritserve.service.client.exchange import Exchange, ModelChangedError
from tritserve.service.client.replies import Answer, Model, RequestError, Timing

__all__ = [
    "Answer",
    "AsyncClient",
    "Client",
    "Model",
    "ModelChangedError",
    "RequestError",
    "SequencesLike",
    "Timing",
]

T = TypeVar("T")


class Client(BaseClient[npt.NDArray[Any], Answer, dict[str, Any]]):
    """A blocking client.

    Threads may share it. Each process has connections of its own: a client may be made before a
    fork and used on both sides of it, or be pickled.
    """

    _http = httpx.Client
    _connections: Connections[httpx.Client]

    def _run(self, exchange: Exchange[T]) -> T:
        http = self._connections.here()
        try:
            step = next(exchange)
            while True:
                if step.delay:
                    time.sleep(step.delay)
                try:
                    response = http.request(step.method, step.url, **step.options)
                except httpx.TransportError as error:
                    step = exchange.throw(error)
                else:
                    step = exchange.send(response)
        except StopIteration as end:
            result: T = end.value
            return result

    def close(self) -> None:
        """Closes the connections of this process; the client cannot be used any more."""
        if http := self._connections.end():
            http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class AsyncClient(
    BaseClient[
        Coroutine[Any, Any, npt.NDArray[Any]],
        Coroutine[Any, Any, Answer],
        Coroutine[Any, Any, dict[str, Any]],
    ]
):
    """A client for asyncio: as `Client`, its calls awaited.

    Each event loop has connections of its own, as each process has: a client may be used in one
    `asyncio.run` after the other, or in the loops of several threads.
    """

    _http = httpx.AsyncClient
    _connections: Connections[httpx.AsyncClient]

    async def _run(self, exchange: Exchange[T]) -> T:
        http = self._connections.here(asyncio.get_running_loop())
        try:
            step = next(exchange)
            while True:
                if step.delay:
                    await asyncio.sleep(step.delay)
                try:
                    response = await http.request(step.method, step.url, **step.options)
                except httpx.TransportError as error:
                    step = exchange.throw(error)
                else:
                    step = exchange.send(response)
        except StopIteration as end:
            result: T = end.value
            return result

    async def close(self) -> None:
        """Closes the connections of this event loop; the client cannot be used any more."""
        if http := self._connections.end(asyncio.get_running_loop()):
            await http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()
