"""Reads the messages of calls, which gRPC puts together by itself: so many at once."""

import asyncio
from weakref import WeakValueDictionary

import grpc.aio

from tritserve.service.errors import (
    ClientGoneError,
    QueueFullError,
    SlowBodyError,
    UnparseableError,
)

# So many connections whose clients are silent it takes to keep all others out.
CONNECTIONS = 8

Context = grpc.aio.ServicerContext[bytes, bytes]


class MessageReader:
    """Reads messages, each in a place of which every connection has its share.

    Args:
        places: how many messages may be on their way at once.
        seconds: how long one may take to arrive; and how long a call waits for a place.
    """

    def __init__(self, places: int, seconds: float) -> None:
        self._seconds = seconds
        self._places = asyncio.Semaphore(places)
        self._share = max(1, places // CONNECTIONS)
        # By address; each lives for as long as a call holds it.
        self._connections: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    async def read(self, context: Context) -> bytes:
        """The first message of a call.

        Raises:
            QueueFullError: others took all places, for too long.
            SlowBodyError: the message did not arrive in time.
            ClientGoneError: the client left.
            UnparseableError: there is no message.
        """
        share = self._connections.setdefault(context.peer(), asyncio.Semaphore(self._share))
        has_place = False
        try:
            async with asyncio.timeout(self._seconds) as limit, share, self._places:
                has_place = True
                limit.reschedule(asyncio.get_running_loop().time() + self._seconds)
                message = await context.read()
        except TimeoutError as error:
            if not has_place:
                raise QueueFullError(
                    f"other messages were on their way for {self._seconds:g} seconds; "
                    "this one was not read",
                    retry_after=1,
                ) from error
            raise SlowBodyError(
                f"the message was not there after {self._seconds:g} seconds"
            ) from error
        if isinstance(message, bytes):
            return message
        if context.done():
            raise ClientGoneError("the client left, or its message cannot be read")
        raise UnparseableError("the call has no message")
