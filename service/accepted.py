"""Requests from when they are accepted, before their bodies are read, until they are answered."""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar

from service.body import BodyBudget, Lease
from service.errors import StoppedError
from service.served import ServedModel

T = TypeVar("T")


class AcceptedRequests:
    """All of them; what is not answered in time can be given up.

    Args:
        bodies: the budget of their bodies.
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
    """A request's hold on the model that answers it, and on the memory that its body takes."""

    __slots__ = ("_lease", "_requests", "_served", "_task")

    def __init__(self, requests: AcceptedRequests, served: ServedModel) -> None:
        task = asyncio.current_task()
        assert task
        self._requests = requests
        self._served = served
        self._lease = Lease(requests.bodies)
        self._task = task

    def __enter__(self) -> tuple[ServedModel, Lease]:
        self._served.users += 1
        self._requests.tasks.add(self._task)
        return self._served, self._lease

    def __exit__(
        self, kind: type[BaseException] | None, error: object, _: TracebackType | None
    ) -> None:
        self._requests.tasks.discard(self._task)
        self._served.users -= 1
        self._lease.give_back()
        if self._requests.given_up and kind is asyncio.CancelledError:
            self._task.uncancel()
            raise StoppedError from None
