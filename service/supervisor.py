"""Several server processes on one port.

The supervisor opens the listening socket and hands it to every worker, an ordinary server process.
A worker that dies is replaced, and what it held is lost; signals are passed on to all. The
workers count in one folder of the supervisor's. It ends when its workers have.
"""

import logging
import multiprocessing
import os
import shutil
import signal
import socket
import threading
import time
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess, parent_process
from tempfile import TemporaryDirectory
from types import FrameType

from prometheus_client.multiprocess import mark_process_dead

from service import logs
from service.metrics import SHARED_FOLDER
from service.server import run
from service.settings import Settings

log = logging.getLogger("tritserve")

# A worker that dies sooner could not start; the next one waits as long.
SHORT_LIFE_SECONDS = 1.0
BACKLOG = 2048
SHARED_MEMORY = "/dev/shm"


class Supervisor:
    """Keeps `settings.workers` server processes alive on one listening socket.

    Raises:
        OSError: the address cannot be had.
    """

    def __init__(self, settings: Settings) -> None:
        logs.configure(settings)
        self._settings = settings
        self._listener = socket.create_server((settings.host, settings.port), backlog=BACKLOG)
        self._context = multiprocessing.get_context("spawn")
        self._workers: dict[int, BaseProcess] = {}
        self._started: dict[int, float] = {}
        self._stopping = False

    def run(self) -> int:
        """Runs until a signal ends it.

        Returns:
            The status to exit with: 0 if every worker finished what it had accepted.
        """
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._pass_on)
        memory = SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else None
        with TemporaryDirectory(prefix="tritserve-", dir=memory) as folder:
            os.environ[SHARED_FOLDER] = folder
            for slot in range(self._settings.workers):
                self._start(slot)
            status = self._keep_alive()
        self._listener.close()
        return status

    def _keep_alive(self) -> int:
        status = 0
        while self._workers:
            wait([worker.sentinel for worker in self._workers.values()], timeout=1.0)
            for slot, worker in list(self._workers.items()):
                if worker.exitcode is None:
                    continue
                del self._workers[slot]
                # It no longer has anything open or waiting; what it counted stays.
                mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]
                if self._stopping:
                    # One that the signal met before it could handle it had accepted nothing.
                    in_order = worker.exitcode in {0, -signal.SIGTERM}
                    status = max(status, int(not in_order))
                else:
                    self._replace(slot, worker.exitcode)
        return status

    def _start(self, slot: int) -> None:
        worker = self._context.Process(target=_work, args=(self._settings, self._listener))
        worker.start()
        self._workers[slot] = worker
        self._started[slot] = time.monotonic()
        if self._stopping:
            # The signal came while this worker was being started.
            worker.terminate()

    def _replace(self, slot: int, exitcode: int) -> None:
        log.error("worker %d ended with status %d; another one starts", slot, exitcode)
        if time.monotonic() - self._started[slot] < SHORT_LIFE_SECONDS:
            time.sleep(SHORT_LIFE_SECONDS)
        self._start(slot)

    def _pass_on(self, number: int, _: FrameType | None) -> None:
        self._stopping = self._stopping or number != signal.SIGHUP
        for worker in self._workers.values():
            if worker.pid is not None and worker.exitcode is None:
                os.kill(worker.pid, number)


def _work(settings: Settings, listener: socket.socket) -> None:
    # Ctrl-C reaches the whole process group; a worker must see it once, from the supervisor.
    os.setpgrp()
    # Until the server takes over, nothing was accepted and nothing is lost.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    signal.signal(signal.SIGINT, lambda *_: os._exit(0))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    run(settings, listener)


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        shutil.rmtree(os.environ[SHARED_FOLDER], ignore_errors=True)
        os.kill(os.getpid(), signal.SIGTERM)
