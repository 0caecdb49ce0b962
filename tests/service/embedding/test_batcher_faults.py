"""What goes wrong in an engine stays with the job that caused it, or reaches everyone."""

import asyncio
import gc
import threading
import time
import weakref

import numpy as np
import pytest

from tests.builders import random_batch
from tritserve.service.embedding.batcher import Batcher
from tritserve.service.embedding.jobs import Refused
from tritserve.service.errors import DeadlineError, UnavailableError


def batcher(compute, queue=100_000, batch=64):
    return Batcher(compute, refused=(ValueError,), queue_timesteps=queue, batch_timesteps=batch)


def first_timesteps(values, lengths):
    return values[np.cumsum(lengths) - lengths]


def test_a_refusal_tells_the_row_of_its_job():
    def compute(values, lengths):
        rows = first_timesteps(values, lengths)
        bad = np.flatnonzero(rows[:, 0] == 7)
        if len(bad):
            raise ValueError(int(bad[0]))
        return rows

    async def main():
        queue = batcher(compute, batch=10)
        job = random_batch([1] * 35, 2)
        job.values[27, 0] = 7
        with pytest.raises(Refused) as caught:
            await queue.submit(job)
        assert caught.value.first_row + caught.value.__cause__.args[0] == 27
        assert (await queue.submit(random_batch([1, 2], 2))).rows.shape == (2, 2)
        assert queue.unavailable is None
        await queue.drain(1)

    asyncio.run(main())


def test_what_fails_only_together_is_answered_alone():
    def compute(values, lengths):
        time.sleep(0.01)
        if len(lengths) > 1:
            raise MemoryError
        return first_timesteps(values, lengths)

    async def main():
        queue = batcher(compute)
        jobs = [random_batch([2], 2, seed) for seed in range(6)]
        results = await asyncio.gather(*map(queue.submit, jobs))
        for job, result in zip(jobs, results, strict=True):
            np.testing.assert_array_equal(result.rows, job.values[:1])
        assert queue.unavailable is None
        await queue.drain(1)

    asyncio.run(main())


def test_a_wrong_number_of_rows_is_a_failure_and_leaves_nobody_waiting():
    async def main():
        queue = batcher(lambda values, lengths: values[:0])
        submissions = [queue.submit(random_batch([1, 1], 2, seed)) for seed in range(3)]
        async with asyncio.timeout(5):
            results = await asyncio.gather(*submissions, return_exceptions=True)
        assert {type(result) for result in results} == {UnavailableError}
        assert "rows" in queue.unavailable
        assert queue.admitted_timesteps == 0
        await queue.drain(1)

    asyncio.run(main())


def test_the_loop_goes_on_while_a_call_that_nobody_waits_for_ends():
    def compute(values, lengths):
        time.sleep(0.5)
        return first_timesteps(values, lengths)

    async def main():
        queue = batcher(compute)
        with pytest.raises(DeadlineError):
            await queue.submit(random_batch([1], 2), time.monotonic() + 0.05)
        start = time.monotonic()
        assert await queue.drain(5)
        assert time.monotonic() - start < 0.3

    asyncio.run(main())


def test_many_waiting_jobs_cost_no_more_each():
    async def seconds(jobs):
        queue = batcher(first_timesteps, batch=50)
        # Of the processor: other processes on the machine must not count.
        start = time.process_time()
        await asyncio.gather(*(queue.submit(random_batch([1], 2)) for _ in range(jobs)))
        took = time.process_time() - start
        await queue.drain(1)
        return took

    few = min(asyncio.run(seconds(500)) for _ in range(3))
    many = min(asyncio.run(seconds(8_000)) for _ in range(2))
    assert many < 3 * 16 * few


def test_a_stuck_engine_does_not_keep_what_callers_have_left_behind():
    called, released = threading.Event(), threading.Event()

    def compute(values, lengths):
        called.set()
        released.wait(10)
        return first_timesteps(values, lengths)

    async def main():
        queue = batcher(compute)
        held = asyncio.create_task(queue.submit(random_batch([1], 2)))
        await asyncio.to_thread(called.wait, 10)
        left = []
        for _ in range(5):
            job = random_batch([5], 2)
            left.append(weakref.ref(job.values))
            with pytest.raises(DeadlineError):
                await queue.submit(job, time.monotonic() + 0.01)
            del job
        gc.collect()
        assert [reference() is None for reference in left] == [True] * 5
        assert queue.admitted_timesteps == 1
        released.set()
        await held
        await queue.drain(1)

    asyncio.run(main())


def test_rows_that_do_not_fit_fail_the_engine():
    async def main():
        queue = batcher(lambda values, lengths: first_timesteps(values, lengths)[1:])
        with pytest.raises(UnavailableError, match="1 rows came back for 2"):
            await queue.submit(random_batch([1, 2], 2))
        assert "1 rows" in queue.unavailable
        assert await queue.drain(1)

    asyncio.run(main())


def test_a_batcher_that_computed_nothing_drains():
    async def main():
        queue = batcher(first_timesteps)
        assert await queue.drain(1)
        with pytest.raises(UnavailableError, match="closed"):
            await queue.submit(random_batch([1], 2))

    asyncio.run(main())


def test_a_report_that_fails_leaves_nobody_waiting():
    def report(_):
        raise RuntimeError("no counter")

    async def main():
        queue = Batcher(
            first_timesteps,
            refused=(ValueError,),
            queue_timesteps=100,
            batch_timesteps=64,
            on_batch=report,
        )
        with pytest.raises(UnavailableError, match="no counter"):
            await queue.submit(random_batch([1, 2], 2))
        assert await queue.drain(1)

    asyncio.run(main())
