"""A request's body, and whether its client is still there."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

from service.errors import BodyTooLargeError, ClientGoneError

T = TypeVar("T")


async def read_body(request: Request, limit: int) -> bytes:
    """Reads a body, but no more than `limit` bytes of it.

    Raises:
        BodyTooLargeError: the body is, or says that it is, longer.
        ClientGoneError: the client left before it had sent everything.
    """
    declared = request.headers.get("content-length")
    if declared and declared.isdecimal() and (len(declared) > 18 or int(declared) > limit):
        raise _too_large(limit, f"{declared[:18]} bytes", int(declared[:18]))
    chunks: list[bytes] = []
    size = 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > limit:
                raise _too_large(limit, f"{size} bytes or more", size)
            chunks.append(chunk)
    except ClientDisconnect as error:
        raise ClientGoneError("the client left before its request was complete") from error
    return b"".join(chunks)


def _too_large(limit: int, actual: str, size: int) -> BodyTooLargeError:
    message = f"the body has {actual}; at most {limit} are read"
    return BodyTooLargeError(message, limit=limit, size=size)


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Awaits `work`, and cancels it when the client leaves.

    The request's body must have been read.

    Raises:
        ClientGoneError: the client left.
    """
    caller = asyncio.current_task()
    assert caller is not None
    waiting = True

    def leave(watch: "asyncio.Task[None]") -> None:
        if waiting and not watch.cancelled():
            caller.cancel()

    watch = asyncio.ensure_future(_until_disconnected(request))
    watch.add_done_callback(leave)
    try:
        return await work
    except asyncio.CancelledError:
        if not watch.done():
            raise
        caller.uncancel()
        raise ClientGoneError("the client left before the answer") from None
    finally:
        waiting = False
        watch.cancel()


async def _until_disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
