import asyncio
import threading
import time

import numpy as np
import pytest

from tests.builders import random_batch
from tritserve.service.embedding.batcher import Batcher
from tritserve.service.errors import DeadlineError, QueueFullError, UnavailableError


class Engine:
    """Sums each sequence; refuses NaN, fails on infinity, can be held."""

    def __init__(self):
        self.batches = []
        self.open = threading.Event()
        self.open.set()
        self.called = threading.Event()

    def __call__(self, values, lengths):
        self.batches.append((len(values), lengths.tolist()))
        self.called.set()
        assert self.open.wait(10)
        if np.isinf(values).any():
            raise OSError("disk on fire")
        if np.isnan(values).any():
            raise ValueError("a NaN")
        starts = np.cumsum(lengths) - lengths
        return np.add.reduceat(values, starts).astype(np.float32)

    async def until_called(self):
        await asyncio.to_thread(self.called.wait, 10)


def batcher(engine, queue=1000, batch=64, **options):
    return Batcher(
        engine, refused=(ValueError,), queue_timesteps=queue, batch_timesteps=batch, **options
    )


def expected(batch):
    return np.stack([part.sum(0) for part in batch.split()])


def test_many_jobs_get_their_own_rows():
    async def main():
        engine = Engine()
        queue = batcher(engine)
        jobs = [random_batch([1 + i % 7, 3, 2], 2, i) for i in range(40)]
        results = await asyncio.gather(*(queue.submit(job) for job in jobs))
        for job, result in zip(jobs, results, strict=True):
            np.testing.assert_allclose(result.rows, expected(job), rtol=1e-5)
            assert result.compute_seconds > 0
        assert len(engine.batches) < len(jobs)
        assert all(timesteps <= 64 for timesteps, _ in engine.batches)
        assert (queue.admitted_requests, queue.admitted_timesteps) == (0, 0)
        assert await queue.drain(1)

    asyncio.run(main())


def test_a_batch_forms_while_the_engine_is_busy():
    async def main():
        engine = Engine()
        queue = batcher(engine)
        engine.open.clear()
        first = asyncio.create_task(queue.submit(random_batch([2], 2)))
        await engine.until_called()
        others = [asyncio.create_task(queue.submit(random_batch([2], 2, i))) for i in range(5)]
        await asyncio.sleep(0.05)
        assert len(engine.batches) == 1
        engine.open.set()
        await asyncio.gather(first, *others)
        assert [timesteps for timesteps, _ in engine.batches] == [2, 10]
        await queue.drain(1)

    asyncio.run(main())


def test_a_large_job_is_split_and_does_not_starve_small_ones():
    async def main():
        engine = Engine()
        queue = batcher(engine, queue=10_000, batch=64)
        large = random_batch([4] * 1000, 2)
        done = []

        async def run(name, job):
            result = await queue.submit(job)
            done.append(name)
            np.testing.assert_allclose(result.rows, expected(job), rtol=1e-4, atol=1e-5)

        engine.open.clear()
        task = asyncio.create_task(run("large", large))
        await engine.until_called()
        small = [asyncio.create_task(run(i, random_batch([4], 2, i))) for i in range(20)]
        await asyncio.sleep(0)
        engine.open.set()
        await asyncio.gather(*small)
        assert "large" not in done
        assert len(engine.batches) < 10
        await task
        assert len(engine.batches) >= 4000 / 64
        await queue.drain(1)

    asyncio.run(main())


def test_a_sequence_longer_than_the_budget_goes_alone():
    async def main():
        engine = Engine()
        queue = batcher(engine, batch=8)
        batch = random_batch([3, 50, 3], 2)
        np.testing.assert_allclose((await queue.submit(batch)).rows, expected(batch), rtol=1e-4)
        assert [50] in [lengths for _, lengths in engine.batches]
        await queue.drain(1)

    asyncio.run(main())


def test_a_full_queue_refuses_and_tells_when():
    async def main():
        engine = Engine()
        queue = batcher(engine, queue=100)
        engine.open.clear()
        held = asyncio.create_task(queue.submit(random_batch([60], 2)))
        await engine.until_called()
        for lengths in ([41], [1] * 41):
            with pytest.raises(QueueFullError) as caught:
                await queue.submit(random_batch(lengths, 2))
            assert caught.value.retry_after >= 1
        more = asyncio.create_task(queue.submit(random_batch([40], 2)))
        await asyncio.sleep(0)
        engine.open.set()
        await asyncio.gather(held, more)
        # Larger than the whole limit: goes when nothing else is there.
        assert len((await queue.submit(random_batch([1] * 500, 2))).rows) == 500
        await queue.drain(1)

    asyncio.run(main())


