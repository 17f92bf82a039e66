"""Log records of our own modules: as lines on the command's terminal, and in the log of worker processes.

Each module logs by `logging.getLogger(__name__)`. A record holds no text of a dataset and no secret.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator

_LOGGERS = tuple(map(logging.getLogger, ("pipeline", "preference_space", "prompts", "schemas")))
_TIMED = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
_PLAIN = logging.Formatter("%(levelname)s: %(message)s")


class _Lines(logging.Handler):
    def __init__(self, write: Callable[[str], object]) -> None:
        super().__init__()
        self._write = write

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._write(self.format(record))
        except Exception:  # A line that cannot be printed must not end the build.
            self.handleError(record)


@contextlib.contextmanager
def shown(level: int, write: Callable[[str], object]) -> Iterator[None]:
    """Pass each record from `level` on to `write` as one line within the block.

    The root logger gets none of these, so that its own level and handlers can keep Beam silent.
    """
    handler = _Lines(write)
    handler.setFormatter(_PLAIN if level >= logging.WARNING else _TIMED)
    before = [(logger, logger.level, logger.propagate) for logger in _LOGGERS]
    for logger in _LOGGERS:
        logger.addHandler(handler)
        logger.setLevel(level)
        logger.propagate = False
    try:
        yield
    finally:
        for logger, old_level, old_propagate in before:
            logger.removeHandler(handler)
            logger.setLevel(old_level)
            logger.propagate = old_propagate
