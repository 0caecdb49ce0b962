"""One server process, from settings to exit.

A first SIGTERM or SIGINT makes the service say that it is not ready, finishes every accepted
request, and ends the process with status 0. What is not finished after `drain_seconds` is answered
503, and the status is 1. A second signal ends it at once, with status 1. SIGHUP loads the packed
file again, and reads API keys and the certificate again; of what is broken, the old goes on.
"""

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

import uvicorn

from tritserve.service.app import create_app
from tritserve.service.embedding.served import load_engine
from tritserve.service.embedding.service import EmbeddingService
from tritserve.service.http import listening
from tritserve.service.http.connections import guarded
from tritserve.service.http.credentials import Credentials
from tritserve.service.http.tls import Handshakes
from tritserve.service.observing import logs, tracing
from tritserve.service.oip.grpc import extra as grpc_extra
from tritserve.service.process import early_signals, open_files
from tritserve.service.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

log = logging.getLogger("tritserve")

# For connections that are still open when the service has finished, or given up.
CLOSE_SECONDS = 5
SWITCH_SECONDS = 50e-6


class _Server(uvicorn.Server):
    """uvicorn's server with our signals."""

    def __init__(
        self,
        config: uvicorn.Config,
        service: EmbeddingService,
        traces: "TracerProvider | None",
        worker: int | None,
    ) -> None:
        super().__init__(config)
        self._service = service
        self._traces = traces
        self._worker = worker
        self._asked_to_exit = False
        self._accepting: list[asyncio.Task[None]] = []
        self._tasks: set[asyncio.Task[Any]] = set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        loop.add_signal_handler(signal.SIGHUP, self._start, self._service.reload_or_log)
        if early_signals.hangup_came():
            self._start(self._service.reload_or_log)
        yield

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._asked_to_exit:
            log.warning("a second signal: ending at once")
            os._exit(1)
        self._asked_to_exit = True
        log.info("%s: finishing what was accepted", signal.Signals(sig).name)
        self._start(self._exit_when_finished)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        credentials = self._service.credentials
        if credentials.context is None or sockets is None:
            await super().startup(sockets)
            return
        await super().startup([])
        settings, metrics = self._service.settings, self._service.metrics
        make, context = self._make_protocol, lambda: credentials.context
        handshakes = Handshakes(make, context, settings, metrics)
        for listener in sockets:
            self._accepting.append(asyncio.create_task(handshakes.accept(listener)))

    def _make_protocol(self) -> Any:
        return self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for task in self._accepting:
            task.cancel()
        await asyncio.gather(*self._accepting, return_exceptions=True)
        await super().shutdown(sockets)

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        await super().serve(sockets)
        # Leaving the event loop, or the interpreter, would wait for threads, whatever they do.
        self._leave()

    def _leave(self) -> NoReturn:
        if self._worker is None:
            listening.remove(self._service.settings)
        if self._traces:
            tracing.finish(self._traces)
        if not self._service.finished:
            seconds = self._service.settings.drain_seconds
            log.error("not everything was finished in %g seconds", seconds)
        os._exit(0 if self._service.finished else 1)

    async def _exit_when_finished(self) -> None:
        await self._service.finish()
        self.should_exit = True

    async def main_loop(self) -> None:
        self._service.served.announce(self._service.address)
        await super().main_loop()

    def _start(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        task = asyncio.ensure_future(work())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def check(settings: Settings) -> None:
    """Raises SettingsError for settings that would keep a server process from starting."""
    grpc_extra.check(settings)
    Credentials(settings)
    grpc_extra.check_port(settings)


def run(
    settings: Settings,
    listeners: Sequence[socket.socket] = (),
    reload_others: Callable[[], None] = lambda: None,
    worker: int | None = None,
) -> None:
    """Serves until a signal ends the process.

    Args:
        settings: of the service.
        listeners: listening sockets to use instead of the settings' address.
        reload_others: makes the other workers load the packed file again.
        worker: this process's place among several.

    Raises:
        OSError: the packed file cannot be read, or the address cannot be had.
        PackedFileError: the packed file is not valid.
    """
    logs.configure(settings, worker)
    open_files.allow(settings)
    traces = tracing.start()
    app = create_app(settings, load_engine(settings), traces, reload_others)
    service: EmbeddingService = app.state.service
    tls = service.credentials.context is not None
    # Not uvicorn's: what keeps it from listening is an error like others, and the port is known.
    listeners = listeners or listening.listen(settings, settings.port)
    config = uvicorn.Config(
        app,
        http=guarded(settings, service.metrics),
        ws="none",
        access_log=False,
        proxy_headers=False,
        log_config=None,
        server_header=False,
        timeout_keep_alive=settings.keep_alive_seconds,
        timeout_graceful_shutdown=CLOSE_SECONDS,
    )
    scheme = "https" if tls else "http"
    service.address = (
        settings.host
        if settings.socket_path
        else f"{scheme}://{settings.url_host}:{listeners[0].getsockname()[1]}"
    )
    # The event loop and the engine hand the interpreter to each other with every batch; at the
    # default of 5 ms the engine would wait for it as long as it computes.
    sys.setswitchinterval(SWITCH_SECONDS)
    # What is there now lives as long as the process: no use in looking through it for garbage.
    gc.collect()
    gc.freeze()
    _Server(config, service, traces, worker).run([*listeners])
