"""Where a long-running process writes what it does: lines for people, or JSON lines, on stderr or into a file."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any

import structlog

from fuseclient.errors import ClientError

if TYPE_CHECKING:
    from pathlib import Path

    from structlog.typing import Processor

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def configure_logs(level: str, form: str, path: Path | None) -> None:
    """Set up structlog for the process. `form` is 'console' or 'json'."""
    if level not in LEVELS or form not in ("console", "json"):
        raise ClientError(
            f"log level {level!r} or format {form!r} is unknown: use {'|'.join(LEVELS)} and console|json", exit_code=2
        )
    stream: Any = sys.stderr
    if path is not None:
        try:
            stream = path.open("a", buffering=1)
        except OSError as error:
            raise ClientError(f"cannot write the log file {path}: {error.strerror}") from error
    shared: list[Processor] = [structlog.processors.add_log_level, structlog.processors.TimeStamper(fmt="iso", utc=True)]
    last: Processor = (
        structlog.processors.JSONRenderer()
        if form == "json"
        else structlog.dev.ConsoleRenderer(colors=stream.isatty(), pad_event_to=30)
    )
    structlog.configure(
        processors=[*shared, structlog.processors.format_exc_info, last] if form == "json" else [*shared, last],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(file=stream),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=logging.WARNING, handlers=[_Forward()], force=True)  # others' libraries are chatty
    logging.getLogger("raft").setLevel(LEVELS[level])


class _Forward(logging.Handler):
    """What `raft` and libraries say through the standard library's logging looks like the rest."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            logger = structlog.get_logger(record.name)
            logger.log(record.levelno, record.getMessage(), exc_info=record.exc_info or None)
        except Exception:
            self.handleError(record)
