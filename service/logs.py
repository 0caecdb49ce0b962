"""What the process writes to its log: one JSON object a line, or text for a terminal.

Every logger of the standard library goes through the same structlog formatter, uvicorn's too, so
that each line of a request carries its `request_id`, bound in `access.py`. Lines tell of requests,
never what is in them.
"""

import logging.config
import sys
from typing import Any

import orjson
import structlog
from structlog.types import EventDict, Processor

from service.settings import Settings


def configure(settings: Settings) -> None:
    """Sets up logging for this process, on its standard error."""
    console = settings.log_format == "console" or (
        settings.log_format == "auto" and sys.stderr.isatty()
    )
    render: list[Processor]
    if console:
        # Plain: structlog's default would show local variables, and with them keys and payloads.
        exceptions = structlog.dev.plain_traceback
        render = [structlog.dev.ConsoleRenderer(exception_formatter=exceptions)]
    else:
        render = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(_dumps)]
    level = settings.log_level.upper()
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"line": {"()": _formatter, "render": render}},
            "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
            # Other libraries log each of their requests at info.
            "root": {"handlers": ["stderr"], "level": max(level, "WARNING", key=_number)},
            "loggers": {name: {"level": level} for name in ("tritserve", "uvicorn")},
        }
    )


def _number(level: str) -> int:
    return logging.getLevelNamesMapping()[level]


def _formatter(render: list[Processor]) -> logging.Formatter:
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.stdlib.ExtraAdder(),
        ],
        processors=[_drop_internals, *render],
    )


def _drop_internals(_: Any, __: str, event: EventDict) -> EventDict:
    # The record, structlog's mark, and uvicorn's message again with colors.
    for name in ("_record", "_from_structlog", "color_message"):
        event.pop(name, None)
    return event


def _dumps(event: EventDict, **_: Any) -> str:
    return orjson.dumps(event, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
