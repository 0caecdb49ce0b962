"""Requests from when they are accepted, before their bodies are read, until answers are sent."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Any, Self, TypeVar

from fastapi import Response
from starlette.types import Receive, Scope, Send

from tritserve.service.embedding.served import ServedModel
from tritserve.service.errors import StoppedError
from tritserve.service.http.body import BodyBudget, Lease

# Of an answer that goes in pieces; as much as the server lets wait in a socket's buffer.
PIECE_BYTES = 64 * 1024

T = TypeVar("T")


class AcceptedRequests:
    """All of them; what is not answered in time can be given up.

    Args:
        bodies: the budget of their bodies, and of those of their answers.
    """

    def __init__(self, bodies: BodyBudget) -> None:
        self.bodies = bodies
        self.given_up = False
        self.tasks: set[asyncio.Task[Any]] = set()

    def give_up(self) -> None:
        """Ends all of them with StoppedError, wherever they are."""
        self.given_up = True
        for task in self.tasks:
            task.cancel()

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Runs `work` in a thread; if cancelled, ends when it is through, for it holds memory.

        Nothing waits for a thread any more once everything is given up.
        """
        running = asyncio.ensure_future(asyncio.to_thread(work))
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            if not self.given_up:
                await asyncio.wait([running])
            raise
        finally:
            # Its exception leads to this frame, and both to what was asked.
            del running


class Accepted:
    """A request's hold on the model that answers it, and on the memory that bodies take.

    Attributes:
        served: the model.
        lease: of the memory.
    """

    __slots__ = ("_requests", "_task", "lease", "served")

    def __init__(self, requests: AcceptedRequests, served: ServedModel) -> None:
        task = asyncio.current_task()
        assert task
        self.served = served
        self.lease = Lease(requests.bodies)
        self._requests = requests
        self._task = task

    def __enter__(self) -> Self:
        self.served.users += 1
        self._requests.tasks.add(self._task)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, _: TracebackType | None
    ) -> None:
        self._requests.tasks.discard(self._task)
        self.served.users -= 1
        self.lease.give_back()
        if self._requests.given_up and kind is asyncio.CancelledError:
            self._task.uncancel()
            raise StoppedError from None


class HeldAnswer(Response):
    """An answer that keeps its request's hold until the client has taken it, or is gone.

    Args:
        content: the body.
        headers: beside its length.
        hold: of the request; ended here, whether or not the answer can be sent.
    """

    def __init__(self, content: bytes, headers: Mapping[str, str], hold: ExitStack) -> None:
        super().__init__(content, headers=headers)
        self._hold = hold

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # If all are given up, the server closes the connection of an answer that is not complete.
        with suppress(StoppedError), self._hold:
            if len(self.body) <= PIECE_BYTES:
                await super().__call__(scope, receive, send)
                return
            await send(
                {
                    "type": "http.response.start",
                    "status": self.status_code,
                    "headers": self.raw_headers,
                }
            )
            # Each waits until the one before has left, all but the rest in the socket's buffer.
            view = memoryview(self.body)
            for start in range(0, len(view), PIECE_BYTES):
                piece = bytes(view[start : start + PIECE_BYTES])
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
