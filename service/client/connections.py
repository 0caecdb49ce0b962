"""The connections of a client, apart for each process and event loop that asks."""

import asyncio
import os
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import httpx

Http = TypeVar("Http", bound=httpx.Client | httpx.AsyncClient)


class Connections(Generic[Http]):
    """An httpx client for each place: a process, or an event loop in one.

    A connection that a forked process inherits is still its parent's, and each would read the
    other's answers; one that was opened in another event loop cannot be awaited.

    Args:
        kind: `httpx.Client` or `httpx.AsyncClient`.
        options: its arguments.
    """

    def __init__(self, kind: Callable[..., Http], options: dict[str, Any]) -> None:
        self._kind = kind
        self._options = options
        self._closed = False
        # The first is made here, so that a wrong option is told where it was written.
        self._unused = [kind(**options)]
        self._used: dict[tuple[int, asyncio.AbstractEventLoop | None], Http] = {}

    def here(self, loop: asyncio.AbstractEventLoop | None = None) -> Http:
        """The httpx client of this process and, for asyncio, this event loop.

        Raises:
            RuntimeError: the client is closed, or was given a transport, which cannot be made
                again, and has used it elsewhere.
        """
        if self._closed:
            raise RuntimeError("this client is closed; make a new one")
        place = (os.getpid(), loop)
        http = self._used.get(place)
        if http is not None:
            return http
        if self._used and self._has_transport():
            raise RuntimeError(
                "this client was given a transport and has used it in another process or event "
                "loop; make a client in each"
            )
        # Not closed: in a child, a thread that is no more may hold the locks that closing takes.
        for pid, other in list(self._used):
            if pid != place[0] or (other is not None and other.is_closed()):
                self._used.pop((pid, other), None)
        # Of threads that come here at once, all get the same.
        return self._used.setdefault(place, self._fresh())

    def end(self, loop: asyncio.AbstractEventLoop | None = None) -> Http | None:
        """Refuses all further use; returns what is to be closed here, if there is something."""
        self._closed = True
        unused = self._unused.pop() if self._unused else None
        return self._used.pop((os.getpid(), loop), unused)

    def _has_transport(self) -> bool:
        mounts = self._options.get("mounts") or {}
        given = [self._options.get("transport"), *mounts.values()]
        return any(transport is not None for transport in given)

    def _fresh(self) -> Http:
        try:
            return self._unused.pop()
        except IndexError:
            return self._kind(**self._options)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_unused": [], "_used": {}}
