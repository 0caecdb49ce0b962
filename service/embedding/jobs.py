"""Jobs that wait for the engine, and how a batch forms of them."""

import asyncio
from collections import OrderedDict
from collections.abc import Hashable, Mapping
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
        rows: `[batch, output_size]` float32.
        queue_seconds: from submission until its first sequence was computed.
        compute_seconds: spent in calls that computed its sequences.
    """

    rows: FloatArray
    queue_seconds: float
    compute_seconds: float


@dataclass(eq=False)
class Job:
    """A request's sequences on their way through the queue.

    Attributes:
        offsets: `[batch + 1]`, where each sequence begins among the timesteps.
        costs: `[batch + 1]`, what those before each cost.
        arguments: further ones of the engine's call.
    """

    sequences: Sequences
    offsets: LengthArray
    costs: LengthArray
    arguments: Mapping[str, Hashable]
    deadline: float | None
    future: asyncio.Future[Result]
    submitted: float
    started: float | None = None
    compute_seconds: float = 0.0
    taken: int = 0
    rows: list[FloatArray] = field(default_factory=list)

    @property
    def cost(self) -> int:
        """Of all of the job's sequences."""
        return int(self.costs[-1])

    @property
    def next_cost(self) -> int:
        """Of the next sequence."""
        return int(self.costs[self.taken + 1] - self.costs[self.taken])

    @property
    def kind(self) -> Hashable:
        """Jobs of one kind may be computed in one call."""
        return self.sequences.values.shape[1], *self.arguments.items()

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

    def take(self, cost: int) -> "Piece":
        """The next sequences, that cost at most `cost` but are at least one."""
        start = self.taken
        limit = self.costs[start] + cost
        self.taken = max(start + 1, int(self.costs.searchsorted(limit, side="right")) - 1)
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

    @property
    def cost(self) -> int:
        """Of its sequences."""
        costs = self.job.costs
        return int(costs[self.stop] - costs[self.start])

    def refuse(self, cause: Exception) -> None:
        """Answers its job, where somebody still waits, with `Refused`."""
        if not self.job.future.done():
            refusal = Refused(self.start)
            refusal.__cause__ = cause
            self.job.future.set_exception(refusal)


class Waiting:
    """Jobs that wait, kind by kind, each in the order of its turns; any one can leave at once."""

    def __init__(self) -> None:
        self._kinds: OrderedDict[Hashable, OrderedDict[Job, None]] = OrderedDict()

    def add(self, job: Job) -> None:
        """Puts a job at the end of its kind, and a kind that did not wait at the end of all."""
        self._kinds.setdefault(job.kind, OrderedDict())[job] = None

    def discard(self, job: Job) -> None:
        """Takes a job out, if it waits."""
        jobs = self._kinds.get(job.kind)
        if jobs is not None:
            jobs.pop(job, None)
            if not jobs:
                del self._kinds[job.kind]

    def clear(self) -> None:
        """Takes all out."""
        self._kinds.clear()

    def form_batch(self, cost: int, now: float) -> list[Piece]:
        """Takes sequences from the jobs whose kind is next, in turn, an equal share each.

        Jobs that nobody waits for, and those taken whole, are out; one taken in part goes to the
        end of its kind, and the kind to the end of all.

        Args:
            cost: of the most to take; one sequence is taken even if it costs more.
            now: on the clock of the deadlines.
        """
        pieces: list[Piece] = []
        while self._kinds and not pieces:
            kind, jobs = self._kinds.popitem(last=False)
            pieces = _take_turns(jobs, cost, now)
            if jobs:
                self._kinds[kind] = jobs
        return pieces


def _take_turns(jobs: OrderedDict[Job, None], cost: int, now: float) -> list[Piece]:
    pieces: list[Piece] = []
    left = cost
    while jobs and left > 0:
        job = next(iter(jobs))
        if job.leave_out(now):
            del jobs[job]
            continue
        if pieces and job.next_cost > left:
            break
        share = max(left // len(jobs), 1)
        piece = job.take(share)
        if job.started is None:
            job.started = now
        pieces.append(piece)
        left -= piece.cost
        if job.exhausted:
            del jobs[job]
        else:
            jobs.move_to_end(job)
    return pieces


def join(parts: list[npt.NDArray[Number]]) -> npt.NDArray[Number]:
    """One after the other along the first axis; a single one as it is."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
