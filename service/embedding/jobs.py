"""Jobs that wait for the engine, and how a batch forms of them."""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from tritserve.model.sequences import FloatArray, LengthArray, Sequences

Number = TypeVar("Number", bound=np.generic)


class Refused(Exception):  # noqa: N818
    """The engine refused sequences of this job; the cause is its exception.

    Attributes:
        first_row: the row of the job that was the engine's row 0.
    """

    def __init__(self, first_row: int) -> None:
        super().__init__(f"refused, counted from row {first_row}")
        self.first_row = first_row


@dataclass(frozen=True, eq=False)
class Result:
    """A job's answer.

    Attributes:
        rows: `[batch, hidden_size]` float32.
        queue_seconds: from submission until its first sequence was computed.
        compute_seconds: spent in calls that computed its sequences.
    """

    rows: FloatArray
    queue_seconds: float
    compute_seconds: float


@dataclass(eq=False)
class Job:
    """A request's sequences on their way through the queue."""

    sequences: Sequences
    offsets: LengthArray
    deadline: float | None
    future: asyncio.Future[Result]
    submitted: float
    started: float | None = None
    compute_seconds: float = 0.0
    taken: int = 0
    rows: list[FloatArray] = field(default_factory=list)

    @property
    def timesteps(self) -> int:
        """All of the job's timesteps."""
        return len(self.sequences.values)

    def queue_seconds(self, now: float) -> float:
        """How long it waited until its first sequence was computed, or waits so far."""
        return (now if self.started is None else self.started) - self.submitted

    def leave_out(self, now: float) -> bool:
        """Whether nobody waits for it any more."""
        return self.future.done() or (self.deadline is not None and self.deadline <= now)

    @property
    def exhausted(self) -> bool:
        """Whether all of its sequences were taken."""
        return self.taken == len(self.sequences)

    def take(self, timesteps: int) -> "Piece":
        """The next sequences, of at most `timesteps` timesteps but at least one."""
        start = self.taken
        limit = self.offsets[start] + timesteps
        self.taken = max(start + 1, int(self.offsets.searchsorted(limit, side="right")) - 1)
        return Piece(self, start, self.taken)


@dataclass(frozen=True, eq=False)
class Piece:
    """Sequences `start` to `stop` of a job, computed in one call."""

    job: Job
    start: int
    stop: int

    @property
    def values(self) -> FloatArray:
        """`[timesteps, embed_dim]` float32."""
        offsets = self.job.offsets
        return self.job.sequences.values[offsets[self.start] : offsets[self.stop]]

    @property
    def lengths(self) -> LengthArray:
        """`[batch]` int64."""
        return self.job.sequences.lengths[self.start : self.stop]

    def refuse(self, cause: Exception) -> None:
        """Answers its job, where somebody still waits, with `Refused`."""
        if not self.job.future.done():
            refusal = Refused(self.start)
            refusal.__cause__ = cause
            self.job.future.set_exception(refusal)


Waiting = OrderedDict[Job, None]
"""Jobs in the order of their turns; any one can leave at once."""


def form_batch(jobs: Waiting, timesteps: int, now: float) -> list[Piece]:
    """Takes sequences from the waiting jobs in turn, an equal share each.

    Jobs that nobody waits for, and those taken whole, leave `jobs`; one taken in part goes to its
    end.

    Args:
        jobs: those that wait, the next one first.
        timesteps: the most to take; one sequence is taken even if it is longer.
        now: on the clock of the deadlines.
    """
    pieces: list[Piece] = []
    left = timesteps
    while jobs and left > 0:
        job = next(iter(jobs))
        if job.leave_out(now):
            del jobs[job]
            continue
        if pieces and job.sequences.lengths[job.taken] > left:
            break
        share = max(left // len(jobs), 1)
        piece = job.take(share)
        if job.started is None:
            job.started = now
        pieces.append(piece)
        left -= len(piece.values)
        if job.exhausted:
            del jobs[job]
        else:
            jobs.move_to_end(job)
    return pieces


def join(parts: list[npt.NDArray[Number]]) -> npt.NDArray[Number]:
    """One after the other along the first axis; a single one as it is."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
