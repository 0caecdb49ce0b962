"""Jobs that cannot be computed in one call take turns; no kind waits for another to end."""

import asyncio
import threading

import numpy as np

from tests.builders import random_batch
from tritserve.service.embedding.batcher import Batcher
from tritserve.service.forms.cost import Cost


class Engine:
    """Repeats the first timestep of each sequence `times`; the first call waits until opened."""

    def __init__(self):
        self.calls = []
        self.called, self.opened = threading.Event(), threading.Event()

    def __call__(self, values, lengths, times=1):
        self.calls.append((values.shape[1], times, len(lengths)))
        self.called.set()
        assert self.opened.wait(30)
        return np.repeat(values[np.cumsum(lengths) - lengths], times, axis=1)


def computed(jobs, batch_timesteps, cost=None):
    """The calls that jobs make which wait for the first of them; all answers are right."""
    engine = Engine()
    options = {"cost": cost} if cost else {}

    async def main():
        queue = Batcher(
            engine,
            refused=(),
            queue_timesteps=100_000,
            batch_timesteps=batch_timesteps,
            **options,
        )
        tasks = [asyncio.create_task(queue.submit(*jobs[0][:1], **jobs[0][1]))]
        await asyncio.to_thread(engine.called.wait, 30)
        tasks += [asyncio.create_task(queue.submit(batch, **more)) for batch, more in jobs[1:]]
        await asyncio.sleep(0)
        engine.opened.set()
        for (batch, more), result in zip(jobs, await asyncio.gather(*tasks), strict=True):
            firsts = np.stack([part[0] for part in batch.split()])
            np.testing.assert_array_equal(result.rows, np.tile(firsts, more.get("times", 1)))
        assert (queue.admitted_requests, queue.admitted_timesteps) == (0, 0)
        await queue.drain(1)

    asyncio.run(main())
    return engine.calls


def test_a_call_has_jobs_of_one_width_and_of_the_same_arguments():
    jobs = [(random_batch([1], 1), {})]
    for seed in range(3):
        jobs += [(random_batch([2, 1], width, seed), {}) for width in (1, 2)]
        jobs.append((random_batch([3], 1, seed), {"times": 2}))
    assert computed(jobs, 1000)[1:] == [(1, 1, 6), (2, 1, 6), (1, 2, 3)]


def test_a_large_job_of_one_width_does_not_hold_up_small_ones_of_another():
    jobs = [(random_batch([1], 1), {}), (random_batch([4] * 100, 2), {})]
    jobs += [(random_batch([4], 3, seed), {}) for seed in range(4)]
    calls = computed(jobs, 16)
    assert calls[1:3] == [(2, 1, 4), (3, 1, 4)]
    assert {width for width, *_ in calls[3:]} == {2}


def test_a_call_holds_what_sequences_cost_not_how_long_they_are():
    jobs = [(random_batch([1], 1), {}), (random_batch([10] * 12, 5), {})]
    calls = computed(jobs, 100, Cost(window=10, window_cost=4))
    assert [sequences for *_, sequences in calls[1:]] == [5, 5, 2]
