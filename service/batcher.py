"""The queue between requests and an engine.

It knows no model and no HTTP: it is given a callable that turns a ragged batch into rows. Batches
form while the callable is busy, never by a timer: when it is free, whatever waits goes in, up to a
budget of timesteps. Every waiting job gets an equal share of a batch, so that a large one is
computed in pieces and does not hold up small ones; that is right only because an answer does not
depend on its batch.

Admission is counted in timesteps, from submission until the answer, the refusal or the caller's
leaving. A job larger than the whole limit is admitted when nothing else is there.
"""

import asyncio
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

from model.sequences import FloatArray, LengthArray, Sequences
from service.errors import DeadlineError, QueueFullError, UnavailableError
from service.jobs import Job, Piece, Result, Waiting, form_batch, join

Compute = Callable[[FloatArray, LengthArray], FloatArray]

# Until something was measured; only the first Retry-After depends on it.
INITIAL_RATE = 50_000.0
# What earlier calls weigh in the rate after one more.
RATE_MEMORY = 0.8


class Refused(Exception):  # noqa: N818
    """The callable refused sequences of this job; the cause is its exception.

    Attributes:
        first_row: the row of the job that was the callable's row 0.
    """

    def __init__(self, first_row: int) -> None:
        super().__init__(f"refused, counted from row {first_row}")
        self.first_row = first_row


@dataclass(frozen=True)
class BatchReport:
    """One call of the engine: its sequences, timesteps and seconds."""

    sequences: int
    timesteps: int
    seconds: float


