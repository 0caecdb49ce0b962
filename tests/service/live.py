"""The application in this process, driven over HTTP without a socket."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import httpx
import numpy as np

from tritserve.model.engine.engine import Engine
from tritserve.service.app import create_app
from tritserve.service.settings import Settings

T = TypeVar("T")


@asynccontextmanager
async def live(
    engine: Any,
    traces: Any = None,
    reload_others: Callable[[], None] = lambda: None,
    **settings: Any,
) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(Settings(**settings), engine, traces, reload_others)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            yield client


def ask(engine: Any, talk: Callable[[httpx.AsyncClient], Awaitable[T]], **options: Any) -> T:
    """Runs a conversation with a fresh application around `engine`; options are those of `live`."""

    async def main() -> T:
        async with live(engine, **options) as client:
            return await talk(client)

    return asyncio.run(main())


class Watched:
    """An engine that does as another does, after `before` has seen the batch."""

    def __init__(self, engine: Engine, before: Callable[[np.ndarray, np.ndarray], None]) -> None:
        self.model, self.kernel, self.threads = engine.model, engine.kernel, engine.threads
        self._engine, self._before = engine, before

    def embed(self, values: np.ndarray, lengths: np.ndarray, **options: Any) -> np.ndarray:
        self._before(values, lengths)
        return self._engine.embed(values, lengths, **options)
