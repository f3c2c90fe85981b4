"""Lines for the user from anywhere in the code: the command line prints them, workers send them to their driver, and
in a notebook `logging` shows them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache

LOG = logging.getLogger("al_benchmark")


class RemarkHandler(logging.Handler):
    """A logging handler that passes each line to a function."""

    def __init__(self, say: Callable[[str], object]) -> None:
        super().__init__()
        self.say = say

    def emit(self, record: logging.LogRecord) -> None:
        """Passes a line on."""
        self.say(record.getMessage())


def send_remarks_to(say: Callable[[str], object]) -> None:
    """Passes all further remarks to `say`, and to no earlier function."""
    for handler in [*LOG.handlers]:
        if isinstance(handler, RemarkHandler):
            LOG.removeHandler(handler)
    LOG.addHandler(RemarkHandler(say))


def remark(line: str) -> None:
    """Shows a line to the user."""
    LOG.warning("%s", line)


@cache
def remark_once(line: str) -> None:
    """Shows a line to the user, once per process."""
    remark(line)