def test_a_caller_that_leaves_frees_its_place_and_is_not_computed():
    async def main():
        engine = Engine()
        queue = batcher(engine, queue=100)
        engine.open.clear()
        held = asyncio.create_task(queue.submit(random_batch([10], 2)))
        await engine.until_called()
        leaving = asyncio.create_task(queue.submit(random_batch([90], 2)))
        await asyncio.sleep(0.01)
        assert queue.admitted_timesteps == 100
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        assert queue.admitted_timesteps == 10
        staying = asyncio.create_task(queue.submit(random_batch([90], 2)))
        await asyncio.sleep(0.01)
        # The running job's caller leaves, too.
        held.cancel()
        engine.open.set()
        await staying
        assert queue.admitted_requests == 0
        assert [timesteps for timesteps, _ in engine.batches] == [10, 90]
        await queue.drain(1)

    asyncio.run(main())


def test_a_job_past_its_deadline_is_not_computed():
    async def main():
        engine = Engine()
        queue = batcher(engine)
        engine.open.clear()
        held = asyncio.create_task(queue.submit(random_batch([1], 2)))
        await engine.until_called()
        with pytest.raises(DeadlineError):
            await queue.submit(random_batch([7], 2), time.monotonic() + 0.05)
        with pytest.raises(DeadlineError):
            await queue.submit(random_batch([7], 2), time.monotonic() - 1)
        engine.open.set()
        await held
        await queue.submit(random_batch([3], 2))
        assert [timesteps for timesteps, _ in engine.batches] == [1, 3]
        await queue.drain(1)

    asyncio.run(main())


def test_a_bad_job_never_touches_its_neighbours():
    async def main():
        engine = Engine()
        queue = batcher(engine)
        engine.open.clear()
        held = asyncio.create_task(queue.submit(random_batch([1], 2)))
        await engine.until_called()
        bad = random_batch([2, 2], 2)
        bad.values[3] = np.nan
        good = [random_batch([3], 2, i) for i in range(3)]
        tasks = [asyncio.create_task(queue.submit(job)) for job in (good[0], bad, *good[1:])]
        await asyncio.sleep(0.01)
        engine.open.set()
        results = await asyncio.gather(held, *tasks, return_exceptions=True)
        assert isinstance(results[2].__cause__, ValueError)
        for job, result in zip(good, [results[1], *results[3:]], strict=True):
            np.testing.assert_allclose(result.rows, expected(job), rtol=1e-5)
        assert queue.unavailable is None
        assert queue.admitted_requests == 0
        await queue.drain(1)

    asyncio.run(main())


def test_a_failing_engine_answers_everyone_and_says_why():
    async def main():
        engine = Engine()
        queue = batcher(engine, batch=4)
        engine.open.clear()
        bad = random_batch([2], 2)
        bad.values[:] = np.inf
        tasks = [asyncio.create_task(queue.submit(bad))]
        await engine.until_called()
        tasks += [asyncio.create_task(queue.submit(random_batch([3], 2))) for _ in range(3)]
        await asyncio.sleep(0.01)
        engine.open.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(result, UnavailableError) for result in results)
        assert "disk on fire" in queue.unavailable
        with pytest.raises(UnavailableError, match="disk on fire"):
            await queue.submit(random_batch([1], 2))
        assert queue.admitted_requests == 0
        assert await queue.drain(1)

    asyncio.run(main())


def test_draining_finishes_what_was_accepted():
    async def main():
        engine = Engine()
        queue = batcher(engine, batch=4)
        engine.open.clear()
        tasks = [asyncio.create_task(queue.submit(random_batch([3], 2))) for _ in range(5)]
        await engine.until_called()
        drain = asyncio.create_task(queue.drain(5))
        await asyncio.sleep(0.01)
        with pytest.raises(UnavailableError, match="closed"):
            await queue.submit(random_batch([1], 2))
        engine.open.set()
        assert await drain
        assert len(await asyncio.gather(*tasks)) == 5

    asyncio.run(main())


def test_draining_gives_up_in_time_and_answers_everyone():
    async def main():
        engine = Engine()
        queue = batcher(engine, batch=4)
        engine.open.clear()
        tasks = [asyncio.create_task(queue.submit(random_batch([3], 2))) for _ in range(5)]
        await engine.until_called()
        assert not await queue.drain(0.05)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(result, UnavailableError) for result in results)
        engine.open.set()

    asyncio.run(main())
