"""The queue between requests and an engine.

It knows no model and no HTTP: it is given a callable that turns a ragged batch into rows. Batches
form while the callable is busy, never by a timer: when it is free, whatever waits goes in, up to a
budget of timesteps. Every waiting job gets an equal share of a batch, so that a large one is
computed in pieces and does not hold up small ones; that is right only because an answer does not
depend on its batch. A batch is one array and one call: jobs of another width, or that want another
call, take their turn after it.

Admission is counted in timesteps, from submission until the answer, the refusal or the caller's
leaving; a `Cost` says how many a sequence counts. A job larger than the whole limit is admitted
when nothing else is there.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass

from tritserve.model.sequences import FloatArray, Sequences
from tritserve.service.embedding.engine_thread import Compute, EngineThread
from tritserve.service.embedding.jobs import Job, Piece, Result, Waiting, join
from tritserve.service.errors import DeadlineError, QueueFullError, UnavailableError
from tritserve.service.forms.cost import TIMESTEPS, Cost
from tritserve.service.observing.reports import BatchReport

# Until something was measured; only the first Retry-After depends on it.
INITIAL_RATE = 50_000.0
# What earlier calls weigh in the rate after one more.
RATE_MEMORY = 0.8


@dataclass(frozen=True, eq=False)
class _Call:
    """The call that the engine is in."""

    pieces: list[Piece]
    timesteps: int
    sequences: int
    started: float
    watchdog: asyncio.TimerHandle


class Batcher:
    """Gathers jobs into batches for one engine, which runs in a thread of its own.

    Args:
        compute: takes `values [timesteps, embed_dim]`, `lengths [batch]` and a job's further
            arguments, returns `[batch, output_size]`; called in a thread, one call at a time.
        refused: exceptions by which `compute` refuses a batch for what is in it; they reach only
            the job that caused them. Any other exception is a failure of the engine.
        queue_timesteps: limit of admission.
        batch_timesteps: budget of one call.
        cost: how many timesteps a sequence counts, for either.
        stuck_seconds: a call that takes longer is taken for stuck: whoever waits is refused, and
            so is whoever comes, until it returns.
        on_batch: called after each call.
        on_wait: called with the seconds that a job waited, until it was taken up or left before.
    """

    def __init__(
        self,
        compute: Compute,
        *,
        refused: tuple[type[Exception], ...],
        queue_timesteps: int,
        batch_timesteps: int,
        cost: Cost = TIMESTEPS,
        stuck_seconds: float = 60.0,
        on_batch: Callable[[BatchReport], None] = lambda _: None,
        on_wait: Callable[[float], None] = lambda _: None,
    ) -> None:
        self._refused = refused
        self._queue_timesteps = queue_timesteps
        self._batch_timesteps = batch_timesteps
        self._cost = cost
        self._stuck_seconds = stuck_seconds
        self._on_batch = on_batch
        self._on_wait = on_wait
        self._jobs = Waiting()
        # Pieces of a call that failed, to be computed one by one.
        self._alone: deque[Piece] = deque()
        self._call: _Call | None = None
        self._scheduled = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._thread = EngineThread(compute)
        # Timesteps and seconds of the calls so far, earlier ones weighing less.
        self._measured = (INITIAL_RATE, 1.0)
        self._stuck = False
        self._draining = False
        self._admitted: set[Job] = set()
        self._admitted_timesteps = 0
        self._failure: str | None = None

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

    async def submit(
        self, sequences: Sequences, deadline: float | None = None, **arguments: Hashable
    ) -> Result:
        """Computes a batch.

        Cancelling the caller frees its place; sequences not yet computed never are.

        Args:
            sequences: the job.
            deadline: on the clock of `time.monotonic`; a job is not computed after it.
            **arguments: further ones of the callable.

        Raises:
            QueueFullError: there is no place for so many timesteps now.
            UnavailableError: the batcher drains, or the engine has failed.
            DeadlineError: the deadline passed.
            Refused: the callable raised one of `refused`, caused by this job.
        """
        if reason := self.unavailable:
            raise UnavailableError(reason)
        costs = self._cost.offsets(sequences)
        self._check_room(int(costs[-1]))
        loop = asyncio.get_running_loop()
        job = Job(
            sequences=sequences,
            offsets=sequences.offsets,
            costs=costs,
            arguments=arguments,
            deadline=deadline,
            future=loop.create_future(),
            submitted=time.monotonic(),
        )
        self._admitted.add(job)
        self._admitted_timesteps += job.cost
        self._idle.clear()
        self._jobs.add(job)
        if not self._call and not self._scheduled:
            # Not at once: what came together goes into one batch.
            self._scheduled = True
            loop.call_soon(self._start_next)
        try:
            if deadline is None:
                return await job.future
            return await asyncio.wait_for(job.future, max(0.0, deadline - time.monotonic()))
        except TimeoutError as error:
            raise DeadlineError("the request's time limit passed before it was computed") from error
        finally:
            self._admitted.remove(job)
            self._jobs.discard(job)
            self._admitted_timesteps -= job.cost
            self._on_wait(job.queue_seconds(time.monotonic()))
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
        with suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), seconds)
        finished = self._idle.is_set()
        if not finished:
            self._fail_all()
        # A call whose callers have all left may still be running: the loop does not wait for it.
        self._thread.stop()
        return finished

    def _check_room(self, timesteps: int) -> None:
        waiting = self.admitted_timesteps
        if waiting and waiting + timesteps > self._queue_timesteps:
            excess = min(waiting, waiting + timesteps - self._queue_timesteps)
            measured_timesteps, measured_seconds = self._measured
            raise QueueFullError(
                f"{waiting} timesteps are waiting, this request counts {timesteps}, "
                f"the queue takes {self._queue_timesteps}",
                retry_after=max(1, math.ceil(excess * measured_seconds / measured_timesteps)),
            )

    def _start_next(self) -> None:
        self._scheduled = False
        now = time.monotonic()
        try:
            pieces = self._next_pieces(now)
            if pieces:
                values = join([piece.values for piece in pieces])
                lengths = join([piece.lengths for piece in pieces])
                loop = asyncio.get_running_loop()
                watchdog = loop.call_later(self._stuck_seconds, self._declare_stuck)
                cost = sum(piece.cost for piece in pieces)
                self._call = _Call(pieces, cost, len(lengths), now, watchdog)
                self._thread.call(values, lengths, pieces[0].job.arguments, self._finish_call)
        except Exception as error:
            self._fail(error)

    def _next_pieces(self, now: float) -> list[Piece]:
        while self._alone:
            piece = self._alone.popleft()
            if not piece.job.future.done():
                return [piece]
        return self._jobs.form_batch(self._batch_timesteps, now)

    def _finish_call(self, result: FloatArray | Exception) -> None:
        call, self._call = self._call, None
        assert call
        call.watchdog.cancel()
        self._stuck = False
        seconds = time.monotonic() - call.started
        for job in {piece.job for piece in call.pieces}:
            job.compute_seconds += seconds
        try:
            self._settle(call, result, seconds)
        except Exception as error:
            self._fail(error)
        self._start_next()

    def _settle(self, call: _Call, result: FloatArray | Exception, seconds: float) -> None:
        if not isinstance(result, Exception):
            if len(result) != call.sequences:
                raise RuntimeError(f"{len(result)} rows came back for {call.sequences} sequences")
            self._measure(BatchReport(call.sequences, call.timesteps, seconds))
            self._deliver(call.pieces, result)
        elif len(call.pieces) > 1:
            # One of several may be at fault: alone, each gets its own answer.
            self._alone.extend(call.pieces)
        elif isinstance(result, self._refused):
            call.pieces[0].refuse(result)
        else:
            raise result

    def _measure(self, report: BatchReport) -> None:
        self._measured = (
            RATE_MEMORY * self._measured[0] + report.timesteps,
            RATE_MEMORY * self._measured[1] + report.seconds,
        )
        self._on_batch(report)

    def _deliver(self, pieces: list[Piece], rows: FloatArray) -> None:
        start = 0
        for piece in pieces:
            stop = start + piece.stop - piece.start
            job = piece.job
            job.rows.append(rows[start:stop])
            start = stop
            if job.future.done() or sum(map(len, job.rows)) < len(job.sequences):
                continue
            queued = job.queue_seconds(time.monotonic())
            job.future.set_result(Result(join(job.rows), queued, job.compute_seconds))

    def _declare_stuck(self) -> None:
        self._stuck = True
        self._fail_all()

    def _fail(self, error: Exception) -> None:
        self._failure = f"{type(error).__name__}: {error}"
        self._fail_all()

    def _fail_all(self) -> None:
        self._jobs.clear()
        for job in self._admitted:
            if not job.future.done():
                job.future.set_exception(UnavailableError(self.unavailable or "closed"))