class Batcher:
    """Gathers jobs into batches for one engine, which runs in a thread of its own.

    Args:
        compute: takes `values [timesteps, embed_dim]` and `lengths [batch]`, returns
            `[batch, hidden_size]`; called in one thread, one call at a time.
        refused: exceptions by which `compute` refuses a batch for what is in it; they reach only
            the job that caused them. Any other exception is a failure of the engine.
        queue_timesteps: limit of admission.
        batch_timesteps: budget of one call.
        stuck_seconds: a call that takes longer is taken for stuck: whoever waits is refused, and
            so is whoever comes, until it returns.
        on_batch: called after each call.
    """

    def __init__(
        self,
        compute: Compute,
        *,
        refused: tuple[type[Exception], ...],
        queue_timesteps: int,
        batch_timesteps: int,
        stuck_seconds: float = 60.0,
        on_batch: Callable[[BatchReport], None] = lambda _: None,
    ) -> None:
        self._compute = compute
        self._refused = refused
        self._queue_timesteps = queue_timesteps
        self._batch_timesteps = batch_timesteps
        self._stuck_seconds = stuck_seconds
        self._on_batch = on_batch
        self._jobs = Waiting()
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._worker: asyncio.Task[None] | None = None
        # Timesteps and seconds of the calls so far, earlier ones weighing less.
        self._measured = (INITIAL_RATE, 1.0)
        self._stuck = False
        self._draining = False
        self._admitted: set[Job] = set()
        self._admitted_timesteps = 0
        self._failure: str | None = None

    def start(self) -> None:
        """Starts computing; call it inside the event loop."""
        self._worker = asyncio.create_task(self._run(), name="batcher")

    @property
    def admitted_requests(self) -> int:
        """Jobs waiting or computing."""
        return len(self._admitted)

    @property
    def admitted_timesteps(self) -> int:
        """Timesteps waiting or computing."""
        return self._admitted_timesteps

    @property
    def stuck(self) -> bool:
        """Whether the current call has taken longer than `stuck_seconds`."""
        return self._stuck

    @property
    def unavailable(self) -> str | None:
        """Why nothing is computed, or None while everything is well."""
        if self._failure:
            return f"the engine has failed: {self._failure}"
        if self._stuck:
            return f"the engine has been in one call for over {self._stuck_seconds:g} seconds"
        return "the queue is closed" if self._draining else None

    async def submit(self, sequences: Sequences, deadline: float | None = None) -> Result:
        """Computes a batch.

        Cancelling the caller frees its place; sequences not yet computed never are.

        Args:
            sequences: the job.
            deadline: on the clock of `time.monotonic`; a job is not computed after it.

        Raises:
            QueueFullError: there is no place for so many timesteps now.
            UnavailableError: the batcher drains, or the engine has failed.
            DeadlineError: the deadline passed.
            Refused: the callable raised one of `refused`, caused by this job.
        """
        if reason := self.unavailable:
            raise UnavailableError(reason)
        self._check_room(len(sequences.values))
        job = Job(
            sequences=sequences,
            offsets=sequences.offsets,
            deadline=deadline,
            future=asyncio.get_running_loop().create_future(),
            submitted=time.monotonic(),
        )
        self._admitted.add(job)
        self._admitted_timesteps += job.timesteps
        self._idle.clear()
        self._jobs[job] = None
        self._wake.set()
        try:
            if deadline is None:
                return await job.future
            return await asyncio.wait_for(job.future, max(0.0, deadline - time.monotonic()))
        except TimeoutError as error:
            raise DeadlineError("the request's time limit passed before it was computed") from error
        finally:
            self._admitted.remove(job)
            self._jobs.pop(job, None)
            self._admitted_timesteps -= job.timesteps
            if not self._admitted:
                self._idle.set()

    async def drain(self, seconds: float) -> bool:
        """Admits nothing more, finishes what was admitted, and stops.

        Args:
            seconds: the longest to wait.

        Returns:
            Whether everything was finished in time; what was not is answered UnavailableError.
        """
        self._draining = True
        finished = True
        try:
            await asyncio.wait_for(self._idle.wait(), seconds)
        except TimeoutError:
            finished = False
            self._fail_all()
        if self._worker:
            self._worker.cancel()
            with suppress(asyncio.CancelledError):
                await self._worker
        # A call whose callers have all left may still be running: the loop does not wait for it.
        self._thread.shutdown(wait=False, cancel_futures=True)
        return finished

    def _check_room(self, timesteps: int) -> None:
        waiting = self.admitted_timesteps
        if waiting and waiting + timesteps > self._queue_timesteps:
            excess = min(waiting, waiting + timesteps - self._queue_timesteps)
            measured_timesteps, measured_seconds = self._measured
            raise QueueFullError(
                f"{waiting} timesteps are waiting, this request has {timesteps}, "
                f"the queue takes {self._queue_timesteps}",
                retry_after=max(1, math.ceil(excess * measured_seconds / measured_timesteps)),
            )

    async def _run(self) -> None:
        while True:
            try:
                pieces = form_batch(self._jobs, self._batch_timesteps, time.monotonic())
                if pieces:
                    await self._compute_batch(pieces)
                else:
                    self._wake.clear()
                    await self._wake.wait()
            except Exception as error:
                self._failure = f"{type(error).__name__}: {error}"
                self._fail_all()

    async def _compute_batch(self, pieces: list[Piece]) -> None:
        try:
            rows = await self._call(pieces)
        except Exception as error:
            # One of several may be at fault: alone, each gets its own answer.
            if len(pieces) > 1:
                for piece in pieces:
                    if not piece.job.future.done():
                        await self._compute_batch([piece])
            elif isinstance(error, self._refused):
                _refuse(pieces[0], error)
            else:
                raise
            return
        start = 0
        for piece in pieces:
            stop = start + piece.stop - piece.start
            self._deliver(piece.job, rows[start:stop])
            start = stop

    async def _call(self, pieces: list[Piece]) -> FloatArray:
        values = join([piece.values for piece in pieces])
        lengths = join([piece.lengths for piece in pieces])
        loop = asyncio.get_running_loop()
        watchdog = loop.call_later(self._stuck_seconds, self._declare_stuck)
        start = time.monotonic()
        try:
            rows = await loop.run_in_executor(self._thread, self._compute, values, lengths)
        finally:
            watchdog.cancel()
            self._stuck = False
            seconds = time.monotonic() - start
            for job in {piece.job for piece in pieces}:
                job.compute_seconds += seconds
        if len(rows) != len(lengths):
            raise RuntimeError(f"{len(rows)} rows came back for {len(lengths)} sequences")
        self._measured = (
            RATE_MEMORY * self._measured[0] + len(values),
            RATE_MEMORY * self._measured[1] + seconds,
        )
        self._on_batch(BatchReport(len(lengths), len(values), seconds))
        return rows

    def _deliver(self, job: Job, part: FloatArray) -> None:
        job.rows.append(part)
        if job.future.done() or sum(map(len, job.rows)) < len(job.sequences):
            return
        queued = (job.started or job.submitted) - job.submitted
        job.future.set_result(Result(join(job.rows), queued, job.compute_seconds))

    def _declare_stuck(self) -> None:
        self._stuck = True
        self._fail_all()

    def _fail_all(self) -> None:
        self._jobs.clear()
        for job in self._admitted:
            if not job.future.done():
                job.future.set_exception(UnavailableError(self.unavailable or "closed"))


def _refuse(piece: Piece, error: Exception) -> None:
    if not piece.job.future.done():
        refusal = Refused(piece.start)
        refusal.__cause__ = error
        piece.job.future.set_exception(refusal)
