"""SIGHUP while a process starts: remembered until it can load the packed file again."""

import signal
import threading

_asked = threading.Event()


def remember() -> None:
    """Keeps SIGHUP from ending the process, until another handler takes over."""
    signal.signal(signal.SIGHUP, lambda *_: _asked.set())


def remembered() -> bool:
    """Whether one has come."""
    return _asked.is_set()
