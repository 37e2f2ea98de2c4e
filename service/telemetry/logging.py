"""One line for each thing that happened: readable on a terminal, JSON anywhere else.

Our own events and those of the libraries (through the standard library's ``logging``) go the same way.
"""

from __future__ import annotations

import io
import logging
import re
import sys
from typing import TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from service.core.errors import whereabouts
from service.telemetry.redaction import redact

#: The libraries' loggers say nothing below this, whatever our own level: at INFO httpx logs addresses with their query
#: (hostEmail=…) and uvicorn those of the requests.
_LIBRARIES = logging.WARNING


def configure(*, stream: TextIO, colours: bool, level: str = "info") -> None:
    """Send every log line to ``stream``: coloured where ``colours``, else one JSON object a line.

    ``level`` (debug, info, warning, error) is for our own events. Start uvicorn with ``log_config=None`` and
    ``access_log=False``, else it undoes this for its own loggers.
    """
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")  # a character that the terminal cannot show must not raise
    renderer = _renderer(colours)
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, *_processors(colours), renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=_Lines(stream),
        cache_logger_on_first_use=False,  # configuring again must reach every logger
    )
    _route_libraries(stream, _processors(colours), renderer)


def _processors(colours: bool) -> list[Processor]:
    clock = structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False, key="timestamp")
    stamp = clock if colours else structlog.processors.TimeStamper(fmt="iso", utc=True, key="timestamp")
    return [structlog.processors.add_log_level, stamp, name_the_error, redact, *([_shorten] if colours else [])]


def _renderer(colours: bool) -> Processor:
    if colours:
        return structlog.dev.ConsoleRenderer(colors=True, pad_event_to=26, sort_keys=False)
    return structlog.processors.JSONRenderer()


#: The ids of Webex's meetings and registrants, and of our events.
_ID = re.compile(r"[0-9a-f]{32}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def _shorten(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """For people: no trace, and of an id its first eight digits; with whole ones few lines fit a terminal."""
    event.pop("traceparent", None)
    ids = {name: value for name, value in event.items() if isinstance(value, str) and _ID.fullmatch(value)}
    return {**event, **{name: f"{value[:8]}…" for name, value in ids.items()}}


def _route_libraries(stream: TextIO, processors: list[Processor], renderer: Processor) -> None:
    handler = _Quiet(stream)
    handler.setLevel(_LIBRARIES)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, _first_line],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *processors, renderer],
        )
    )
    # aiokafka tells of every attempt, dozens of lines a second while a broker is away; our own bus says so once.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(_LIBRARIES)


def name_the_error(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Replace ``exc_info`` by the error's class and where it was raised; its message may hold personal data."""
    error = event.pop("exc_info", None)
    if isinstance(error, tuple):
        error = error[1]
    elif error is not None and not isinstance(error, BaseException):
        error = sys.exc_info()[1]
    if isinstance(error, BaseException):
        event.setdefault("error", type(error).__name__)
        event["at"] = whereabouts(error)
    return event


def _first_line(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """asyncio puts the repr of a failed task, and so its error's message, on the second line."""
    lines = str(event.get("event", "")).splitlines()
    event["event"] = lines[0] if lines else ""
    return event


class _Quiet(logging.StreamHandler[TextIO]):
    """The standard one shows a record that it cannot write, arguments and all, on stderr."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - its name in the standard library
        """Lose the line."""


class _Lines:
    """Writes lines; both structlog's factory and its logger. What cannot be written is lost: no work fails for its log."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __call__(self, *_: object) -> _Lines:
        return self

    def msg(self, line: str) -> None:
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except (OSError, ValueError):  # full, gone, or closed
            return

    debug = info = warning = error = critical = exception = msg
