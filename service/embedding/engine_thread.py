"""A thread that computes one batch after another, and tells an event loop of each."""

import asyncio
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

from tritserve.model.sequences import FloatArray, LengthArray

Compute = Callable[..., FloatArray]
Done = Callable[[FloatArray | Exception], None]
_Call = tuple[FloatArray, LengthArray, Mapping[str, Any], Done, asyncio.AbstractEventLoop]


class EngineThread:
    """Calls `compute` in a thread of its own.

    An executor's futures would do, for a third more of the time that handing over takes.

    Args:
        compute: takes `values [timesteps, embed_dim]`, `lengths [batch]` and further arguments,
            returns `[batch, output_size]`.
    """

    def __init__(self, compute: Compute) -> None:
        self._compute = compute
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._started = False

    def call(
        self, values: FloatArray, lengths: LengthArray, arguments: Mapping[str, Any], done: Done
    ) -> None:
        """Computes, then gives what came of it to `done`, in the event loop of the caller."""
        if not self._started:
            self._started = True
            threading.Thread(target=self._run, name="engine", daemon=True).start()
        self._calls.put((values, lengths, arguments, done, asyncio.get_running_loop()))

    def stop(self) -> None:
        """Ends the thread once it has finished its calls."""
        self._calls.put(None)

    def _run(self) -> None:
        # A method for each call: the thread must not hold a batch while it waits for the next.
        while self._answer_next():
            pass

    def _answer_next(self) -> bool:
        call = self._calls.get()
        if call is None:
            return False
        values, lengths, arguments, done, loop = call
        try:
            result: FloatArray | Exception = self._compute(values, lengths, **arguments)
        except Exception as error:
            result = error
        # Where the loop is closed, nobody waits any more.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(done, result)
        return True
