"""What the metrics tell of a service that is too slow."""

import asyncio
import threading

from tests.service.live import Watched, ask

BODY = {"sequences": [[[0.125] * 3]]}


def test_who_waits_in_vain_is_seen_in_the_queue(engine):
    gate, entered = threading.Event(), threading.Event()

    def compute(*_):
        entered.set()
        gate.wait(10)

    async def talk(client):
        async def queued():
            lines = (await client.get("/metrics")).text.splitlines()
            found = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
            return [float(found[f"tritserve_queue_seconds_{name}"]) for name in ("count", "sum")]

        held = asyncio.create_task(client.post("/embed", json=BODY))
        await asyncio.to_thread(entered.wait, 10)
        late = await client.post("/embed", json=BODY, headers={"X-Request-Timeout-Ms": "100"})
        assert late.status_code == 504
        count, seconds = await queued()
        assert count == 1
        assert seconds > 0.05
        gate.set()
        assert (await held).status_code == 200
        assert (await queued())[0] == 2

    ask(Watched(engine, compute), talk)
