"""Signals that come while a process starts, before its server handles them.

SIGHUP is remembered until the packed file can be loaded again. SIGTERM and SIGINT end the process,
for nothing was accepted yet: also the first process of a container, which no signal without a
handler reaches.
"""

import os
import signal
import threading

_hangup = threading.Event()


def handle() -> None:
    """Handles them until other handlers take over."""
    signal.signal(signal.SIGHUP, lambda *_: _hangup.set())
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))


def hangup_came() -> bool:
    """Whether a SIGHUP has come."""
    return _hangup.is_set()
