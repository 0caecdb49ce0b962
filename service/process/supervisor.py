"""Several server processes on one port.

The supervisor opens the listening sockets and hands them to every worker, an ordinary server
process. A worker that dies is replaced, and what it held is lost; signals are passed on to all. The
workers count in one folder of the supervisor's. It ends when its workers have.
"""

import logging
import multiprocessing
import os
import signal
import socket
import threading
import time
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess, parent_process
from pathlib import Path

from prometheus_client import values
from prometheus_client.multiprocess import mark_process_dead

from tritserve.service.http import listening
from tritserve.service.observing.metrics import SHARED_FOLDER
from tritserve.service.process import early_signals
from tritserve.service.process.server import run
from tritserve.service.process.shared_folder import remove, shared_folder
from tritserve.service.settings import Settings

log = logging.getLogger("tritserve")

# A worker that dies sooner was of no use; the next one waits, each time twice as long.
SHORT_LIFE_SECONDS = 10.0
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0
# After so many in a row, and if no other worker serves, the supervisor ends: whatever started it
# may know what to do.
MAX_SHORT_LIVES = 5
POLL_SECONDS = 0.5


@dataclass
class _Slot:
    """A place for a worker."""

    worker: BaseProcess | None = None
    started: float = 0.0
    short_lives: int = 0
    start_at: float = 0.0


class Supervisor:
    """Keeps `settings.workers` server processes alive on the same listening sockets.

    Raises:
        OSError: the address cannot be had.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._listeners = listening.listen(settings, settings.port)
        self._context = multiprocessing.get_context("spawn")
        self._slots = [_Slot() for _ in range(settings.workers)]
        # A worker that has loaded the packed file again asks by its place that the others do.
        self._asked, self._ask = self._context.Pipe(duplex=False)
        self._stopping = False
        self._status = 0

    def run(self) -> int:
        """Runs until a signal ends it.

        Returns:
            The status to exit with: 0 if every worker finished what it had accepted.
        """
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda number, _: self._pass_on(number))
        with shared_folder() as folder:
            if folder:
                os.environ[SHARED_FOLDER] = str(folder)
            while True:
                self._start_workers()
                running = [slot.worker.sentinel for slot in self._slots if slot.worker]
                if self._stopping and not running:
                    break
                wait([*running, self._asked], timeout=POLL_SECONDS)
                self._look_after_workers()
                while self._asked.poll():
                    self._pass_on(signal.SIGHUP, but=self._asked.recv())
        listening.remove(self._settings)
        return self._status

    def _start_workers(self) -> None:
        for index, slot in enumerate(self._slots):
            if slot.worker or self._stopping or time.monotonic() < slot.start_at:
                continue
            worker = self._context.Process(
                target=_work, args=(self._settings, self._listeners, index, self._ask)
            )
            # Until it handles this signal, it would die of it.
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
            worker.start()
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            slot.worker, slot.started = worker, time.monotonic()
            if self._stopping:
                # The signal came while this worker was being started.
                worker.terminate()

    def _look_after_workers(self) -> None:
        for index, slot in enumerate(self._slots):
            if slot.worker is None or slot.worker.exitcode is None:
                continue
            exitcode, slot.worker = slot.worker.exitcode, None
            if SHARED_FOLDER in os.environ:
                # It no longer has anything open or waiting; what it counted stays.
                mark_process_dead(index)  # type: ignore[no-untyped-call]
            if self._stopping:
                # One that the signal met before it could handle it had accepted nothing.
                in_order = exitcode in {0, -signal.SIGTERM}
                self._status = max(self._status, int(not in_order))
            else:
                self._plan_another(index, slot, exitcode)

    def _plan_another(self, index: int, slot: _Slot, exitcode: int) -> None:
        now = time.monotonic()
        slot.short_lives = slot.short_lives + 1 if now - slot.started < SHORT_LIFE_SECONDS else 0
        serving = any(s.worker and now - s.started >= SHORT_LIFE_SECONDS for s in self._slots)
        if slot.short_lives >= MAX_SHORT_LIVES and not serving:
            log.critical("worker %d ended with status %d again and again", index, exitcode)
            self._status = 1
            self._pass_on(signal.SIGTERM)
            return
        if slot.short_lives:
            pause = FIRST_PAUSE_SECONDS * 2 ** (slot.short_lives - 1)
            slot.start_at = now + min(pause, LONGEST_PAUSE_SECONDS)
        log.error("worker %d ended with status %d; another one starts", index, exitcode)

    def _pass_on(self, number: int, but: int | None = None) -> None:
        self._stopping = self._stopping or number != signal.SIGHUP
        for index, slot in enumerate(self._slots):
            if index == but:
                continue
            if slot.worker and slot.worker.pid is not None and slot.worker.exitcode is None:
                os.kill(slot.worker.pid, number)


def _work(
    settings: Settings, listeners: list[socket.socket], index: int, ask: "Connection[int, None]"
) -> None:
    early_signals.handle()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
    # Ctrl-C reaches the whole process group; a worker must see it once, from the supervisor.
    os.setpgrp()
    if SHARED_FOLDER in os.environ:
        # By its place and not by its process: one that takes a place goes on counting there.
        values.ValueClass = values.MultiProcessValue(process_identifier=lambda: index)  # type: ignore[no-untyped-call]
    threading.Thread(target=_end_with_parent, daemon=True).start()
    run(settings, listeners, partial(ask.send, index), worker=index)


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        if folder := os.environ.get(SHARED_FOLDER):
            remove(Path(folder))
        os.kill(os.getpid(), signal.SIGTERM)
