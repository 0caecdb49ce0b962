"""The bodies of requests: what memory they take, and whether their clients are still there."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.types import Receive

from tritserve.service.errors import (
    BodyTooLargeError,
    ClientGoneError,
    QueueFullError,
    SlowBodyError,
)
from tritserve.service.http.incoming import Incoming

# Most answers are there sooner, and a task that watches the client costs as much as decoding.
UNWATCHED_SECONDS = 0.005

T = TypeVar("T")


class BodyBudget:
    """Memory for the bodies of all requests and answers, from when they come until they are sent.

    The queue counts timesteps, which are known only once a body is there, and are forgotten once
    they are computed; this bounds what many clients can make the service hold before and after.

    Args:
        limit: bytes. What is alone is never refused.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0


class Lease:
    """What one request has taken of a budget, until it gives it back."""

    def __init__(self, budget: BodyBudget) -> None:
        self._budget = budget
        self.size = 0

    def grow(self, size: int) -> None:
        """Takes `size` bytes more.

        Raises:
            QueueFullError: there is no room for them beside what others hold.
        """
        budget = self._budget
        others = budget.used - self.size
        if others and budget.used + size > budget.limit:
            raise QueueFullError(
                f"other requests and answers hold {others} bytes, of {budget.limit} for all",
                retry_after=1,
            )
        self._set(self.size + size)

    def shrink(self, size: int) -> None:
        """Keeps `size` bytes, and gives back the rest."""
        self._set(min(size, self.size))

    def give_back(self) -> None:
        """Ends it."""
        self._set(0)

    def _set(self, size: int) -> None:
        self._budget.used += size - self.size
        self.size = size


async def read_body(
    incoming: Incoming, limit: int, seconds: float, lease: Lease | None = None
) -> bytes:
    """Reads a body, but no more than `limit` bytes of it, and for no longer than `seconds`.

    It is taken of the lease's budget, or of none where the limit alone is low enough.

    Raises:
        BodyTooLargeError: the body is, or says that it is, longer.
        QueueFullError: the budget has no room for it.
        SlowBodyError: it was not there in time.
        ClientGoneError: the client left before it had sent everything.
    """
    declared = incoming.headers.get("content-length")
    if declared and declared.isdecimal() and (len(declared) > 18 or int(declared) > limit):
        raise _too_large(limit, f"{declared[:18]} bytes", int(declared[:18]))
    chunks: list[bytes] = []
    size = 0
    more = True
    try:
        async with asyncio.timeout(seconds):
            while more:
                message = await incoming.receive()
                if message["type"] == "http.disconnect":
                    raise ClientGoneError("the client left before its request was complete")
                chunk = message.get("body", b"")
                more = message.get("more_body", False)
                size += len(chunk)
                if size > limit:
                    raise _too_large(limit, f"{size} bytes or more", size)
                if lease is not None:
                    lease.grow(len(chunk))
                chunks.append(chunk)
    except TimeoutError as error:
        raise SlowBodyError(
            f"the body was not complete after {seconds:g} seconds, {size} bytes had come"
        ) from error
    return b"".join(chunks)


def _too_large(limit: int, actual: str, size: int) -> BodyTooLargeError:
    message = f"the body has {actual}; at most {limit} are read"
    return BodyTooLargeError(message, limit=limit, size=size)


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Awaits `work`, and cancels it when the client leaves.

    The request's body must have been read. In the first `UNWATCHED_SECONDS` nothing is cancelled.

    Raises:
        ClientGoneError: the client left.
    """
    caller = asyncio.current_task()
    assert caller is not None
    waiting = True

    def leave(watch: "asyncio.Task[None]") -> None:
        if waiting and not watch.cancelled():
            caller.cancel()

    watch: asyncio.Task[None] | None = None

    def start() -> None:
        nonlocal watch
        watch = asyncio.ensure_future(_until_disconnected(receive))
        watch.add_done_callback(leave)

    timer = asyncio.get_running_loop().call_later(UNWATCHED_SECONDS, start)
    try:
        return await work
    except asyncio.CancelledError:
        if not (watch and watch.done()):
            raise
        caller.uncancel()
        raise ClientGoneError("the client left before the answer") from None
    finally:
        waiting = False
        timer.cancel()
        if watch:
            watch.cancel()


async def _until_disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
