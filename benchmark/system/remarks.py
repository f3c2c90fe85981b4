"""Lines for the person who runs this, from wherever work is done: the command line prints them, Ray's workers send them
to their driver, and in a notebook `logging` shows them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache

LOG = logging.getLogger("al_benchmark")


class RemarkHandler(logging.Handler):
    """Passes each line on."""

    def __init__(self, say: Callable[[str], object]) -> None:
        super().__init__()
        self.say = say

    def emit(self, record: logging.LogRecord) -> None:
        """Passes a line on."""
        self.say(record.getMessage())


def send_remarks_to(say: Callable[[str], object]) -> None:
    """Has lines passed to `say` from now on, and to nobody who listened before."""
    for handler in [*LOG.handlers]:
        if isinstance(handler, RemarkHandler):
            LOG.removeHandler(handler)
    LOG.addHandler(RemarkHandler(say))


def remark(line: str) -> None:
    """Says a line."""
    LOG.warning("%s", line)


@cache
def remark_once(line: str) -> None:
    """Says a line, once a process."""
    remark(line)
