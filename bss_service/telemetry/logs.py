"""Structured logs on standard error; what they hold of requests stays on its line and moves no cursor."""

import json
import logging
import sys
from collections.abc import MutableMapping
from typing import Any, Literal

import structlog

from bss_service.protocol.text import printable, printable_json

Format = Literal["console", "json"]


def set_up(log_format: Format) -> None:
    """Let the service and the libraries under it log in one format."""
    shared: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: structlog.typing.Processor
    if log_format == "json":
        frames = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)  # they may hold tokens
        shared.append(structlog.processors.ExceptionRenderer(frames))
        renderer = structlog.processors.JSONRenderer(serializer=_as_json)
    else:
        shared += [structlog.processors.format_exc_info, _escape]
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processor=renderer, foreign_pre_chain=shared))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)


def _as_json(event: Any, **options: Any) -> str:
    return printable_json(json.dumps(event, **options))


def _escape(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Texts with all that can't be printed escaped; a traceback keeps its lines, each indented."""
    for key, value in event.items():
        if key == "exception":
            event[key] = "\n".join(f"    {printable(line)}" for line in str(value).split("\n"))
        elif isinstance(value, str):
            event[key] = printable(value)
        elif not isinstance(value, int | float | None):
            event[key] = printable(repr(value))
    return event
