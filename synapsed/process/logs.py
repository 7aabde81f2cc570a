"""Logs on stderr: text for people at a terminal, one JSON object a line for everything else.

What a peer sends may end up in a message, so control characters never reach a terminal as such.
"""

import logging
import sys
import time
from typing import Any, TextIO

import msgspec

from synapsed.config.options import LogConfig

# These speak of every connection that breaks, which on the open internet is most of them; what
# matters of it the net layer says itself, as events.
_NOISY = {
    "libp2p": logging.CRITICAL,
    "multiaddr": logging.CRITICAL,
    "hypercorn": logging.WARNING,
    "httpx": logging.WARNING,
    "httpcore": logging.WARNING,
    "asyncio": logging.WARNING,
    "zeroconf": logging.ERROR,
}

_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if code != 10}
# Escape sequences aside, these turn the direction of what follows.
_CONTROL |= {code: f"\\u{code:04x}" for code in (0x202A, 0x202B, 0x202D, 0x202E, 0x2066, 0x2067)}

_COLOURS = {"WARNING": "33", "ERROR": "31", "CRITICAL": "1;31"}


class TextFormatter(logging.Formatter):
    """`07:31:02 info    net: message  key=value`, and a traceback below it."""

    def __init__(self, colour: bool) -> None:
        super().__init__()
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        at = time.strftime("%H:%M:%S", time.localtime(record.created))
        level = f"{record.levelname.lower():8}"
        if self._colour and record.levelname in _COLOURS:
            level = f"\x1b[{_COLOURS[record.levelname]}m{level}\x1b[0m"
        message = record.getMessage().replace("\n", "\n    ")
        fields = "".join(f" {key}={value}" for key, value in _fields(record).items())
        text = f"{record.name.removeprefix('synapsed.')}: {message}{fields}".translate(_CONTROL)
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info).translate(_CONTROL)
        return f"{at} {level} {text}"


class JsonFormatter(logging.Formatter):
    """One object a line: at (UTC), level, logger, message, the fields, and error (a traceback)."""

    def format(self, record: logging.LogRecord) -> str:
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "at": f"{at}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        fields = _fields(record)
        if fields:
            line["fields"] = fields
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line, enc_hook=str).decode()


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields: dict[str, Any] = getattr(record, "fields", {})
    return fields


def configure(config: LogConfig, stream: TextIO | None = None) -> None:
    """Send everything to `stream` (stderr if None) as the config says. May be called again."""
    stream = stream or sys.stderr
    text = config.format == "text" or (config.format == "auto" and stream.isatty())
    handler = logging.StreamHandler(stream)
    handler.setFormatter(TextFormatter(colour=stream.isatty()) if text else JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(config.level.upper())
    # A terminal that was closed must not fill up with complaints about itself.
    logging.raiseExceptions = False
    tame()


def tame() -> None:
    """Quieten libraries. Again after importing libp2p, which cuts its logger off on import."""
    for name, level in _NOISY.items():
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(level)
