"""With this folder on PYTHONPATH no disk knows locks: what some network folders answer to flock."""

import errno
import fcntl
import os
from typing import Any


def flock(*_: Any) -> None:
    """No lock."""
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


fcntl.flock = flock
