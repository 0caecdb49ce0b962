"""What the process writes to its log: one JSON object a line, or text for a terminal.

Every line has the same form, from whichever logger it comes: loggers of the standard library go
through structlog's formatter, uvicorn's too. Lines of requests (`observed.py`) go to structlog
directly, which takes a third of the time. All lines of a request carry its `request_id`. Lines
tell of requests, never what is in them.
"""

import logging.config
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import IO, Any, BinaryIO, TextIO, cast

import orjson
import structlog
from structlog.types import EventDict, Processor, WrappedLogger

from tritserve.model.text import printable
from tritserve.service.observing.notes import add_noted
from tritserve.service.settings import Settings


def configure(settings: Settings, worker: int | None = None) -> None:
    """Sets up logging for this process, on its standard error.

    Args:
        settings: of the service.
        worker: the process's place among several, which each of its lines then has.
    """
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    console = settings.log_format == "console" or (
        settings.log_format == "auto" and sys.stderr.isatty()
    )
    render: list[Processor]
    direct: list[Processor]
    factory: Callable[..., WrappedLogger]
    if console:
        # Plain: structlog's default would show local variables, and with them keys and payloads.
        exceptions = structlog.dev.plain_traceback
        renderer = structlog.dev.ConsoleRenderer(exception_formatter=exceptions)
        render = [_printable, renderer]
        direct = render
        factory = structlog.PrintLoggerFactory(cast("TextIO", _Unfailing(sys.stderr)))
    else:
        render = [structlog.processors.format_exc_info, _render_text]
        direct = [_render]
        factory = structlog.BytesLoggerFactory(cast("BinaryIO", _Unfailing(sys.stderr.buffer)))
    complete: list[Processor] = [_complete]
    if worker is not None:
        complete.append(partial(_mark, worker))
    structlog.configure(
        processors=[*complete, *direct],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=factory,
    )
    formatter = {
        "()": structlog.stdlib.ProcessorFormatter,
        "foreign_pre_chain": [*complete, structlog.stdlib.ExtraAdder()],
        "processors": [_drop_internals, *render],
    }
    # A warning of a library is a line like others.
    logging.captureWarnings(True)
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"line": formatter},
            "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
            # Other libraries log each of their requests at info.
            "root": {"handlers": ["stderr"], "level": max(level, logging.WARNING)},
            "loggers": {name: {"level": level} for name in ("tritserve", "uvicorn")},
        }
    )


class _Unfailing:
    """A stream whose failure ends no request: of a full disk, or a terminal that was closed."""

    def __init__(self, stream: IO[Any]) -> None:
        self._stream = stream

    def write(self, text: Any) -> None:
        with suppress(OSError):
            self._stream.write(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()


def _printable(_: Any, __: str, event: EventDict) -> EventDict:
    """What a client sent moves no terminal's cursor."""
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = printable(value)
    return event


def _drop_internals(_: Any, __: str, event: EventDict) -> EventDict:
    # The record, structlog's mark, and uvicorn's message again with colors.
    for name in ("_record", "_from_structlog", "color_message"):
        event.pop(name, None)
    return event


def _complete(logger: Any, method: str, event: EventDict) -> EventDict:
    # structlog has a processor for each; the line of every request goes through this.
    event = add_noted(logger, method, event)
    event["level"] = method
    event["timestamp"] = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    return event


def _mark(worker: int, _: Any, __: str, event: EventDict) -> EventDict:
    event["worker"] = worker
    return event


def _render(_: Any, __: str, event: EventDict) -> bytes:
    return orjson.dumps(event, default=str)


def _render_text(_: Any, __: str, event: EventDict) -> str:
    return orjson.dumps(event, default=str).decode()
